use super::*;
use crate::routes::PortRoute;

fn route(vip: Option<&str>, ports: &[(u16, Option<u16>, &[&str])]) -> ServiceRoute {
    ServiceRoute {
        key: ServiceKey { namespace: "default".to_owned(), name: "web".to_owned() },
        cluster_ip: vip.map(|ip| ip.parse().unwrap()),
        ports: ports
            .iter()
            .map(|(port, node_port, backends)| PortRoute {
                name: String::new(),
                port: *port,
                node_port: *node_port,
                protocol: Protocol::Tcp,
                backends: backends.iter().map(|b| b.parse().unwrap()).collect(),
                ..PortRoute::default()
            })
            .collect(),
        ..ServiceRoute::default()
    }
}

#[test]
fn sockets_for_services() {
    let loopback = Loopback { pods: "127.10.0.0/16".parse().unwrap(), unprivileged_start: 1024 };
    let pod = &["127.10.1.1:8080"][..];
    for (route, expected) in [
        (route(Some("127.11.0.5"), &[(80, None, pod)]), &["127.11.0.5:10080 -> 80"][..]),
        (
            route(Some("127.11.0.5"), &[(8080, Some(30080), pod)]),
            &["127.11.0.5:8080 -> 8080", "127.0.0.1:30080 -> 8080"],
        ),
        (route(Some("127.11.0.5"), &[(80, Some(30080), &[])]), &[]),
        (route(None, &[(80, None, pod)]), &[]),
    ] {
        let listens = loopback.listens([&route]);
        let found: Vec<String> =
            listens.iter().map(|listen| format!("{} -> {}", listen.address, listen.port)).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn low_ports_of_pods_move() {
    let loopback = Loopback { pods: "127.10.0.0/16".parse().unwrap(), unprivileged_start: 1024 };
    for (backends, expected) in [
        (&["127.10.1.1:80", "127.0.0.1:443", "127.10.1.2:8080"][..], Some("127.10.1.1:10080")),
        (&["127.10.1.1:8080", "192.0.2.1:80"], None),
    ] {
        let before = route(Some("127.11.0.5"), &[(80, None, backends)]);
        let bound = loopback.bound(&before);
        assert_eq!(bound.as_ref().map(|r| r.ports[0].backends[0].to_string()).as_deref(), expected);
        if let Some(bound) = bound {
            assert_eq!(bound.ports[0].backends[1..], before.ports[0].backends[1..]);
        }
    }
}
