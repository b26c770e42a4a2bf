use super::*;

fn options(list: &[&str]) -> ResolverOpts {
    let dns = Dns {
        servers: vec![Ipv4Addr::LOCALHOST.into()],
        options: list.iter().map(|option| option.to_string()).collect(),
        ..Dns::default()
    };
    of_pod(&dns).unwrap().options().clone()
}

#[test]
fn a_pods_options_are_heeded_within_bounds() {
    let told = options(&["ndots:5", "timeout:2", "attempts:3", "edns0", "rotate:x"]);
    assert_eq!((told.ndots, told.timeout.as_secs(), told.attempts), (5, 2, 3));
    let wild = options(&["ndots:200", "timeout:0", "attempts:99"]);
    assert_eq!((wild.ndots, wild.timeout.as_secs(), wild.attempts), (15, 1, 5));
}

#[tokio::test]
async fn resolvers_are_shared_and_bounded() {
    let names = Names::default();
    let dns = |n: u32| Dns { servers: vec![IpAddr::V4(Ipv4Addr::from_bits(n))], ..Dns::default() };
    names.resolver(Some(&dns(1))).unwrap();
    names.resolver(Some(&dns(1))).unwrap();
    assert_eq!(names.0.lock().unwrap().len(), 1);
    for n in 0..600 {
        names.resolver(Some(&dns(n))).unwrap();
    }
    assert!(names.0.lock().unwrap().len() <= MOST);
}
