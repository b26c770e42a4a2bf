//! The cluster's names, and the messages that they travel in.

use std::net::SocketAddr;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::Message;

use super::message::Record;
use super::upstream::servers;
use super::*;
use crate::routes::{Endpoint, PortRoute, Protocol, ServiceKey, ServiceRoute};

const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const TXT: u16 = 16;
const SRV: u16 = 33;
/// Longest datagram, where nothing else was agreed upon.
const DATAGRAM: usize = 512;

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(1u16.to_be_bytes());
    message
}

/// No name server at all.
fn nobody() -> Upstream {
    Upstream::new("/nonexistent", PORT, Ipv4Addr::LOCALHOST.into())
}

/// `web` has a ClusterIP, `db` in namespace `data` has none, and `out` is another name.
struct Table;

impl Services for Table {
    fn service(&self, key: &ServiceKey) -> Option<Arc<ServiceRoute>> {
        let (vip, backends, external): (Option<&str>, &[&str], Option<&str>) =
            match (&key.namespace[..], &key.name[..]) {
                ("default", "web") => (Some("10.1.0.7"), &["10.0.1.1:8080"], None),
                ("data", "db") => (None, &["10.0.1.2:5432", "10.0.1.3:5432"], None),
                ("default", "out") => (None, &[], Some("web.default.svc.cluster.local")),
                ("default", "in") => (None, &[], Some("out.default.svc.cluster.local.")),
                ("default", "round") => (None, &[], Some("round.default.svc.cluster.local")),
                ("default", "bad") => (None, &[], Some("a..b")),
                _ => return None,
            };
        let backends: Vec<SocketAddr> = backends.iter().map(|b| b.parse().unwrap()).collect();
        let hostname = |ip: IpAddr| (ip == db(2)).then(|| "db-0".to_owned());
        let endpoints =
            backends.iter().map(|b| Endpoint { ip: b.ip(), hostname: hostname(b.ip()) });
        let port = PortRoute {
            name: "main".to_owned(),
            port: 80,
            node_port: None,
            protocol: Protocol::Tcp,
            backends: backends.clone(),
            ..PortRoute::default()
        };
        // Those that shut down are left to who has nobody else, and have no names.
        let draining = vec!["10.0.1.9:5432".parse().unwrap()];
        let ports = vec![
            PortRoute { name: "more".to_owned(), port: 81, ..port.clone() },
            PortRoute { name: "last".to_owned(), port: 82, backends: draining, ..port.clone() },
            port,
        ];
        let vip: Option<IpAddr> = vip.map(|vip| vip.parse().unwrap());
        Some(Arc::new(ServiceRoute {
            key: key.clone(),
            cluster_ip: vip,
            endpoints: if vip.is_none() { endpoints.collect() } else { Vec::new() },
            external_name: external.map(str::to_owned),
            ports,
            ..ServiceRoute::default()
        }))
    }

    fn services_at(&self, address: Ipv4Addr) -> Vec<Arc<ServiceRoute>> {
        let all = [("default", "web"), ("data", "db")].map(|(namespace, name)| {
            let key = ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() };
            self.service(&key).unwrap()
        });
        all.into_iter().filter(|s| s.named().contains(&IpAddr::from(address))).collect()
    }

    fn is_of_cluster(&self, address: Ipv4Addr) -> bool {
        matches!(address.octets(), [10, 0 | 1, ..])
    }
}

fn db(number: u8) -> IpAddr {
    [10, 0, 1, number].into()
}

fn ask(name: &str, kind: u16) -> Answer {
    zone::answer(&message::parse(&question(name, kind)).unwrap(), &Table)
}

#[test]
fn names_of_the_cluster() {
    let address = |text: &str| Record::Address(text.parse().unwrap());
    let server = |port, target: &str| Record::Server { port, target: target.to_owned() };
    let pointer = |name: &str| known(&[Record::Name(name.to_owned())]);
    let alias = |name: &str| Answer::Alias(name.to_owned());
    fn known(records: &[Record]) -> Answer {
        Answer::Known(Code::NoError, records.to_vec())
    }
    let none = || Answer::Known(Code::NXDomain, Vec::new());
    const AAAA: u16 = 28;
    for (name, kind, expected) in [
        ("web.default.svc.cluster.local", A, known(&[address("10.1.0.7")])),
        ("WEB.default.svc.Cluster.local.", A, known(&[address("10.1.0.7")])),
        ("web.default.svc.cluster.local", AAAA, known(&[])),
        ("web.other.svc.cluster.local", A, none()),
        ("db.data.svc.cluster.local", A, known(&[address("10.0.1.2"), address("10.0.1.3")])),
        ("db-0.db.data.svc.cluster.local", A, known(&[address("10.0.1.2")])),
        ("db-0.db.data.svc.cluster.local", AAAA, known(&[])),
        ("db-1.db.data.svc.cluster.local", A, none()),
        ("10-0-1-3.db.data.svc.cluster.local", A, known(&[address("10.0.1.3")])),
        // It has a name.
        ("10-0-1-2.db.data.svc.cluster.local", A, none()),
        ("10-0-1-4.db.data.svc.cluster.local", A, none()),
        ("10-0-1-1.web.default.svc.cluster.local", A, none()),
        (
            "_main._tcp.web.default.svc.cluster.local",
            SRV,
            known(&[server(80, "web.default.svc.cluster.local")]),
        ),
        (
            "_more._tcp.db.data.svc.cluster.local",
            SRV,
            known(&[
                server(5432, "db-0.db.data.svc.cluster.local"),
                server(5432, "10-0-1-3.db.data.svc.cluster.local"),
            ]),
        ),
        ("_last._tcp.db.data.svc.cluster.local", SRV, none()),
        ("_main._udp.web.default.svc.cluster.local", SRV, none()),
        ("10-0-1-9.default.pod.cluster.local", A, known(&[address("10.0.1.9")])),
        ("nobody.default.pod.cluster.local", A, none()),
        ("svc.cluster.local", A, known(&[])),
        ("a.b.c.cluster.local", A, none()),
        ("out.default.svc.cluster.local", A, alias("web.default.svc.cluster.local")),
        ("7.0.1.10.in-addr.arpa", PTR, pointer("web.default.svc.cluster.local")),
        ("2.1.0.10.in-addr.arpa", PTR, pointer("db-0.db.data.svc.cluster.local")),
        ("3.1.0.10.in-addr.arpa", PTR, pointer("10-0-1-3.db.data.svc.cluster.local")),
        ("3.1.0.10.in-addr.arpa", A, known(&[])),
        // Of the Pods' range, and behind a ClusterIP: the address has no name of its own.
        ("1.1.0.10.in-addr.arpa", PTR, none()),
        ("1.1.2.10.in-addr.arpa", PTR, Answer::Elsewhere),
        ("1.0.10.in-addr.arpa", PTR, Answer::Elsewhere),
        ("dns-version.cluster.local", TXT, known(&[Record::Text("1.1.0".to_owned())])),
        ("dns-version.cluster.local", A, known(&[])),
        ("example.com", A, Answer::Elsewhere),
        ("local", A, Answer::Elsewhere),
        ("", A, Answer::Elsewhere),
    ] {
        assert_eq!(ask(name, kind), expected, "{name}");
    }
}

/// Resolvers of Pods follow no alias by themselves.
#[tokio::test]
async fn aliases_come_with_what_they_stand_for() {
    let check = async |name: &str, kind, code: Code, records: &[&str]| {
        let question = question(&format!("{name}.default.svc.cluster.local"), kind);
        let reply = answer(&Table, &nobody(), &question, Way::Connection).await.unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.response_code, code, "{name}");
        let shown = |record: &hickory_proto::rr::Record| format!("{} {}", record.name, record.data);
        let found: Vec<String> = reply.answers.iter().map(shown).collect();
        assert_eq!(found, records, "{name}");
    };
    let to_web = "out.default.svc.cluster.local. web.default.svc.cluster.local.";
    let to_out = "in.default.svc.cluster.local. out.default.svc.cluster.local.";
    let web = "web.default.svc.cluster.local. 10.1.0.7";
    check("out", A, Code::NoError, &[to_web, web]).await;
    check("in", A, Code::NoError, &[to_out, to_web, web]).await;
    check("in", CNAME, Code::NoError, &[to_out]).await;
    check("round", A, Code::ServFail, &[]).await;
    check("bad", A, Code::ServFail, &[]).await;
}

#[test]
fn answers_as_they_travel() {
    let question = question("web.default.svc.cluster.local", A);
    let query = message::parse(&question).unwrap();
    let records = [Record::Address(Ipv4Addr::new(10, 1, 0, 7))];
    let reply = message::reply(&query, Code::NoError, &records, query.datagram()).unwrap();
    assert!(message::is_answer(&reply, &question));
    // An authoritative answer with one record; the question; the record.
    assert_eq!(reply[..12], [0x12, 0x34, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    assert_eq!(reply[12..question.len()], question[12..]);
    assert_eq!(reply[question.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 1, 0, 7]);
    // What does not fit is cut, not shortened.
    let many = vec![records[0].clone(); 100];
    let reply = message::reply(&query, Code::NoError, &many, DATAGRAM).unwrap();
    assert_eq!((reply.len(), reply[2] & 2, reply[7]), (question.len(), 2, 0));
    assert_eq!(message::reply(&query, Code::NoError, &many, 65_535).unwrap()[7], 100);
}

#[test]
fn what_is_no_question() {
    let whole = question("web.default.svc.cluster.local", A);
    // Whoever sends an answer, or less than a header, gets none: two servers must not talk for ever.
    let mut answer = whole.clone();
    answer[2] |= 0x80;
    for message in [&answer[..], &[], &whole[..5]] {
        assert_eq!(message::parse(message), Err(None));
    }
    let code = |message: &[u8]| {
        let refusal = message::parse(message).expect_err("it is no question").unwrap();
        assert!(message::is_answer(&refusal, message));
        refusal[3] & 0xf
    };
    let mut update = whole.clone();
    update[2] |= 5 << 3;
    assert_eq!(code(&update), Code::NotImp.low());
    let mut pointer = whole.clone();
    pointer[12] = 0xc0;
    let mut two = whole.clone();
    two[5] = 2;
    for message in [&pointer[..], &two, &whole[..20], &whole[..whole.len() - 1]] {
        assert_eq!(code(message), Code::FormErr.low(), "{message:?}");
    }
    let endless = question(&"a.".repeat(200), A);
    assert_eq!(code(&endless), Code::FormErr.low());
}

#[test]
fn the_machines_servers() {
    let config = "# comment\nnameserver 127.0.0.53\nsearch a b\nnameserver ::1\nnameserver x\n\
                  nameserver 1.1.1.1\nnameserver 9.9.9.9\n";
    let expected: Vec<IpAddr> =
        ["127.0.0.53", "::1", "1.1.1.1"].iter().map(|ip| ip.parse().unwrap()).collect();
    assert_eq!(servers(config), expected);
}

#[test]
fn who_takes_longer_datagrams_gets_them() {
    use hickory_proto::op::Edns;
    let mut asked = Message::from_vec(&question("db.data.svc.cluster.local", A)).unwrap();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let query = message::parse(&asked.to_vec().unwrap()).unwrap();
    let records = vec![Record::Address(Ipv4Addr::new(10, 1, 0, 7)); 60];
    let reply = message::reply(&query, Code::NoError, &records, query.datagram()).unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert!(reply.answers.len() == 60 && reply.edns.is_some() && !reply.metadata.truncation);
}

#[tokio::test]
async fn what_is_not_there_may_be_kept() {
    for (name, kind, code, zone) in [
        ("nobody.default.svc.cluster.local", A, Code::NXDomain, "cluster.local."),
        ("web.default.svc.cluster.local", 28, Code::NoError, "cluster.local."),
        ("9.9.0.10.in-addr.arpa", PTR, Code::NXDomain, "in-addr.arpa."),
    ] {
        let reply = answer(&Table, &nobody(), &question(name, kind), Way::Datagram).await.unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.response_code, code, "{name}");
        let [soa] = &reply.authorities[..] else { panic!("{name}: {:?}", reply.authorities) };
        assert_eq!((soa.name.to_string(), soa.ttl, reply.answers.len()), (zone.to_owned(), 5, 0));
    }
    // Something there is not followed by it, nor somebody else's absence.
    for name in ["web.default.svc.cluster.local", "example.com"] {
        let reply = answer(&Table, &nobody(), &question(name, A), Way::Datagram).await.unwrap();
        assert!(Message::from_vec(&reply).unwrap().authorities.is_empty(), "{name}");
    }
}

/// A name server on a port of its own, which gives everything the same address for `seconds`, and counts.
async fn name_server(seconds: u32) -> (u16, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (socket.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::Relaxed);
            let query = message::parse(&buffer[..length]).unwrap();
            let address = Record::Address(Ipv4Addr::new(192, 0, 2, 1));
            let reply = message::reply(&query, Code::NoError, &[address], 512).unwrap();
            let mut reply = Message::from_vec(&reply).unwrap();
            reply.answers[0].ttl = seconds;
            let _ = socket.send_to(&reply.to_vec().unwrap(), from).await;
        }
    });
    (port, asked)
}

#[tokio::test]
async fn others_answers_are_kept_for_their_time() {
    let folder = std::env::temp_dir().join(format!("coracle-dns-{}", std::process::id()));
    std::fs::write(&folder, "nameserver 127.0.0.1\n").unwrap();
    let ask = async |upstream: &Upstream, name: &str, id: u8| {
        let mut question = question(name, A);
        question[1] = id;
        let reply = answer(&Table, upstream, &question, Way::Datagram).await.unwrap();
        assert_eq!(reply[1], id, "an answer to another question");
        Message::from_vec(&reply).unwrap()
    };
    for (seconds, expected) in [(0, 3), (60, 1)] {
        let (port, asked) = name_server(seconds).await;
        let upstream = Upstream::new(&folder, port, Ipv4Addr::new(10, 0, 0, 1).into());
        for id in 1..4 {
            let reply = ask(&upstream, "example.com", id).await;
            assert_eq!(reply.answers.len(), 1);
            assert!(reply.answers[0].ttl <= seconds);
        }
        assert_eq!(asked.load(Ordering::Relaxed), expected, "{seconds}");
        ask(&upstream, "example.org", 9).await;
        assert_eq!(asked.load(Ordering::Relaxed), expected + 1);
        // So many that not all are kept; all are answered.
        for n in 0..600 {
            ask(&upstream, &format!("n{n}.example.net"), 1).await;
        }
    }
    // Whom we would ask is ourselves: that would never end.
    let (port, asked) = name_server(60).await;
    let upstream = Upstream::new(&folder, port, Ipv4Addr::LOCALHOST.into());
    let reply = ask(&upstream, "example.com", 1).await;
    assert_eq!(reply.metadata.response_code, Code::ServFail);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    std::fs::remove_file(&folder).unwrap();
}

/// Whatever arrives, it is a question that is answered within what its asker takes, or it is refused, or nothing is said.
#[test]
fn questions_by_chance() {
    let good = [
        question("web.default.svc.cluster.local", A),
        question("_main._tcp.db.data.svc.cluster.local", SRV),
        question("2.1.0.10.in-addr.arpa", PTR),
        question("out.default.svc.cluster.local", CNAME),
        question("dns-version.cluster.local", TXT),
    ];
    let good: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
    let words =
        ["\u{3}web\u{7}default\u{3}svc", "\u{7}cluster\u{5}local\u{0}", "\u{0}\u{29}\u{10}\u{0}"];
    coracle_fuzz::bytes("dns", &good, &words, |input| {
        let _ = (message::lifetime(input), message::parts(input), message::is_answer(input, input));
        let _ = message::aged(input, input, Duration::from_secs(3));
        let query = match message::parse(input) {
            Ok(query) => query,
            Err(refusal) => {
                let refused = refusal.is_none_or(|refusal| Message::from_vec(&refusal).is_ok());
                return assert!(refused, "a refusal that nobody can read");
            }
        };
        let records = match zone::answer(&query, &Table) {
            Answer::Known(_, records) => records,
            Answer::Alias(name) => vec![Record::Alias(name)],
            Answer::Elsewhere => Vec::new(),
        };
        if let Ok(answer) = message::reply(&query, Code::NoError, &records, query.datagram()) {
            assert!(answer.len() <= query.datagram(), "{} bytes", answer.len());
            assert!(message::is_answer(&answer, input));
        }
    });
}
