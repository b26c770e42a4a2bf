use super::*;

fn addresses(range: &str) -> PodAddresses {
    PodAddresses::new(range.parse().unwrap())
}

#[test]
fn privileged_ports_move() {
    for (port, start, expected) in [
        (80, 1024, 10_080),
        (443, 1024, 10_443),
        (1024, 1024, 1024),
        (8080, 1024, 8080),
        (80, 0, 80),
        (80, 80, 80),
    ] {
        assert_eq!(listen_port(port, start), expected, "port {port}, start {start}");
    }
}

#[test]
fn a_slash_16_holds_more_than_65000_pods() {
    let mut pods = addresses("10.64.0.0/16");
    let mut seen = std::collections::HashSet::new();
    for n in 0..65_279 {
        assert!(seen.insert(pods.allocate(&format!("pod-{n}")).unwrap()));
    }
    assert!(!seen.contains(&Ipv4Addr::new(10, 64, 0, 1)), "the veth's address was handed out");
    assert!(
        !seen.contains(&Ipv4Addr::new(10, 64, 255, 255)),
        "the broadcast address was handed out"
    );
    let error = pods.allocate("one-more").unwrap_err();
    assert!(error.to_string().contains("10.64.0.0/16 is full"), "{error}");
    pods.release("pod-7");
    assert_eq!(pods.allocate("one-more").unwrap(), Ipv4Addr::new(10, 64, 1, 7));
}

#[test]
fn a_pod_keeps_its_address_and_a_freed_one_rests() {
    let mut pods = addresses("10.64.0.0/24");
    let a = pods.allocate("a").unwrap();
    assert_eq!(a, pods.allocate("a").unwrap());
    assert_eq!(pods.release("a"), Some(a));
    assert_eq!(pods.release("a"), None);
    let usable = 255 - 64;
    for n in 1..usable {
        assert_ne!(
            pods.allocate(&format!("b{n}")).unwrap(),
            a,
            "reused before the others had their turn"
        );
    }
    assert_eq!(pods.allocate("last").unwrap(), a);
}

#[test]
fn running_pods_are_adopted() {
    let mut pods = addresses("10.64.0.0/16");
    let address = Ipv4Addr::new(10, 64, 9, 9);
    pods.adopt("old", address).unwrap();
    pods.adopt("old", address).unwrap();
    assert_eq!(pods.allocate("old").unwrap(), address);
    assert_eq!(pods.allocate("new").unwrap(), Ipv4Addr::new(10, 64, 9, 10));
    assert_eq!(pods.len(), 2);
    for (uid, address, expected) in [
        ("x", Ipv4Addr::new(10, 65, 0, 9), "outside"),
        ("x", Ipv4Addr::new(10, 64, 0, 1), "outside"),
        ("x", address, "another Pod"),
    ] {
        let error = pods.adopt(uid, address).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
