//! Who is led where: policies, ranges of callers, sessions, and datagrams whose endpoint went away.

use std::net::UdpSocket;
use std::thread::sleep;

use super::*;

/// The load balancer's address of these tests; the other machine finds it by its route.
const BALANCER: &str = "10.200.0.1";

fn addresses(backends: &[&str]) -> Vec<SocketAddr> {
    backends.iter().map(|backend| backend.parse().unwrap()).collect()
}

fn balanced(backends: &[&str], change: impl FnOnce(&mut ServiceRoute)) -> Arc<ServiceRoute> {
    let mut web = ServiceRoute::clone(&route("web", "10.71.0.5", 80, Some(30080), backends));
    web.balancer_ips = vec![BALANCER.parse().unwrap()];
    change(&mut web);
    Arc::new(web)
}

#[test]
fn callers_from_outside_are_led_apart() {
    Machine::run("outside-local", |machine| {
        let mut network = PodNetwork::ensure(machine.config("outloc", 70)).unwrap();
        serve_pods(&network, 8080);
        let neighbour = machine.neighbour();
        let (one, two) = ("10.70.1.1:8080", "10.70.1.2:8080");
        let both = BTreeSet::from([one.to_owned(), two.to_owned()]);
        let seen = |address: &str| -> BTreeSet<String> {
            (0..40).map(|_| answered(address).expect(address)).collect()
        };
        let only = |backends: &[&str]| {
            balanced(&[one, two], |web| web.ports[0].outside = Some(addresses(backends)))
        };
        let (balancer, node_port) = (&format!("{BALANCER}:80")[..], "192.0.2.1:30080");
        network.replace(&[only(&[one])]).unwrap();
        for address in [balancer, node_port] {
            assert_eq!(neighbour.run(|| seen(address)).unwrap(), [one.to_owned()].into());
            let (_, saw) = neighbour.run(|| call(address)).unwrap().unwrap();
            assert_eq!(saw, "192.0.2.2", "the caller's address must be kept");
            // The machine and its Pods are no outside.
            assert_eq!(seen(address), both);
            assert_eq!(network.namespace.run(|| seen(address)).unwrap(), both);
        }
        // Without an endpoint here nobody answers, so that a load balancer in front tries another node.
        network.apply(&[set(only(&[]))]).unwrap();
        for address in [balancer, node_port] {
            assert_eq!(neighbour.run(|| call(address)).unwrap(), Err("timed out".into()));
            assert_eq!(seen(address), both);
        }
        network.apply(&[set(balanced(&[one, two], |_| {}))]).unwrap();
        for address in [balancer, node_port] {
            assert_eq!(neighbour.run(|| seen(address)).unwrap(), both);
        }
        network.teardown().unwrap();
    });
}

#[test]
fn only_some_may_call_a_balancer() {
    Machine::run("ranges", |machine| {
        let mut network = PodNetwork::ensure(machine.config("ranges", 70)).unwrap();
        serve_pods(&network, 8080);
        let neighbour = machine.neighbour();
        let backend = "10.70.1.1:8080";
        let from = |ranges: &[&str]| {
            let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
            balanced(&[backend], |web| web.source_ranges = ranges)
        };
        let balancer = &format!("{BALANCER}:80")[..];
        let may = |ranges: &[&str], network: &mut PodNetwork| {
            network.apply(&[set(from(ranges))]).unwrap();
            let may = [
                neighbour.run(|| answered(balancer).is_ok()).unwrap(),
                answered(balancer).is_ok(),
                network.namespace.run(|| answered(balancer).is_ok()).unwrap(),
            ];
            // Other addresses of the Service are open.
            assert!(neighbour.run(|| answered("192.0.2.1:30080")).unwrap().is_ok());
            assert!(answered("10.71.0.5:80").is_ok());
            may
        };
        // The other machine, this one, a Pod.
        network.replace(&[]).unwrap();
        assert_eq!(may(&[], &mut network), [true, true, true]);
        assert_eq!(may(&["192.0.2.2/32"], &mut network), [true, false, false]);
        assert_eq!(may(&["203.0.113.0/24", "10.70.0.0/16"], &mut network), [false, true, true]);
        assert_eq!(may(&["203.0.113.0/24"], &mut network), [false, false, false]);
        assert_eq!(may(&[], &mut network), [true, true, true]);
        network.teardown().unwrap();
    });
}

/// Another machine on the wire finds a balancer's address by asking.
#[test]
fn one_machine_answers_for_an_address() {
    Machine::run("announce", |machine| {
        let mut network = PodNetwork::ensure(machine.config("announce", 70)).unwrap();
        serve_pods(&network, 8080);
        let neighbour = machine.neighbour();
        let address: Ipv4Addr = "192.0.2.77".parse().unwrap();
        let mut web =
            ServiceRoute::clone(&route("web", "10.71.0.5", 80, None, &["10.70.1.1:8080"]));
        web.balancer_ips = vec![address.into()];
        network.replace(&[Arc::new(web.clone())]).unwrap();
        let ask = || neighbour.run(|| answered("192.0.2.77:80")).unwrap();
        assert!(ask().is_err(), "nobody has it");
        network.announce(&[address].into()).unwrap();
        assert_eq!(ask(), Ok("10.70.1.1:8080".to_owned()));
        assert_eq!(answered("192.0.2.77:80"), Ok("10.70.1.1:8080".to_owned()));
        // What it has no port for is refused, not led round in circles.
        neighbour.run(|| refused("192.0.2.77:81")).unwrap();
        // No more once it is another's to announce.
        network.announce(&BTreeSet::new()).unwrap();
        assert_eq!(rtnl::with(async |rtnl: &Rtnl| rtnl.proxied().await).unwrap(), []);
        web.balancer_ips.clear();
        network.apply(&[set(Arc::new(web))]).unwrap();
        let led = async |rtnl: &Rtnl| rtnl.ranges_within(Cidr::new(address, 32)).await;
        assert_eq!(rtnl::with(led).unwrap(), []);
        network.teardown().unwrap();
    });
}

#[test]
fn sessions_end() {
    Machine::run("sessions", |machine| {
        let mut network = PodNetwork::ensure(machine.config("sessions", 70)).unwrap();
        serve_pods(&network, 8080);
        let neighbour = machine.neighbour();
        let backends: Vec<String> = (1..=50).map(|n| format!("10.70.1.{n}:8080")).collect();
        let all: Vec<&str> = backends.iter().map(String::as_str).collect();
        let sticky = |backends: &[&str]| {
            balanced(backends, |web| web.affinity = Some(Duration::from_secs(2)))
        };
        network.replace(&[sticky(&all)]).unwrap();
        let addresses = ["10.71.0.5:80", "192.0.2.1:30080", &format!("{BALANCER}:80")];
        for address in addresses {
            let first = neighbour.run(|| answered(address)).unwrap().unwrap();
            // Every call begins the time anew.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(3) {
                assert_eq!(neighbour.run(|| answered(address)).unwrap(), Ok(first.clone()));
                sleep(Duration::from_millis(300));
            }
            // Others' endpoints may come and go.
            let rest: Vec<&str> =
                all.iter().copied().filter(|b| *b == first || !b.ends_with("7:8080")).collect();
            network.apply(&[set(sticky(&rest))]).unwrap();
            assert_eq!(neighbour.run(|| answered(address)).unwrap(), Ok(first.clone()));
            // One's own does not come back by itself once it was gone.
            let without: Vec<&str> = all.iter().copied().filter(|b| *b != first).collect();
            network.apply(&[set(sticky(&without))]).unwrap();
            let second = neighbour.run(|| answered(address)).unwrap().unwrap();
            assert_ne!(second, first);
            network.apply(&[set(sticky(&all))]).unwrap();
            assert_eq!(neighbour.run(|| answered(address)).unwrap(), Ok(second.clone()));
            // At most one in 50 is met again each time.
            let after: BTreeSet<String> = (0..3)
                .map(|_| {
                    sleep(Duration::from_millis(2500));
                    neighbour.run(|| answered(address)).unwrap().unwrap()
                })
                .collect();
            assert!(after.len() > 1, "{address} goes on with {after:?}");
        }
        network.teardown().unwrap();
    });
}

/// A client that sends from one port is one connection to the kernel, for as long as it goes on.
#[test]
fn datagrams_follow_their_service() {
    Machine::run("datagrams", |machine| {
        let mut network = PodNetwork::ensure(machine.config("datagrams", 70)).unwrap();
        let echo = network.namespace.run(|| {
            ["10.70.1.1:7000", "10.70.1.2:7000"].map(|address| UdpSocket::bind(address).unwrap())
        });
        for (socket, name) in echo.unwrap().into_iter().zip(["one", "two"]) {
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            });
        }
        let with = |backends: &[&str]| {
            let mut route =
                ServiceRoute::clone(&route("dns", "10.71.0.9", 53, Some(30053), backends));
            route.ports[0].protocol = Protocol::Udp;
            set(Arc::new(route))
        };
        network.replace(&[]).unwrap();
        let ask = |socket: &UdpSocket| -> String {
            let _ = socket.send(b"?");
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer).unwrap_or_default();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let client = |address: &str| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket
        };
        let inside = network.namespace.run(|| client("10.71.0.9:53")).unwrap();
        let clients = [client("10.71.0.9:53"), client("127.0.0.1:30053"), inside];
        for (backend, name) in
            [("10.70.1.1:7000", "one"), ("10.70.1.2:7000", "two"), ("10.70.1.1:7000", "one")]
        {
            network.apply(&[with(&[backend])]).unwrap();
            for socket in &clients {
                // What was refused before is told with the next datagram.
                let answers: Vec<String> = (0..2).map(|_| ask(socket)).collect();
                assert_eq!(answers[1], name);
            }
        }
        network.teardown().unwrap();
    });
}

/// A table that `nft` could not print made it break off, with the machine's own rules unlisted.
#[test]
fn the_table_can_be_listed() {
    Machine::run("listed", |machine| {
        let mut network = PodNetwork::ensure(machine.config("listed", 70)).unwrap();
        let backends = ["10.70.1.1:8080", "10.70.1.2:8080"];
        let web = balanced(&backends, |web| {
            web.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
            web.ports[0].outside = Some(addresses(&backends[..1]));
        });
        network.replace(&[web]).unwrap();
        let mut list = std::process::Command::new("nft");
        match list.args(["list", "ruleset"]).output() {
            Ok(listed) => {
                let text = String::from_utf8_lossy(&listed.stdout);
                assert!(
                    listed.status.success(),
                    "{text}{}",
                    String::from_utf8_lossy(&listed.stderr)
                );
                assert!(text.contains("10.70.1.1 . 8080"), "{text}");
            }
            Err(error) => {
                let _ =
                    writeln!(std::io::stderr(), "the_table_can_be_listed: skipped: nft: {error}");
            }
        }
        network.teardown().unwrap();
    });
}
