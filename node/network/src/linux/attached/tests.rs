use std::collections::BTreeSet;

use super::*;

fn config(id: &str, pods: &str) -> PodNetworkConfig {
    PodNetworkConfig {
        id: id.to_owned(),
        netns: PathBuf::from("/run/netns/coracle-x"),
        pods: pods.parse().unwrap(),
        cluster: pods.parse().unwrap(),
        tunnel: 1,
        services: "10.9.0.0/16".parse().unwrap(),
    }
}

#[test]
fn links_are_called_by_their_addresses() {
    let config = config("0123abcd", "10.70.0.0/16");
    let mut names = BTreeSet::new();
    for offset in 0..=u16::MAX {
        let address = Ipv4Addr::from(u32::from(config.pods.base()) + u32::from(offset));
        let name = link_name(&config, address).unwrap();
        assert_eq!(address_of(&config, &name), Some(address), "{name}");
        assert!(name.len() <= 15 && name.starts_with("cor-0123abcd"));
        // Isolation groups have hexadecimal digits there.
        assert!(
            !name.as_bytes()[12].is_ascii_hexdigit() || name.as_bytes()[12].is_ascii_uppercase()
        );
        names.insert(name);
    }
    assert_eq!(names.len(), 1 << 16);
    for other in ["cor-0123abcd", "cor-0123abcd001", "cor-0123abcdfff", "cor-0123abcdg-0", "eth0"] {
        assert_eq!(address_of(&config, other), None, "{other}");
    }
    let outside = link_name(&config, "10.71.0.1".parse().unwrap()).unwrap_err().to_string();
    assert!(outside.contains("10.71.0.1") && outside.contains("not of this node's range"));
}

#[test]
fn what_cannot_be_named_is_refused() {
    let address = "10.70.1.1".parse().unwrap();
    let long = link_name(&config("0123456789a", "10.70.0.0/16"), address).unwrap_err();
    assert!(long.to_string().contains("id is too long"));
    let config = config("x", "10.70.0.0/16");
    for uid in ["", "..", "a/b", "a\0b"] {
        // Two dots are a name like any other behind the cluster's own.
        assert_eq!(netns(&config, uid).is_ok(), uid == "..", "{uid:?}");
    }
    let path = netns(&config, "0f-1").unwrap();
    assert_eq!(path, Path::new("/run/netns/coracle-x-pod-0f-1"));
}
