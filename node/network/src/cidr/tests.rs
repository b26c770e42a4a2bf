use super::*;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn reads_and_writes() {
    for (input, expected) in [
        ("10.64.0.0/16", Some("10.64.0.0/16")),
        ("10.64.3.9/16", Some("10.64.0.0/16")),
        ("0.0.0.0/0", Some("0.0.0.0/0")),
        ("10.0.0.1/32", Some("10.0.0.1/32")),
        ("10.0.0.1/33", None),
        ("10.0.0.1", None),
        ("10.0.0/8", None),
        ("fd00::/8", None),
    ] {
        assert_eq!(
            input.parse::<Cidr>().ok().map(|c| c.to_string()).as_deref(),
            expected,
            "{input}"
        );
    }
    let json = serde_json::to_string(&cidr("10.1.0.0/16")).unwrap();
    assert_eq!(json, "\"10.1.0.0/16\"");
    assert_eq!(serde_json::from_str::<Cidr>(&json).unwrap(), cidr("10.1.0.0/16"));
}

#[test]
fn overlap_is_symmetric() {
    for (a, b, expected) in [
        ("10.0.0.0/8", "10.64.0.0/16", true),
        ("10.64.0.0/16", "10.65.0.0/16", false),
        ("10.64.0.0/16", "10.64.255.255/32", true),
        ("0.0.0.0/0", "192.168.0.0/24", true),
    ] {
        assert_eq!(cidr(a).overlaps(cidr(b)), expected, "{a} {b}");
        assert_eq!(cidr(b).overlaps(cidr(a)), expected, "{b} {a}");
    }
}

#[test]
fn parts_and_remainders() {
    let range = cidr("10.64.0.0/14");
    assert_eq!(range.part(16, 0), Some(cidr("10.64.0.0/16")));
    assert_eq!(range.part(16, 3), Some(cidr("10.67.0.0/16")));
    assert_eq!(range.part(16, 4), None);
    assert_eq!(range.part(13, 0), None);
    let rest = cidr("10.64.0.0/16").without_first(24);
    assert_eq!(rest.first(), Some(&cidr("10.64.1.0/24")));
    assert_eq!(rest.last(), Some(&cidr("10.64.128.0/17")));
    assert_eq!(rest.iter().map(|r| r.size()).sum::<u64>(), 65536 - 256);
    assert_eq!(cidr("10.64.0.0/16").nth(65535), Some(Ipv4Addr::new(10, 64, 255, 255)));
    assert_eq!(cidr("10.64.0.0/16").nth(65536), None);
}
