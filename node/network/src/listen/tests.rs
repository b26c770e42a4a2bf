use super::*;
use std::time::Duration;

fn route(vip: Option<&str>, ports: &[(u16, Option<u16>, &[&str])]) -> ServiceRoute {
    ServiceRoute {
        key: ServiceKey { namespace: "default".to_owned(), name: "web".to_owned() },
        cluster_ip: vip.map(|ip| ip.parse().unwrap()),
        external_ips: Vec::new(),
        affinity: Some(Duration::from_secs(1)),
        ports: ports
            .iter()
            .map(|(port, node_port, backends)| PortRoute {
                name: String::new(),
                port: *port,
                node_port: *node_port,
                protocol: Protocol::Tcp,
                backends: backends.iter().map(|b| b.parse().unwrap()).collect(),
            })
            .collect(),
    }
}

#[test]
fn sockets_for_services() {
    let loopback = Loopback { pods: "127.10.0.0/16".parse().unwrap(), unprivileged_start: 1024 };
    for (route, expected) in [
        (
            route(Some("127.11.0.5"), &[(80, None, &["127.10.1.1:8080"])]),
            &["127.11.0.5:10080 -> 127.10.1.1:8080"][..],
        ),
        (
            route(Some("127.11.0.5"), &[(8080, Some(30080), &["127.10.1.1:80", "127.0.0.1:443"])]),
            &[
                "127.11.0.5:8080 -> 127.10.1.1:10080 127.0.0.1:443",
                "127.0.0.1:30080 -> 127.10.1.1:10080 127.0.0.1:443",
            ],
        ),
        (route(Some("127.11.0.5"), &[(80, Some(30080), &[])]), &[]),
        (route(None, &[(80, None, &["127.10.1.1:80"])]), &[]),
    ] {
        let listens = loopback.listens([&route]);
        let found: Vec<String> = listens
            .iter()
            .map(|l| {
                let backends: Vec<String> = l.backends.iter().map(ToString::to_string).collect();
                format!("{} -> {}", l.address, backends.join(" "))
            })
            .collect();
        assert_eq!(found, expected);
        assert!(listens.iter().all(|l| l.affinity));
    }
}
