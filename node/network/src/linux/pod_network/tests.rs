//! Real traffic through a real kernel: each test is a machine of its own, in a network namespace that ends with it.

mod attached;
mod peers;
mod policies;

use super::*;
use crate::linux::may_administer_network;
use crate::linux::netns::on_thread;
use crate::routes::{PortRoute, Protocol, ServiceKey};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A machine: the thread's fresh namespace, and a folder for the Pods' namespaces.
struct Machine {
    folder: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = NetNs::remove(&NetNs::ensure(&entry.path()).unwrap());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Machine {
    /// Runs a test on a machine of its own; without root it is skipped, saying so.
    fn run(name: &str, test: impl FnOnce(&Machine) + Send) {
        if !may_administer_network() {
            let _ = writeln!(std::io::stderr(), "linux::pod_network {name}: skipped: needs root");
            return;
        }
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            rtnl::with(async |rtnl: &Rtnl| rtnl.up(expect_link(rtnl, "lo").await?).await).unwrap();
            let folder =
                std::env::temp_dir().join(format!("coracle-{}-{name}", std::process::id()));
            test(&Machine { folder });
        });
    }

    fn config(&self, id: &str, number: u8) -> PodNetworkConfig {
        PodNetworkConfig {
            id: id.to_owned(),
            netns: self.folder.join(id),
            pods: Cidr::new(Ipv4Addr::new(10, number, 0, 0), 16),
            cluster: Cidr::new(Ipv4Addr::new(10, number, 0, 0), 16),
            tunnel: number.into(),
            services: Cidr::new(Ipv4Addr::new(10, number + 1, 0, 0), 16),
        }
    }

    /// Another machine on the same wire: 192.0.2.1 is this one, 192.0.2.2 the other.
    fn neighbour(&self) -> NetNs {
        let namespace = NetNs::ensure(&self.folder.join("neighbour")).unwrap();
        let file = namespace.open().unwrap();
        rtnl::with(async |rtnl: &Rtnl| {
            rtnl.add_veth("wire", "eth0", &file).await?;
            let index = expect_link(rtnl, "wire").await?;
            rtnl.add_address(index, Ipv4Addr::new(192, 0, 2, 1), 24).await?;
            rtnl.up(index).await
        })
        .unwrap();
        let inside = || {
            rtnl::with(async |rtnl: &Rtnl| {
                let index = expect_link(rtnl, "eth0").await?;
                rtnl.add_address(index, Ipv4Addr::new(192, 0, 2, 2), 24).await?;
                rtnl.up(index).await?;
                rtnl.add_via(index, "10.0.0.0/8".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 1))
                    .await
            })
        };
        namespace.run(inside).unwrap().unwrap();
        namespace
    }
}

/// Answers every connection with the address that was called and the caller's, until the process ends.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let line =
                format!("{} {}", stream.local_addr().unwrap(), stream.peer_addr().unwrap().ip());
            let _ = stream.write_all(line.as_bytes());
        }
    });
}

/// Serves one port of every Pod address, as the Wasm host does.
fn serve_pods(network: &PodNetwork, port: u16) {
    serve(network.namespace.run(|| TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap());
}

/// Calls an address: who answered and whom it saw, or why nobody did.
fn call(address: &str) -> Result<(String, String), String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))
        .map_err(|error| error.kind().to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.kind().to_string())?;
    let (answered, saw) = text.split_once(' ').ok_or("no answer")?;
    Ok((answered.to_owned(), saw.to_owned()))
}

fn answered(address: &str) -> Result<String, String> {
    call(address).map(|(answered, _)| answered)
}

fn refused(address: &str) {
    let start = Instant::now();
    assert_eq!(call(address), Err("connection refused".to_owned()), "{address}");
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{address} was refused only after {:?}",
        start.elapsed()
    );
}

fn route(
    name: &str,
    vip: &str,
    port: u16,
    node_port: Option<u16>,
    backends: &[&str],
) -> Arc<ServiceRoute> {
    Arc::new(ServiceRoute {
        key: ServiceKey { namespace: "default".to_owned(), name: name.to_owned() },
        cluster_ip: Some(vip.parse().unwrap()),
        ports: vec![PortRoute {
            name: String::new(),
            port,
            node_port,
            protocol: Protocol::Tcp,
            backends: backends.iter().map(|backend| backend.parse().unwrap()).collect(),
            ..PortRoute::default()
        }],
        ..ServiceRoute::default()
    })
}

fn set(route: Arc<ServiceRoute>) -> RouteChange {
    RouteChange::Set(route)
}

#[test]
fn services_lead_to_pods_from_everywhere() {
    Machine::run("services", |machine| {
        let mut network = PodNetwork::ensure(machine.config("services", 70)).unwrap();
        serve_pods(&network, 8080);
        let neighbour = machine.neighbour();
        assert_eq!(
            call("10.70.200.9:8080").unwrap(),
            ("10.70.200.9:8080".into(), "10.70.0.1".into())
        );

        let backends = ["10.70.1.1:8080", "10.70.1.2:8080", "10.70.1.3:8080"];
        network.replace(&[route("web", "10.71.0.5", 80, Some(30080), &backends)]).unwrap();
        let all: BTreeSet<String> = backends.iter().map(|b| (*b).to_owned()).collect();
        let from_here = ["10.71.0.5:80", "127.0.0.1:30080", "192.0.2.1:30080", "127.0.0.9:30080"];
        for address in from_here {
            let seen: BTreeSet<String> =
                (0..60).map(|_| answered(address).expect(address)).collect();
            assert_eq!(seen, all, "{address} does not balance over all backends");
        }
        for address in ["10.71.0.5:80", "192.0.2.1:30080"] {
            let (answered, saw) = neighbour.run(|| call(address)).unwrap().expect(address);
            assert!(all.contains(&answered));
            assert_eq!(saw, "192.0.2.2", "the caller's address must be kept");
        }
        let inside: BTreeSet<String> = network
            .namespace
            .run(|| (0..60).map(|_| answered("10.71.0.5:80").unwrap()).collect())
            .unwrap();
        assert_eq!(inside, all);
        // Out to the machine and back into the same namespace.
        assert!(
            all.contains(&network.namespace.run(|| answered("192.0.2.1:30080")).unwrap().unwrap())
        );
        network.teardown().unwrap();
    });
}

#[test]
fn pods_reach_the_outside() {
    Machine::run("outside", |machine| {
        let network = {
            let mut network = PodNetwork::ensure(machine.config("outside", 70)).unwrap();
            // The API server's Service, as the control plane publishes it: an address of this machine only.
            let api = TcpListener::bind("127.0.0.1:0").unwrap();
            let backend = api.local_addr().unwrap().to_string();
            serve(api);
            network.replace(&[route("kubernetes", "10.71.0.1", 443, None, &[&backend])]).unwrap();
            let inside = network.namespace.run(|| answered("10.71.0.1:443")).unwrap();
            assert_eq!(inside, Ok(backend.clone()));
            assert_eq!(answered("10.71.0.1:443"), Ok(backend));
            network
        };
        let neighbour = machine.neighbour();
        serve(neighbour.run(|| TcpListener::bind("0.0.0.0:9000").unwrap()).unwrap());
        let (_, saw) = network.namespace.run(|| call("192.0.2.2:9000")).unwrap().unwrap();
        assert_eq!(saw, "192.0.2.1", "Pods must not show their addresses outside the cluster");
        network.teardown().unwrap();
    });
}

/// NodePorts on 127.0.0.1 need `route_localnet`, which by itself opens this machine's loopback services to whoever
/// can send packets of their own making from the Pods' namespace (CVE-2020-8558).
#[test]
fn pods_cannot_reach_the_machines_loopback() {
    Machine::run("loopback", |machine| {
        let mut network = PodNetwork::ensure(machine.config("loopback", 70)).unwrap();
        network.replace(&[]).unwrap();
        let secret = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = secret.local_addr().unwrap();
        serve(secret);
        let attack = || {
            set_sysctl(&format!("net/ipv4/conf/{INNER}/route_localnet"), "1").unwrap();
            rtnl::with(async |rtnl: &Rtnl| {
                // Then 127.0.0.0/8 is no longer the namespace's own.
                rtnl.remove_addresses(expect_link(rtnl, "lo").await?).await?;
                let eth = expect_link(rtnl, INNER).await?;
                rtnl.add_via(eth, "127.0.0.0/8".parse().unwrap(), Ipv4Addr::new(10, 70, 0, 1)).await
            })
            .unwrap();
            TcpStream::connect_timeout(&address, Duration::from_millis(500))
                .map(drop)
                .map_err(|error| error.kind())
        };
        assert_eq!(network.namespace.run(attack).unwrap(), Err(std::io::ErrorKind::TimedOut));
        network.teardown().unwrap();
    });
}

#[test]
fn changes_take_effect_at_once() {
    Machine::run("changes", |machine| {
        let mut network = PodNetwork::ensure(machine.config("changes", 70)).unwrap();
        serve_pods(&network, 8080);
        let web = |backends: &[&str]| set(route("web", "10.71.0.5", 80, Some(30080), backends));
        let everyone = |network: &PodNetwork, check: &(dyn Fn(&str) + Sync)| {
            check("10.71.0.5:80");
            check("127.0.0.1:30080");
            network.namespace.run(|| check("10.71.0.5:80")).unwrap();
        };
        let leads_to = |expected: &'static [&'static str]| {
            move |address: &str| {
                let seen: BTreeSet<String> =
                    (0..40).map(|_| answered(address).expect(address)).collect();
                assert_eq!(seen, expected.iter().map(|e| (*e).to_owned()).collect(), "{address}");
            }
        };
        network.replace(&[]).unwrap();
        everyone(&network, &refused);
        network.apply(&[web(&[])]).unwrap();
        everyone(&network, &refused);
        network.apply(&[web(&["10.70.1.1:8080"])]).unwrap();
        everyone(&network, &leads_to(&["10.70.1.1:8080"]));
        network.apply(&[web(&["10.70.1.1:8080", "10.70.1.2:8080"])]).unwrap();
        everyone(&network, &leads_to(&["10.70.1.1:8080", "10.70.1.2:8080"]));
        network.apply(&[web(&["10.70.1.2:8080", "10.70.1.3:8080"])]).unwrap();
        everyone(&network, &leads_to(&["10.70.1.2:8080", "10.70.1.3:8080"]));
        // One Service takes over another's addresses within a round.
        let gone =
            RouteChange::Gone(ServiceKey { namespace: "default".into(), name: "web".into() });
        let other = set(route("aaa", "10.71.0.5", 80, Some(30080), &["10.70.1.9:8080"]));
        network.apply(&[gone, other]).unwrap();
        everyone(&network, &leads_to(&["10.70.1.9:8080"]));
        network.apply(&[set(route("aaa", "10.71.0.5", 80, Some(30080), &[]))]).unwrap();
        everyone(&network, &refused);
        network
            .apply(&[RouteChange::Gone(ServiceKey {
                namespace: "default".into(),
                name: "aaa".into(),
            })])
            .unwrap();
        everyone(&network, &refused);
        refused("10.71.9.9:1234");
        network.teardown().unwrap();
    });
}

#[test]
fn a_client_stays_with_its_backend() {
    Machine::run("affinity", |machine| {
        let mut network = PodNetwork::ensure(machine.config("affinity", 70)).unwrap();
        serve_pods(&network, 8080);
        let backends: Vec<String> = (1..=20).map(|n| format!("10.70.1.{n}:8080")).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let mut web = ServiceRoute::clone(&route("web", "10.71.0.5", 80, None, &backends));
        web.affinity = Some(Duration::from_secs(60));
        let web = Arc::new(web);
        network.replace(&[Arc::clone(&web)]).unwrap();
        let called =
            || -> BTreeSet<String> { (0..30).map(|_| answered("10.71.0.5:80").unwrap()).collect() };
        let (seen, inside) = (called(), network.namespace.run(called).unwrap());
        assert_eq!((seen.len(), inside.len()), (1, 1), "{seen:?} {inside:?}");
        // An agent that returns writes the table afresh, and the client still stays.
        drop(network);
        let mut network = PodNetwork::ensure(machine.config("affinity", 70)).unwrap();
        network.replace(&[Arc::clone(&web)]).unwrap();
        assert_eq!((called(), network.namespace.run(called).unwrap()), (seen.clone(), inside));
        // Not with one that has gone meanwhile.
        drop(network);
        let mut network = PodNetwork::ensure(machine.config("affinity", 70)).unwrap();
        let mut rest = ServiceRoute::clone(&web);
        let gone = |backend: &SocketAddr| seen.contains(&backend.to_string());
        rest.ports[0].backends.retain(|backend| !gone(backend));
        network.replace(&[Arc::new(rest)]).unwrap();
        let others = called();
        assert!(others.len() == 1 && others.is_disjoint(&seen), "{others:?}");
        network.teardown().unwrap();
    });
}

#[test]
fn an_agent_that_returns_finds_its_network() {
    Machine::run("returns", |machine| {
        let config = machine.config("returns", 70);
        let web = route("web", "10.71.0.5", 80, Some(30080), &["10.70.1.1:8080"]);
        let mut first = PodNetwork::ensure(config.clone()).unwrap();
        serve_pods(&first, 8080);
        first.replace(&[Arc::clone(&web)]).unwrap();
        let mut open = TcpStream::connect("10.71.0.5:80").unwrap();
        drop(first);
        assert!(answered("10.71.0.5:80").is_ok(), "Services must work without an agent");
        let mut second = PodNetwork::ensure(config).unwrap();
        assert!(
            answered("127.0.0.1:30080").is_ok(),
            "a returning agent must not interrupt Services"
        );
        second.replace(&[Arc::clone(&web)]).unwrap();
        assert!(answered("127.0.0.1:30080").is_ok());
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("10.70.1.1:8080"), "the open connection broke: {text:?}");

        // Somebody flushes the firewall.
        Rules::open(second.config.rules(Scope::Host)).unwrap().delete().unwrap();
        refused("127.0.0.1:30080");
        second.restore().unwrap();
        assert!(answered("127.0.0.1:30080").is_ok());
        second.teardown().unwrap();
    });
}

#[test]
fn a_killed_clusters_table_is_in_nobodys_way() {
    Machine::run("dead-table", |machine| {
        let exists = |config: &PodNetworkConfig| {
            Rules::open(config.rules(Scope::Host)).unwrap().exists().unwrap()
        };
        let (dead, alive) = (machine.config("dead", 74), machine.config("alive", 78));
        for config in [&dead, &alive] {
            PodNetwork::ensure(config.clone()).unwrap().replace(&[]).unwrap();
        }
        // As when its namespaces were removed by hand: the links went with them.
        NetNs::named(&dead.netns).remove().unwrap();
        rtnl::with(async |rtnl: &Rtnl| rtnl.delete_link(&dead.link()).await).unwrap();
        assert!(exists(&dead));

        let next = PodNetwork::ensure(machine.config("next", 75)).unwrap();
        assert!(!exists(&dead) && exists(&alive));
        next.teardown().unwrap();
    });
}

#[test]
fn teardown_leaves_nothing() {
    Machine::run("teardown", |machine| {
        let routes = || rtnl::with(async |rtnl: &Rtnl| rtnl.routes().await).unwrap();
        let before = routes().len();
        let config = machine.config("teardown", 70);
        for _ in 0..2 {
            let mut network = PodNetwork::ensure(config.clone()).unwrap();
            network
                .replace(&[route("web", "10.71.0.5", 80, Some(30080), &["10.70.1.1:8080"])])
                .unwrap();
            assert!(routes().len() > before);
            network.teardown().unwrap();
            assert_eq!(routes().len(), before);
            let link = rtnl::with(async |rtnl: &Rtnl| rtnl.link(&config.link()).await).unwrap();
            assert_eq!(link, None);
            assert!(!config.netns.exists());
            assert!(!Rules::open(config.rules(Scope::Host)).unwrap().exists().unwrap());
        }
    });
}

#[test]
fn clusters_live_side_by_side() {
    Machine::run("side", |machine| {
        let mut one = PodNetwork::ensure(machine.config("one", 70)).unwrap();
        let mut two = PodNetwork::ensure(machine.config("two", 80)).unwrap();
        serve_pods(&one, 8080);
        serve_pods(&two, 8080);
        let client = one.attach("uid", Ipv4Addr::new(10, 70, 1, 9), None).unwrap();
        one.replace(&[route("web", "10.71.0.5", 80, Some(30080), &["10.70.1.1:8080"])]).unwrap();
        two.replace(&[route("web", "10.81.0.5", 80, Some(30081), &["10.80.1.1:8080"])]).unwrap();
        for (address, expected) in [
            ("10.71.0.5:80", "10.70.1.1:8080"),
            ("10.81.0.5:80", "10.80.1.1:8080"),
            ("127.0.0.1:30080", "10.70.1.1:8080"),
            ("127.0.0.1:30081", "10.80.1.1:8080"),
        ] {
            assert_eq!(answered(address).as_deref(), Ok(expected), "{address}");
        }
        // What one table has translated is none of the other's business: callers keep their addresses.
        let (answered_by, saw) =
            NetNs::named(&client).run(|| call("10.71.0.5:80")).unwrap().unwrap();
        assert_eq!((&answered_by[..], &saw[..]), ("10.70.1.1:8080", "10.70.1.9"));
        let taken = rtnl::taken_ranges().unwrap();
        for range in [one.config.pods, one.config.services, two.config.pods, two.config.services] {
            assert!(taken.contains(&range), "a new cluster would not see that {range} is taken");
        }
        let mut same = machine.config("three", 70);
        same.services = "10.99.0.0/16".parse().unwrap();
        let error = PodNetwork::ensure(same).unwrap_err().to_string();
        assert!(
            error.contains("10.70.0.0/16 overlaps the route") && error.contains("cor-one"),
            "{error}"
        );
        one.teardown().unwrap();
        assert_eq!(answered("10.81.0.5:80").as_deref(), Ok("10.80.1.1:8080"));
        two.teardown().unwrap();
    });
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let config = |id: &str, pods: &str, services: &str| PodNetworkConfig {
        id: id.to_owned(),
        netns: PathBuf::from("/nonexistent"),
        pods: pods.parse().unwrap(),
        cluster: pods.parse().unwrap(),
        services: services.parse().unwrap(),
        tunnel: 1,
    };
    for (config, expected) in [
        (config("a-cluster-id-too-long", "10.1.0.0/16", "10.2.0.0/16"), "1 to 11"),
        (config("a/b", "10.1.0.0/16", "10.2.0.0/16"), "1 to 11"),
        (config("a", "10.1.0.0/29", "10.2.0.0/16"), "too small"),
        (config("a", "10.1.0.0/16", "10.0.0.0/8"), "overlap"),
    ] {
        let error = PodNetwork::ensure(config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// 5,000 Services of 10 endpoints: loading them, and changing one of them.
#[test]
fn large_tables_load_and_change_quickly() {
    Machine::run("large", |machine| {
        let mut network = PodNetwork::ensure(machine.config("large", 70)).unwrap();
        serve_pods(&network, 8080);
        let service = |n: u32, count: u32| {
            let backends: Vec<String> = (0..count)
                .map(|b| format!("10.70.{}.{}:8080", 1 + n / 250, 1 + (n + b) % 250))
                .collect();
            let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
            let vip = format!("10.71.{}.{}", n / 250, 1 + n % 250);
            route(&format!("web-{n}"), &vip, 80, (n < 2000).then(|| 30_000 + n as u16), &backends)
        };
        let routes: Vec<_> = (0..5000).map(|n| service(n, 10)).collect();
        let start = Instant::now();
        network.replace(&routes).unwrap();
        let loading = start.elapsed();
        assert!(answered("10.71.19.250:80").is_ok());
        let start = Instant::now();
        for n in 0..100 {
            network.apply(&[set(service(n, 9 + n % 3))]).unwrap();
        }
        let changing = start.elapsed() / 100;
        let start = Instant::now();
        for _ in 0..200 {
            answered("10.71.10.10:80").unwrap();
        }
        let calling = start.elapsed() / 200;
        let _ = writeln!(
            std::io::stderr(),
            "5,000 Services of 10: loaded in {loading:?}, one changed in {changing:?}, one call {calling:?}"
        );
        assert!(loading < Duration::from_secs(20), "{loading:?}");
        assert!(changing < Duration::from_millis(500), "{changing:?}");
        network.teardown().unwrap();
    });
}

/// Serves a port in a group's namespace.
fn serve_group(network: &PodNetwork, number: u16, port: u16) {
    let bind = || TcpListener::bind(("0.0.0.0", port)).unwrap();
    serve(network.groups[&number].namespace.run(bind).unwrap());
}

#[test]
fn groups_have_namespaces_of_their_own() {
    Machine::run("groups", |machine| {
        let config = machine.config("groups", 70);
        let mut network = PodNetwork::ensure(config.clone()).unwrap();
        serve_pods(&network, 8080);
        let neighbour = machine.neighbour();
        for (number, address) in [(1, "10.70.1.1"), (2, "10.70.1.2")] {
            network.ensure_group(number, []).unwrap();
            network.join_group(number, address.parse().unwrap()).unwrap();
            network.join_group(number, address.parse().unwrap()).unwrap();
            serve_group(&network, number, 8080);
        }
        network.join_group(2, "10.70.1.3".parse().unwrap()).unwrap();
        let backends = ["10.70.1.1:8080", "10.70.1.2:8080", "10.70.1.4:8080"];
        network.replace(&[route("web", "10.71.0.5", 80, Some(30080), &backends)]).unwrap();
        let all: BTreeSet<String> = backends.iter().map(|b| (*b).to_owned()).collect();
        let spaces = |network: &PodNetwork| {
            [&network.namespace, &network.groups[&1].namespace, &network.groups[&2].namespace]
                .map(Clone::clone)
        };
        // Everybody reaches every Pod, directly, through a Service and through a NodePort; also itself.
        for (from, namespace) in spaces(&network).iter().enumerate() {
            namespace
                .run(|| {
                    for pod in backends.iter().chain(&["10.70.1.3:8080"]) {
                        assert_eq!(answered(pod).as_deref(), Ok(*pod), "from {from}");
                    }
                    for address in ["10.71.0.5:80", "192.0.2.1:30080"] {
                        let seen: BTreeSet<String> =
                            (0..60).map(|_| answered(address).expect(address)).collect();
                        assert_eq!(seen, all, "{address} from {from}");
                    }
                })
                .unwrap();
        }
        for address in ["10.71.0.5:80", "127.0.0.1:30080", "192.0.2.1:30080"] {
            let seen: BTreeSet<String> =
                (0..60).map(|_| answered(address).expect(address)).collect();
            assert_eq!(seen, all, "{address}");
        }
        // Callers keep their addresses, whichever namespace they are in.
        let saw = |namespace: &NetNs, address: &str| {
            namespace.run(|| call(address)).unwrap().expect(address).1
        };
        let [shared, first, second] = spaces(&network);
        assert_eq!(saw(&first, "10.70.1.2:8080"), "10.70.1.1");
        assert_eq!(saw(&second, "10.70.1.4:8080"), "10.70.1.2");
        assert_eq!(saw(&shared, "10.70.1.1:8080"), "10.70.0.2");
        for _ in 0..20 {
            assert_eq!(saw(&neighbour, "10.71.0.5:80"), "192.0.2.2");
        }
        // Two Pods of one namespace are as far from each other as before.
        assert!(first.run(|| call("127.0.0.1:8080")).unwrap().is_ok());
        serve(neighbour.run(|| TcpListener::bind("0.0.0.0:9000").unwrap()).unwrap());
        assert_eq!(saw(&first, "192.0.2.2:9000"), "192.0.2.1", "outside, Pods are this machine");

        // An agent that comes back finds its groups, and removes those that nobody wants any more.
        drop(network);
        let mut network = PodNetwork::ensure(config.clone()).unwrap();
        network.ensure_group(1, []).unwrap();
        network.join_group(1, "10.70.1.1".parse().unwrap()).unwrap();
        network.settle_groups(&BTreeSet::from(["10.70.1.1".parse().unwrap()])).unwrap();
        assert_eq!(answered("10.70.1.1:8080").as_deref(), Ok("10.70.1.1:8080"));
        assert_eq!(group::existing(&config), [1]);
        assert!(!Path::new("/sys/class/net/cor-groups002").exists());
        // An address that was in a group is everybody's again, from both sides.
        let inside = network.namespace.clone();
        for space in [&inside, &network.groups[&1].namespace] {
            assert!(!saw(space, "10.70.1.2:8080").is_empty());
        }
        network.leave_group(1, "10.70.1.1".parse().unwrap()).unwrap();
        network.leave_group(1, "10.70.1.1".parse().unwrap()).unwrap();
        assert_eq!(saw(&inside, "10.70.1.1:8080"), "10.70.1.1", "local again");
        assert_eq!(call("10.70.1.1:8080").unwrap().1, "10.70.0.1");
        network.teardown().unwrap();
        assert!(group::existing(&config).is_empty());
    });
}
