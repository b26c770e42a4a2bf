use super::*;
use crate::routes::PortRoute;

fn config(mode: Mode, ranges: ClusterRanges) -> Config {
    Config { mode, id: "unit".to_owned(), pods: ranges.pods, services: ranges.services }
}

fn route(ranges: &ClusterRanges) -> Arc<ServiceRoute> {
    let port = |name: &str, port, node_port, protocol| PortRoute {
        name: name.to_owned(),
        port,
        node_port,
        protocol,
        backends: vec![(ranges.pods.nth(300).unwrap(), 80).into()],
    };
    Arc::new(ServiceRoute {
        key: ServiceKey { namespace: "default".to_owned(), name: "web".to_owned() },
        cluster_ip: ranges.services.nth(7).map(Into::into),
        external_ips: Vec::new(),
        affinity: None,
        ports: vec![
            port("http", 80, Some(30080), Protocol::Tcp),
            port("https", 443, Some(30443), Protocol::Tcp),
            port("dns", 53, Some(30053), Protocol::Udp),
            port("admin", 9000, None, Protocol::Tcp),
        ],
    })
}

#[tokio::test]
async fn without_root_a_snapshot_tells_what_to_open() {
    let ranges = choose_ranges(Mode::Rootless, "/tmp/some/data").unwrap();
    let network = Network::start(config(Mode::Rootless, ranges)).await.unwrap();
    let other = choose_ranges(Mode::Rootless, "/tmp/some/data").unwrap();
    assert_ne!(other.pods, ranges.pods, "a running cluster's range was chosen again");
    assert_eq!(network.pod_netns(), None);
    let ip = network.allocate_pod_ip("a").unwrap();
    assert!(ip.is_loopback() && ranges.pods.contains(ip));
    network.release("a");

    let before = network.snapshot();
    let route = route(&ranges);
    network.apply(vec![RouteChange::Set(Arc::clone(&route))]).await.unwrap();
    let after = network.snapshot();
    assert!(after.generation > before.generation);
    assert_eq!(after.services, [Arc::clone(&route)]);
    let expected_port = listen_port(80, unprivileged_start());
    assert!(
        after
            .listen
            .iter()
            .any(|l| l.address.port() == expected_port && l.backends[0].port() == expected_port)
    );
    assert_eq!(network.urls(&route), ["http://127.0.0.1:30080", "https://127.0.0.1:30443"]);

    network.apply(vec![RouteChange::Gone(route.key.clone())]).await.unwrap();
    assert!(network.snapshot().services.is_empty());
    network.teardown().await.unwrap();
}
