use super::header::{octal, time};

#[test]
fn numbers_are_octal_or_base_256() {
    for (field, expected) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b" 644 \0xx", Some(0o644)),
        (b"\0\0\0\0", Some(0)),
        (b"", Some(0)),
        (b"8", None),
        (b"-1", None),
        (b"7777777777777777777777777", None),
        (b"\x80\0\0\0\0\0\0\0\0\x02\0\0", Some(0x20000)),
        (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", Some(u64::MAX)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
    ] {
        assert_eq!(octal(field), expected, "{field:?}");
    }
}

#[test]
fn times_have_fractions() {
    for (text, expected) in [
        (&b"12"[..], Some((12, 0))),
        (b"12.5", Some((12, 500_000_000))),
        (b"12.0000000019", Some((12, 1))),
        (b"-1", Some((-1, 0))),
        (b"-1.25", Some((-2, 750_000_000))),
        (b"", None),
        (b"1e5", None),
        (b"1.x", None),
        (b"99999999999999999999", None),
    ] {
        assert_eq!(time(text), expected, "{text:?}");
    }
}
