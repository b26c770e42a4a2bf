//! Pods with a namespace each, beside those that share one, through a real kernel.

use super::*;

/// Serves a port of a Pod that has a namespace to itself.
fn serve_in(path: &Path, port: u16) {
    serve(NetNs::named(path).run(|| TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap());
}

/// An address that answers, from within a namespace: who answered, and whom it saw.
fn from(path: &Path, address: &str) -> Result<(String, String), String> {
    NetNs::named(path).run(|| call(address)).unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn links() -> Vec<String> {
    rtnl::with(async |rtnl: &Rtnl| rtnl.link_names().await).unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = files.map(|f| f.file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

#[test]
fn containers_reach_everybody_and_everybody_them() {
    Machine::run("attached", |machine| {
        let mut network = PodNetwork::ensure(machine.config("attached", 70)).unwrap();
        serve_pods(&network, 8080);
        let neighbour = machine.neighbour();
        let one = network.attach("uid-1", ip("10.70.1.1"), None).unwrap();
        let two = network.attach("uid-2", ip("10.70.1.2"), None).unwrap();
        assert_eq!(
            network.attach("uid-1", ip("10.70.1.1"), None).unwrap(),
            one,
            "a second time changes nothing"
        );
        network.ensure_group(1, []).unwrap();
        network.join_group(1, ip("10.70.1.9")).unwrap();
        let group = network.groups[&1].namespace.clone();
        serve_group(&network, 1, 8080);
        serve_in(&one, 8080);
        serve_in(&two, 8080);
        let shared = network.namespace.path().to_owned();
        let wasm = "10.70.1.3:8080";
        // Directly, in all directions; everybody sees who calls.
        for (who, own) in [(&one, "10.70.1.1"), (&two, "10.70.1.2")] {
            for pod in ["10.70.1.1:8080", "10.70.1.2:8080", wasm, "10.70.1.9:8080"] {
                let (answered, saw) = from(who, pod).expect(pod);
                assert_eq!((answered.as_str(), saw.as_str()), (pod, own));
            }
        }
        for pod in ["10.70.1.1:8080", "10.70.1.2:8080"] {
            assert_eq!(answered(pod).as_deref(), Ok(pod), "from this machine");
            assert_eq!(from(&shared, pod).unwrap(), (pod.to_owned(), "10.70.0.2".to_owned()));
            assert_eq!(from(group.path(), pod).unwrap().1, "10.70.1.9");
        }
        serve(TcpListener::bind("0.0.0.0:7000").unwrap());
        assert_eq!(
            from(&one, "10.70.0.1:7000").unwrap().1,
            "10.70.1.1",
            "this machine, by the gateway"
        );
        assert_eq!(from(&one, "192.0.2.1:7000").unwrap().1, "10.70.1.1");

        // Through a Service and a NodePort, hairpin included: with one backend each it must be oneself.
        let everywhere = ["10.70.1.1:8080", "10.70.1.2:8080", wasm, "10.70.1.9:8080"];
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = api.local_addr().unwrap().to_string();
        serve(api);
        network
            .replace(&[
                route("all", "10.71.0.5", 80, Some(30080), &everywhere),
                route("one", "10.71.0.6", 80, Some(30081), &["10.70.1.1:8080"]),
                route("none", "10.71.0.7", 80, None, &[]),
                route("kubernetes", "10.71.0.1", 443, None, &[&backend]),
            ])
            .unwrap();
        serve(neighbour.run(|| TcpListener::bind("0.0.0.0:9000").unwrap()).unwrap());
        assert_eq!(
            from(&one, "192.0.2.2:9000").unwrap().1,
            "192.0.2.1",
            "outside, Pods are this machine"
        );
        let all: BTreeSet<String> = everywhere.iter().map(|pod| (*pod).to_owned()).collect();
        for who in [&one, &two, &shared, &group.path().to_owned()] {
            for address in ["10.71.0.5:80", "192.0.2.1:30080"] {
                let seen: BTreeSet<String> =
                    (0..80).map(|_| from(who, address).expect(address).0).collect();
                assert_eq!(seen, all, "{address} from {}", who.display());
            }
        }
        for address in ["10.71.0.5:80", "127.0.0.1:30080", "192.0.2.1:30080"] {
            let seen: BTreeSet<String> = (0..80).map(|_| answered(address).unwrap()).collect();
            assert_eq!(seen, all, "{address}");
        }
        for address in ["10.71.0.6:80", "192.0.2.1:30081"] {
            assert_eq!(from(&one, address).unwrap().0, "10.70.1.1:8080", "a Pod reaches itself");
            assert_eq!(from(&two, address).unwrap().1, "10.70.1.2", "callers keep their addresses");
            assert_eq!(neighbour.run(|| call(address)).unwrap().unwrap().1, "192.0.2.2");
        }
        assert_eq!(from(&one, "10.71.0.1:443").unwrap().0, backend);
        assert_eq!(from(&one, "10.71.0.7:80"), Err("connection refused".to_owned()));
        network.teardown().unwrap();
        assert_eq!(files(&machine.folder), ["neighbour"]);
        assert!(!links().iter().any(|link| link.starts_with("cor-")), "{:?}", links());
    });
}

#[test]
fn what_was_left_behind_is_removed() {
    Machine::run("swept", |machine| {
        let config = machine.config("swept", 70);
        let before = rtnl::with(async |rtnl: &Rtnl| rtnl.routes().await).unwrap().len();
        let mut network = PodNetwork::ensure(config.clone()).unwrap();
        for (uid, address) in [("keeps", "10.70.1.1"), ("goes", "10.70.1.2"), ("half", "10.70.1.3")]
        {
            network.attach(uid, ip(address), None).unwrap();
        }
        // Killed in the middle: one has no link any more, one link no namespace, one namespace nothing in it.
        let half = machine.folder.join("swept-pod-half");
        NetNs::named(&half)
            .run(|| rtnl::with(async |rtnl: &Rtnl| rtnl.delete_link(INNER).await))
            .unwrap()
            .unwrap();
        let orphan = NetNs::ensure(&machine.folder.join("orphan")).unwrap();
        let file = orphan.open().unwrap();
        rtnl::with(async |rtnl: &Rtnl| rtnl.add_veth("cor-sweptg14", "eth0", &file).await).unwrap();
        NetNs::ensure(&machine.folder.join("swept-pod-empty")).unwrap();
        let held = NetNs::named(&machine.folder.join("swept-pod-goes")).open().unwrap();
        drop(network);

        let mut network = PodNetwork::ensure(config.clone()).unwrap();
        serve_pods(&network, 8080);
        network.replace(&[]).unwrap();
        let kept = network.attach("keeps", ip("10.70.1.1"), None).unwrap();
        let keep = BTreeMap::from([("keeps".to_owned(), ip("10.70.1.1"))]);
        network.sweep(&keep).unwrap();
        network.sweep(&keep).unwrap();
        network.settle_groups(&BTreeSet::new()).unwrap();
        assert_eq!(files(&machine.folder), ["orphan", "swept", "swept-pod-keeps"]);
        let ours: Vec<String> = links().into_iter().filter(|l| l.starts_with("cor-")).collect();
        assert_eq!(ours.len(), 2, "{ours:?}");
        serve_in(&kept, 8080);
        assert_eq!(answered("10.70.1.1:8080").as_deref(), Ok("10.70.1.1:8080"));
        // The others' addresses are everybody's again, from both sides, though something holds on to a namespace.
        let shared = network.namespace.path().to_owned();
        for address in ["10.70.1.2:8080", "10.70.1.3:8080"] {
            assert_eq!(answered(address).as_deref(), Ok(address));
            assert_eq!(from(&shared, address).unwrap().0, address);
            assert_eq!(from(&kept, address).unwrap().0, address);
        }
        drop(held);
        network.detach("keeps").unwrap();
        network.detach("keeps").unwrap();
        network.detach("never was").unwrap_err();
        network.detach("never-was").unwrap();
        assert_eq!(from(&shared, "10.70.1.1:8080").unwrap().0, "10.70.1.1:8080");
        // A Pod whose address is another than before.
        network.attach("moves", ip("10.70.1.4"), None).unwrap();
        let path = network.attach("moves", ip("10.70.1.5"), None).unwrap();
        serve_in(&path, 9999);
        assert_eq!(answered("10.70.1.5:9999").as_deref(), Ok("10.70.1.5:9999"));
        assert_eq!(answered("10.70.1.4:8080").as_deref(), Ok("10.70.1.4:8080"));
        // The same by an agent that knows nothing of it.
        drop(network);
        let mut network = PodNetwork::ensure(config).unwrap();
        let path = network.attach("moves", ip("10.70.1.6"), None).unwrap();
        serve_in(&path, 9998);
        assert_eq!(answered("10.70.1.6:9998").as_deref(), Ok("10.70.1.6:9998"));
        network.teardown().unwrap();
        assert_eq!(files(&machine.folder), ["orphan"]);
        let after = rtnl::with(async |rtnl: &Rtnl| rtnl.routes().await).unwrap().len();
        assert_eq!(after, before);
    });
}

/// A container may be root in its namespace, and send what it likes.
#[test]
fn forged_addresses_go_nowhere() {
    Machine::run("forged", |machine| {
        let mut network = PodNetwork::ensure(machine.config("forged", 70)).unwrap();
        network.replace(&[]).unwrap();
        let one = network.attach("one", ip("10.70.1.1"), None).unwrap();
        network.attach("two", ip("10.70.1.2"), None).unwrap();
        // Many machines have this, by which the kernel's own check lets any address in that is reached somehow.
        set_sysctl("net/ipv4/conf/all/rp_filter", "2").unwrap();
        let heard = std::net::UdpSocket::bind("10.70.0.1:6000").unwrap();
        heard.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let say = |as_whom: &'static str| {
            NetNs::named(&one)
                .run(move || {
                    rtnl::with(async |rtnl: &Rtnl| {
                        let eth = expect_link(rtnl, INNER).await?;
                        rtnl.add_address(eth, ip(as_whom), 32).await
                    })
                    .unwrap();
                    let socket = std::net::UdpSocket::bind((as_whom, 0)).unwrap();
                    socket.send_to(as_whom.as_bytes(), "10.70.0.1:6000").unwrap();
                })
                .unwrap();
        };
        let mut buffer = [0; 64];
        say("10.70.1.1");
        let (count, _) = heard.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"10.70.1.1");
        say("10.70.1.2");
        say("203.0.113.7");
        assert!(heard.recv_from(&mut buffer).is_err(), "another's address came through");
        let secret = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = secret.local_addr().unwrap();
        serve(secret);
        let attack = || {
            set_sysctl(&format!("net/ipv4/conf/{INNER}/route_localnet"), "1").unwrap();
            rtnl::with(async |rtnl: &Rtnl| {
                rtnl.remove_addresses(expect_link(rtnl, "lo").await?).await?;
                let eth = expect_link(rtnl, INNER).await?;
                rtnl.add_via(eth, "127.0.0.0/8".parse().unwrap(), Ipv4Addr::new(10, 70, 0, 1)).await
            })
            .unwrap();
            TcpStream::connect_timeout(&address, Duration::from_millis(500))
                .map(drop)
                .map_err(|error| error.kind())
        };
        assert_eq!(NetNs::named(&one).run(attack).unwrap(), Err(std::io::ErrorKind::TimedOut));
        network.teardown().unwrap();
    });
}

#[test]
fn the_mtu_is_the_uplinks() {
    Machine::run("mtu", |machine| {
        let mut network = PodNetwork::ensure(machine.config("mtu", 70)).unwrap();
        let neighbour = machine.neighbour();
        let mtu = |path: &Path| {
            let read = || fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/mtu").unwrap();
            NetNs::named(path).run(read).unwrap().trim().to_owned()
        };
        assert_eq!(mtu(&network.attach("before", ip("10.70.1.1"), None).unwrap()), "1500");
        rtnl::with(async |rtnl: &Rtnl| {
            let wire = expect_link(rtnl, "wire").await?;
            rtnl.set_mtu(wire, 1400).await?;
            let all = Cidr::new(Ipv4Addr::UNSPECIFIED, 0);
            rtnl.add_via(wire, all, Ipv4Addr::new(192, 0, 2, 2)).await
        })
        .unwrap();
        assert_eq!(mtu(&network.attach("after", ip("10.70.1.2"), None).unwrap()), "1400");
        drop(neighbour);
        network.teardown().unwrap();
    });
}

/// Starting a Pod should not wait for its network.
#[test]
fn many_are_attached_quickly() {
    Machine::run("many", |machine| {
        let mut network = PodNetwork::ensure(machine.config("many", 70)).unwrap();
        network.replace(&[]).unwrap();
        let start = Instant::now();
        for n in 1..=50_u8 {
            network.attach(&format!("uid-{n}"), Ipv4Addr::new(10, 70, 1, n), None).unwrap();
        }
        let attaching = start.elapsed() / 50;
        let start = Instant::now();
        for n in 1..=50 {
            network.detach(&format!("uid-{n}")).unwrap();
        }
        let detaching = start.elapsed() / 50;
        let _ = writeln!(
            std::io::stderr(),
            "one Pod attached in {attaching:?}, detached in {detaching:?}"
        );
        assert!(attaching < Duration::from_secs(1), "{attaching:?}");
        network.teardown().unwrap();
    });
}
