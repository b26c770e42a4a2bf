use super::*;
use crate::routes::PortRoute;
use std::sync::Arc;
use std::time::Duration;

fn backends(numbers: &[u8]) -> Vec<SocketAddrV4> {
    numbers.iter().map(|n| SocketAddrV4::new(Ipv4Addr::new(10, 8, 1, *n), 80)).collect()
}

fn route(name: &str, vip: [u8; 4], node_port: Option<u16>, numbers: &[u8]) -> RouteChange {
    RouteChange::Set(Arc::new(ServiceRoute {
        key: ServiceKey { namespace: "default".to_owned(), name: name.to_owned() },
        cluster_ip: Some(vip.into()),
        ports: vec![PortRoute {
            name: String::new(),
            port: 80,
            node_port,
            protocol: Protocol::Tcp,
            backends: backends(numbers).into_iter().map(SocketAddr::V4).collect(),
            ..PortRoute::default()
        }],
        ..ServiceRoute::default()
    }))
}

fn gone(name: &str) -> RouteChange {
    RouteChange::Gone(ServiceKey { namespace: "default".to_owned(), name: name.to_owned() })
}

#[test]
fn backends_keep_their_numbers() {
    for (before, wanted, expected) in [
        (&[][..], &[1, 2][..], &[1, 2][..]),
        (&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]),
        (&[1, 2, 3], &[2, 3], &[3, 2]),
        (&[1, 2, 3], &[1, 3, 4], &[1, 4, 3]),
        (&[3, 1], &[1, 3, 9], &[3, 1, 9]),
        (&[1, 2, 3, 4], &[4], &[4]),
        (&[1, 2, 3, 4], &[], &[]),
        (&[1, 2], &[3, 4], &[3, 4]),
    ] {
        assert_eq!(
            keep_slots(&backends(before), &backends(wanted)),
            backends(expected),
            "{before:?} {wanted:?}"
        );
    }
}

#[test]
fn one_endpoint_costs_a_few_elements() {
    let mut state = State::default();
    let many: Vec<u8> = (0..200).collect();
    let delta = state.update(Scope::Host, &[route("web", [10, 9, 0, 1], Some(30080), &many)]);
    assert_eq!(
        (delta.add_backends.len(), delta.add_services.len(), delta.new_classes.len()),
        (400, 2, 2)
    );
    let delta = state.update(Scope::Host, &[route("web", [10, 9, 0, 1], Some(30080), &many[1..])]);
    // For each of ClusterIP and NodePort: the freed number and the last one, whose backend moves there.
    assert_eq!((delta.remove_backends.len(), delta.add_backends.len()), (4, 2));
    assert_eq!((delta.remove_services.len(), delta.add_services.len()), (2, 2));
    assert_eq!((delta.new_classes.len(), delta.old_classes.len()), (2, 2));
    let delta = state.update(Scope::Host, &[route("web", [10, 9, 0, 1], Some(30080), &many[1..])]);
    assert_eq!(delta, Delta::default());
}

#[test]
fn services_without_backends_are_refused_by_the_machine_only() {
    let empty = || route("web", [10, 9, 0, 1], Some(30080), &[]);
    let mut host = State::default();
    assert_eq!(host.update(Scope::Host, &[empty()]).add_refused.len(), 2);
    assert_eq!(host.update(Scope::Host, &[empty()]), Delta::default());
    assert_eq!(host.update(Scope::Host, &[gone("web")]).remove_refused.len(), 2);
    let mut pods = State::default();
    assert_eq!(pods.update(Scope::Pods, &[empty()]), Delta::default());
    let delta = pods.update(Scope::Pods, &[route("web", [10, 9, 0, 1], Some(30080), &[1])]);
    assert_eq!(delta.add_services.len(), 1, "NodePorts are the machine's");
}

/// After any series of changes, the elements are those that a fresh table would hold.
#[test]
fn deltas_add_up() {
    let mut state = State::default();
    let mut services = BTreeSet::new();
    let mut found: HashMap<(Front, u32), SocketAddrV4> = HashMap::new();
    let mut refused = BTreeSet::new();
    let mut seed = 7u32;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % below
    };
    let mut current: BTreeMap<ServiceKey, RouteChange> = BTreeMap::new();
    for round in 0..2000 {
        let changes: Vec<RouteChange> = (0..=random(3))
            .map(|_| {
                let n = random(5) as u8;
                if random(6) == 0 {
                    return gone(&format!("s{n}"));
                }
                let numbers: BTreeSet<u8> = (0..random(6)).map(|_| random(9) as u8).collect();
                let numbers: Vec<u8> = numbers.into_iter().collect();
                route(
                    &format!("s{n}"),
                    [10, 9, 0, n],
                    n.is_multiple_of(2).then(|| 30_000 + u16::from(n)),
                    &numbers,
                )
            })
            .collect();
        for change in &changes {
            current.insert(change.key().clone(), change.clone());
        }
        let delta = state.update(Scope::Host, &changes);
        for front in &delta.remove_services {
            assert!(services.remove(front), "round {round}: {front:?} was not there");
        }
        for (front, _) in &delta.add_services {
            assert!(services.insert(*front), "round {round}: {front:?} is there already");
        }
        for (front, number) in &delta.remove_backends {
            assert!(found.remove(&(*front, *number)).is_some(), "round {round}");
        }
        for (front, number, backend) in &delta.add_backends {
            assert!(found.insert((*front, *number), *backend).is_none(), "round {round}");
        }
        for front in &delta.remove_refused {
            assert!(refused.remove(front), "round {round}");
        }
        for front in &delta.add_refused {
            assert!(refused.insert(*front), "round {round}");
        }
        let mut fresh = State::default();
        let all: Vec<RouteChange> = current.values().cloned().collect();
        let expected = fresh.update(Scope::Host, &all);
        assert_eq!(
            services,
            expected.add_services.iter().map(|(front, _)| *front).collect(),
            "round {round}"
        );
        assert_eq!(refused, expected.add_refused.iter().copied().collect(), "round {round}");
        assert_eq!(state.classes, fresh.classes, "round {round}");
        let set = |elements: &mut dyn Iterator<Item = (Front, SocketAddrV4)>| {
            elements.collect::<BTreeSet<_>>()
        };
        assert_eq!(
            set(&mut found.iter().map(|((front, _), backend)| (*front, *backend))),
            set(&mut expected.add_backends.iter().map(|(front, _, backend)| (*front, *backend))),
            "round {round}"
        );
        for front in &services {
            let count = found.keys().filter(|(f, _)| f == front).count() as u32;
            assert!(
                (0..count).all(|n| found.contains_key(&(*front, n))),
                "round {round}: a gap in {front:?}"
            );
        }
    }
}

#[test]
fn stickiness_changes_the_chain_only() {
    let mut state = State::default();
    state.update(Scope::Host, &[route("web", [10, 9, 0, 1], None, &[1, 2])]);
    let RouteChange::Set(sticky) = route("web", [10, 9, 0, 1], None, &[1, 2]) else { return };
    let mut sticky = ServiceRoute::clone(&sticky);
    sticky.affinity = Some(Duration::from_secs(5));
    let delta = state.update(Scope::Host, &[RouteChange::Set(Arc::new(sticky))]);
    assert_eq!(delta.add_services[0].1.chain(), "pick-sticky-5-2");
    assert!(delta.add_backends.is_empty() && delta.remove_backends.is_empty());
    assert_eq!(delta.add_stuck.len(), 2);
}
