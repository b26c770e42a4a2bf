//! Three machines: `near` is on this one's wire, `far` behind a router.

use super::*;
use crate::linux::peers::Peer;

struct Other {
    namespace: NetNs,
    network: PodNetwork,
    pod: PathBuf,
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn peer(pods: &str, address: &str) -> Peer {
    Peer { pods: pods.parse().unwrap(), address: ip(address) }
}

fn config(machine: &Machine, id: &str, pods: &str) -> PodNetworkConfig {
    PodNetworkConfig { pods: pods.parse().unwrap(), ..machine.config(id, 70) }
}

/// A wire from the calling thread's namespace into another.
fn wire(name: &str, own: &str, other: &NetNs, others_name: &str, others: &str) {
    let end = |name: &str, address: &str| {
        rtnl::with(async |rtnl: &Rtnl| {
            let index = expect_link(rtnl, name).await?;
            rtnl.add_address(index, ip(address), 24).await?;
            rtnl.up(index).await
        })
        .unwrap();
    };
    let file = other.open().unwrap();
    rtnl::with(async |rtnl: &Rtnl| rtnl.add_veth(name, others_name, &file).await).unwrap();
    end(name, own);
    other.run(|| end(others_name, others)).unwrap();
}

fn default_route(link: &str, gateway: &str) {
    rtnl::with(async |rtnl: &Rtnl| {
        let index = expect_link(rtnl, link).await?;
        rtnl.add_via(index, Cidr::new(Ipv4Addr::UNSPECIFIED, 0), ip(gateway)).await
    })
    .unwrap();
}

/// A machine in a namespace, with a Pod that answers port 8080.
fn other(machine: &Machine, namespace: NetNs, id: &str, pods: &str, pod: &str) -> Other {
    let make = || {
        let mut network = PodNetwork::ensure(config(machine, id, pods)).unwrap();
        let path = network.attach(id, ip(pod), None).unwrap();
        (network, path)
    };
    let (network, path) = namespace.run(make).unwrap();
    serve_in(&path);
    Other { namespace, network, pod: path }
}

fn serve_in(pod: &Path) {
    serve(NetNs::named(pod).run(|| TcpListener::bind("0.0.0.0:8080").unwrap()).unwrap());
}

fn from(path: &Path, address: &str) -> Result<(String, String), String> {
    NetNs::named(path).run(|| call(address)).unwrap()
}

fn ranges() -> Vec<String> {
    let all =
        rtnl::with(async |rtnl: &Rtnl| rtnl.ranges_within("10.70.0.0/16".parse().unwrap()).await);
    all.unwrap().into_iter().map(|(range, _)| range.to_string()).collect()
}

#[test]
fn pods_of_all_machines_reach_each_other() {
    Machine::run("peers", |machine| {
        let named = |name: &str| NetNs::ensure(&machine.folder.join(name)).unwrap();
        let (near, router, far) = (named("near-machine"), named("router"), named("far-machine"));
        wire("wire", "192.0.2.1", &near, "eth0", "192.0.2.2");
        wire("uplink", "203.0.113.1", &router, "eth0", "203.0.113.254");
        router.run(|| wire("eth1", "198.51.100.254", &far, "eth0", "198.51.100.2")).unwrap();
        router.run(|| set_sysctl("net/ipv4/ip_forward", "1")).unwrap().unwrap();
        default_route("uplink", "203.0.113.254");
        far.run(|| default_route("eth0", "198.51.100.254")).unwrap();
        near.run(|| default_route("eth0", "192.0.2.1")).unwrap();

        let mut network = PodNetwork::ensure(config(machine, "here", "10.70.0.0/18")).unwrap();
        serve_pods(&network, 8080);
        let pod = network.attach("here", ip("10.70.1.1"), None).unwrap();
        serve_in(&pod);
        let mut near = other(machine, near, "near", "10.70.64.0/18", "10.70.65.1");
        let mut far = other(machine, far, "far", "10.70.128.0/18", "10.70.129.1");

        let here = peer("10.70.0.0/18", "192.0.2.1");
        let all = [peer("10.70.64.0/18", "192.0.2.2"), peer("10.70.128.0/18", "198.51.100.2")];
        network.set_peers(ip("203.0.113.1"), &all).unwrap();
        near.namespace.run(|| near.network.set_peers(ip("192.0.2.2"), &[here])).unwrap().unwrap();
        let here = peer("10.70.0.0/18", "203.0.113.1");
        far.namespace.run(|| far.network.set_peers(ip("198.51.100.2"), &[here])).unwrap().unwrap();

        // Pods with and without a namespace of their own, in both directions, each under its own address.
        let wasm = network.namespace().to_owned();
        for others in ["10.70.65.1:8080", "10.70.129.1:8080"] {
            assert_eq!(from(&pod, others).unwrap(), (others.to_owned(), "10.70.1.1".to_owned()));
            assert!(from(&wasm, others).is_ok() && answered(others).is_ok(), "{others}");
        }
        for (path, own) in [(&near.pod, "10.70.65.1"), (&far.pod, "10.70.129.1")] {
            for address in ["10.70.1.1:8080", "10.70.1.3:8080"] {
                assert_eq!(from(path, address).unwrap(), (address.to_owned(), own.to_owned()));
            }
        }
        // Services: callers keep their addresses, but for those whose answers would take another way.
        let backends = ["10.70.65.1:8080", "10.70.129.1:8080"];
        network.replace(&[route("all", "10.71.0.5", 80, Some(30080), &backends)]).unwrap();
        let seen: BTreeSet<_> = (0..40).map(|_| from(&pod, "10.71.0.5:80").unwrap()).collect();
        let expected = backends.map(|backend| (backend.to_owned(), "10.70.1.1".to_owned()));
        assert_eq!(seen, expected.into());
        let call_port = || (0..40).map(|_| answered("192.0.2.1:30080").unwrap()).collect();
        let seen: BTreeSet<String> = near.namespace.run(call_port).unwrap();
        assert_eq!(seen, backends.map(str::to_owned).into());

        // So do callers on this machine, at its loopback.
        let seen: BTreeSet<_> = (0..40).map(|_| answered("127.0.0.1:30080").unwrap()).collect();
        assert_eq!(seen, backends.map(str::to_owned).into());
        // Which stays this machine's own for who is on its wire.
        let secret = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = secret.local_addr().unwrap();
        serve(secret);
        let attack = || {
            set_sysctl("net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            rtnl::with(async |rtnl: &Rtnl| {
                rtnl.remove_addresses(expect_link(rtnl, "lo").await?).await?;
                let eth = expect_link(rtnl, "eth0").await?;
                rtnl.add_via(eth, "127.0.0.0/8".parse().unwrap(), ip("192.0.2.1")).await
            })
            .unwrap();
            TcpStream::connect_timeout(&address, Duration::from_millis(500))
                .map(drop)
                .map_err(|error| error.kind())
        };
        let attacked = near.namespace.run(attack).unwrap();
        assert_eq!(attacked, Err(std::io::ErrorKind::TimedOut));

        // What is sent in one piece fits into the tunnel.
        let later = network.attach("later", ip("10.70.1.7"), None).unwrap();
        let mtu = || fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/mtu").unwrap();
        assert_eq!(NetNs::named(&later).run(mtu).unwrap().trim(), "1450");

        // A machine that leaves, and one that comes back with another range.
        network.set_peers(ip("203.0.113.1"), &all[1..]).unwrap();
        assert!(!ranges().contains(&"10.70.64.0/18".to_owned()), "{:?}", ranges());
        assert!(from(&pod, "10.70.65.1:8080").is_err());
        assert!(from(&pod, "10.70.129.1:8080").is_ok());
        network.set_peers(ip("203.0.113.1"), &all).unwrap();
        assert!(from(&pod, "10.70.65.1:8080").is_ok());

        network.teardown().unwrap();
        assert_eq!(ranges(), [] as [&str; 0]);
        let links = rtnl::with(async |rtnl: &Rtnl| rtnl.link_names().await).unwrap();
        assert!(!links.iter().any(|link| link.starts_with("cor-") || link.starts_with("covx-")));
        near.namespace.run(|| near.network.teardown()).unwrap().unwrap();
        far.namespace.run(|| far.network.teardown()).unwrap().unwrap();
    });
}
