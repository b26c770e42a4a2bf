use super::*;

fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[test]
fn root_ranges_avoid_what_is_taken() {
    for (seed, taken, pods, services) in [
        (0, &[][..], "10.8.0.0/14", "172.16.0.0/16"),
        (0, &["0.0.0.0/0"], "10.8.0.0/14", "172.16.0.0/16"),
        (1, &["10.14.3.0/24"], "10.16.0.0/14", "172.17.0.0/16"),
        (1, &["172.17.0.0/16", "172.18.9.0/24"], "10.12.0.0/14", "172.19.0.0/16"),
        (60, &["100.64.0.0/10"], "10.248.0.0/14", "172.16.0.0/16"),
        (61, &[], "10.8.0.0/14", "100.109.0.0/16"),
        (5, &["10.0.0.0/8"], "172.16.0.0/14", "172.21.0.0/16"),
        (5, &["10.0.0.0/8", "172.16.0.0/12"], "100.64.0.0/14", "100.68.0.0/16"),
        (5, &["172.16.0.0/12", "100.64.0.0/10"], "10.28.0.0/14", "10.8.0.0/16"),
    ] {
        let ranges = ClusterRanges::choose_root(seed, &cidrs(taken)).unwrap();
        assert_eq!(
            (ranges.pods.to_string().as_str(), ranges.services.to_string().as_str()),
            (pods, services)
        );
    }
    let all = cidrs(&["10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10"]);
    assert!(ClusterRanges::choose_root(1, &all).is_err());
}

#[test]
fn rootless_pairs_are_disjoint_and_avoid_claims() {
    let mut claimed: Vec<ClusterRanges> = Vec::new();
    for _ in 0..120 {
        let ranges = ClusterRanges::choose_rootless(119, |r| !claimed.contains(r)).unwrap();
        for other in &claimed {
            for (a, b) in [
                (ranges.pods, other.pods),
                (ranges.services, other.services),
                (ranges.pods, other.services),
            ] {
                assert!(!a.overlaps(b), "{a} {b}");
            }
        }
        assert!(!ranges.pods.overlaps(ranges.services) && ranges.pods.base().is_loopback());
        claimed.push(ranges);
    }
    assert!(ClusterRanges::choose_rootless(3, |_| false).is_err());
}

#[test]
fn seeds_differ_and_stay() {
    assert_eq!(seed(b"/var/lib/coracle"), seed(b"/var/lib/coracle"));
    assert_ne!(seed(b"/var/lib/coracle"), seed(b"/var/lib/coracle2"));
}

#[test]
fn networks_are_in_the_way_of_ranges() {
    let network = |(range, is_own): (&str, bool)| Neighbourhood {
        range: range.parse().unwrap(),
        link: "eth0".to_owned(),
        is_own,
    };
    for (found, expected) in [
        (&[][..], None),
        (&[("192.168.7.0/24", true)], None),
        (&[("10.9.3.0/24", true)], Some("10.9.3.0/24")),
        (&[("10.0.0.0/8", true)], Some("10.0.0.0/8")),
        (&[("10.0.0.0/8", false)], None),
        (&[("10.8.0.0/14", false)], Some("10.8.0.0/14")),
        (&[("10.0.0.0/8", false), ("10.11.255.0/24", false)], Some("10.11.255.0/24")),
        (&[("10.12.0.0/24", true), ("10.7.255.0/24", false)], None),
    ] {
        let found: Vec<Neighbourhood> = found.iter().copied().map(network).collect();
        let way = Neighbourhood::in_the_way(&found, "10.8.0.0/14".parse().unwrap());
        assert_eq!(way.map(|it| it.range.to_string()).as_deref(), expected, "{found:?}");
    }
}
