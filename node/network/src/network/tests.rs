use super::*;
use crate::routes::PortRoute;

fn config(mode: Mode, ranges: ClusterRanges) -> Config {
    let ClusterRanges { pods, services } = ranges;
    Config { mode, id: "unit".to_owned(), pods, cluster: pods, services, tunnel: 7 }
}

fn route(ranges: &ClusterRanges) -> Arc<ServiceRoute> {
    let port = |name: &str, port, node_port, protocol| PortRoute {
        name: name.to_owned(),
        port,
        node_port,
        protocol,
        backends: vec![(ranges.pods.nth(300).unwrap(), 80).into()],
        ..PortRoute::default()
    };
    Arc::new(ServiceRoute {
        key: ServiceKey { namespace: "default".to_owned(), name: "web".to_owned() },
        cluster_ip: ranges.services.nth(7).map(Into::into),
        ports: vec![
            port("http", 80, Some(30080), Protocol::Tcp),
            port("https", 443, Some(30443), Protocol::Tcp),
            port("dns", 53, Some(30053), Protocol::Udp),
            port("admin", 9000, None, Protocol::Tcp),
        ],
        ..ServiceRoute::default()
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
    let bound_port = listen_port(80, unprivileged_start());
    assert_eq!(after.services[0].key, route.key);
    assert_eq!(after.services[0].ports[0].backends[0].port(), bound_port);
    let expected = Listen {
        address: (route.cluster_ip.unwrap(), bound_port).into(),
        protocol: Protocol::Tcp,
        service: route.key.clone(),
        port: 80,
    };
    assert_eq!(after.listen[0], expected);
    assert_eq!(network.urls(&route), ["http://127.0.0.1:30080", "https://127.0.0.1:30443"]);

    network.apply(vec![RouteChange::Gone(route.key.clone())]).await.unwrap();
    assert!(network.snapshot().services.is_empty());
    // A hostPort is the proxy's to open, like a NodePort.
    let port = HostPort {
        address: None,
        port: 8088,
        protocol: Protocol::Tcp,
        target: SocketAddrV4::new(ip, 80),
    };
    network.set_host_ports("a", vec![port]).await.unwrap();
    let snapshot = network.snapshot();
    assert_eq!(snapshot.listen[0].address, "127.0.0.1:8088".parse().unwrap());
    let listened = snapshot.services.iter().find(|route| route.key == snapshot.listen[0].service);
    assert_eq!(listened.unwrap().ports[0].backends[0].port(), bound_port);
    assert_eq!(network.attach_pod("a", ip, None).await.unwrap(), None);
    network.set_host_ports("a", Vec::new()).await.unwrap();
    assert!(network.snapshot().listen.is_empty());
    network.teardown().await.unwrap();
}

/// Answers every connection of a namespace's port with the port's number.
fn answer(netns: &std::path::Path, port: u16) {
    let bind = move || TcpListener::bind(("0.0.0.0", port)).unwrap();
    let listener = linux::NetNs::ensure(netns).unwrap().run(bind).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, port.to_string().as_bytes());
        }
    });
}

fn answered(address: &str) -> Result<String, String> {
    let address = address.parse().unwrap();
    let wait = std::time::Duration::from_secs(3);
    let stream = std::net::TcpStream::connect_timeout(&address, wait);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream.map_err(|e| e.kind().to_string())?, &mut text)
        .map_err(|e| e.kind().to_string())?;
    Ok(text)
}

#[test]
fn ports_of_the_machine_lead_to_pods() {
    if Mode::detect() == Mode::Rootless {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: needs root\n");
        return;
    }
    linux::on_thread(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        linux::rtnl::with(async |rtnl: &linux::rtnl::Rtnl| {
            let lo = rtnl.link("lo").await?.unwrap();
            rtnl.up(lo).await?;
            rtnl.add_address(lo, Ipv4Addr::new(192, 0, 2, 1), 32).await?;
            rtnl.add_address(lo, Ipv4Addr::new(192, 0, 2, 2), 32).await
        })
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ranges = choose_ranges(Mode::Root, "/tmp/some/data").unwrap();
            let id = format!("h{}", std::process::id());
            let network =
                Network::start(Config { id, ..config(Mode::Root, ranges) }).await.unwrap();
            network.replace(vec![route(&ranges)]).await.unwrap();
            let ip = network.allocate_pod_ip("uid").unwrap();
            let netns = network.attach_pod("uid", ip, None).await.unwrap().unwrap();
            answer(&netns, 81);
            answer(&netns, 82);
            let port = |address: Option<&str>, port, target| HostPort {
                address: address.map(|a| a.parse().unwrap()),
                port,
                protocol: Protocol::Tcp,
                target: SocketAddrV4::new(ip, target),
            };
            let ports = vec![port(None, 7001, 81), port(Some("192.0.2.2"), 7002, 82)];
            network.set_host_ports("uid", ports.clone()).await.unwrap();
            for address in ["127.0.0.1:7001", "192.0.2.1:7001", "192.0.2.2:7001"] {
                assert_eq!(answered(address).as_deref(), Ok("81"), "{address}");
            }
            assert_eq!(answered("192.0.2.2:7002").as_deref(), Ok("82"));
            assert!(answered("192.0.2.1:7002").is_err() && answered("127.0.0.1:7002").is_err());
            // Services come and go beside them, and nobody finds them by name.
            network.replace(vec![route(&ranges)]).await.unwrap();
            assert_eq!(answered("127.0.0.1:7001").as_deref(), Ok("81"));
            assert_eq!(network.snapshot().services.len(), 1);
            network.set_host_ports("uid", vec![port(None, 7003, 82)]).await.unwrap();
            assert_eq!(answered("127.0.0.1:7003").as_deref(), Ok("82"));
            assert!(answered("127.0.0.1:7001").is_err() && answered("192.0.2.2:7002").is_err());
            network.set_host_ports("uid", Vec::new()).await.unwrap();
            assert!(answered("127.0.0.1:7003").is_err());
            network.sweep(BTreeMap::new()).await.unwrap();
            assert!(!netns.exists());
            network.detach_pod("uid").await.unwrap();
            network.teardown().await.unwrap();
        });
    });
}

/// The same calls as root, in a network namespace of the test's own.
#[test]
fn as_root_the_kernel_translates() {
    if Mode::detect() == Mode::Rootless {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"as_root_the_kernel_translates: skipped: needs root\n",
        );
        return;
    }
    crate::linux::on_thread(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ranges = choose_ranges(Mode::Root, "/tmp/some/data").unwrap();
            let id = format!("t{}", std::process::id());
            let network =
                Network::start(Config { id, ..config(Mode::Root, ranges) }).await.unwrap();
            let netns = network.pod_netns().unwrap().to_owned();
            assert!(netns.exists());
            let route = route(&ranges);
            network.replace(vec![Arc::clone(&route)]).await.unwrap();
            network
                .apply(vec![
                    RouteChange::Gone(route.key.clone()),
                    RouteChange::Set(Arc::clone(&route)),
                ])
                .await
                .unwrap();
            network.restore().await.unwrap();
            let snapshot = network.snapshot();
            assert_eq!((snapshot.services.len(), snapshot.listen.len()), (1, 0));
            assert_eq!(network.listen_port(80), 80);
            assert_eq!(network.urls(&route), ["http://127.0.0.1:30080", "https://127.0.0.1:30443"]);
            assert!(ranges.pods.contains(network.host_address()));
            let other = choose_ranges(Mode::Root, "/tmp/some/data").unwrap();
            assert!(!other.pods.overlaps(ranges.pods) && !other.services.overlaps(ranges.services));
            network.teardown().await.unwrap();
            assert!(!netns.exists());
        });
    });
}

/// Two clusters that start at the same time chose the same ranges, since neither had a link yet that the other could see.
#[test]
fn clusters_that_start_together_choose_differently() {
    for mode in [Mode::Rootless, Mode::Root] {
        if mode == Mode::Root && Mode::detect() != Mode::Root {
            continue;
        }
        let chosen: Vec<_> = std::thread::scope(|scope| {
            let choose = || choose_ranges(mode, "/tmp/the/same/data").unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(choose)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (index, one) in chosen.iter().enumerate() {
            for other in &chosen[..index] {
                assert!(!one.pods.overlaps(other.pods), "{one:?} {other:?}");
                assert!(!one.services.overlaps(other.services), "{one:?} {other:?}");
                assert!(!one.services.overlaps(other.pods), "{one:?} {other:?}");
            }
        }
    }
}
