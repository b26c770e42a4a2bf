//! The cluster's names, and the messages that they travel in.

use std::net::SocketAddr;

use super::message::Record;
use super::*;
use crate::routes::{PortRoute, Protocol, ServiceKey, ServiceRoute};

const A: u16 = 1;
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

/// `web` has a ClusterIP, `db` in namespace `data` has none.
fn service(key: &ServiceKey) -> Option<Arc<ServiceRoute>> {
    let (vip, backends): (Option<&str>, &[&str]) = match (&key.namespace[..], &key.name[..]) {
        ("default", "web") => (Some("10.1.0.7"), &["10.0.1.1:8080"]),
        ("data", "db") => (None, &["10.0.1.2:5432", "10.0.1.3:5432"]),
        _ => return None,
    };
    let port = PortRoute {
        name: "main".to_owned(),
        port: 80,
        node_port: None,
        protocol: Protocol::Tcp,
        backends: backends.iter().map(|b| b.parse::<SocketAddr>().unwrap()).collect(),
    };
    let more = PortRoute { name: "more".to_owned(), port: 81, ..port.clone() };
    Some(Arc::new(ServiceRoute {
        key: key.clone(),
        cluster_ip: vip.map(|vip| vip.parse().unwrap()),
        external_ips: Vec::new(),
        affinity: None,
        ports: vec![port, more],
    }))
}

fn ask(name: &str, kind: u16) -> Answer {
    zone::answer(&message::parse(&question(name, kind)).unwrap(), service)
}

#[test]
fn names_of_the_cluster() {
    let address = |text: &str| Record::Address(text.parse().unwrap());
    let server = |port, target: &str| Record::Server { port, target: target.to_owned() };
    let known = |records: &[Record]| Answer::Known(Code::NoError, records.to_vec());
    let none = || Answer::Known(Code::NXDomain, Vec::new());
    const AAAA: u16 = 28;
    for (name, kind, expected) in [
        ("web.default.svc.cluster.local", A, known(&[address("10.1.0.7")])),
        ("WEB.default.svc.Cluster.local.", A, known(&[address("10.1.0.7")])),
        ("web.default.svc.cluster.local", AAAA, known(&[])),
        ("web.other.svc.cluster.local", A, none()),
        ("db.data.svc.cluster.local", A, known(&[address("10.0.1.2"), address("10.0.1.3")])),
        ("10-0-1-3.db.data.svc.cluster.local", A, known(&[address("10.0.1.3")])),
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
                server(5432, "10-0-1-2.db.data.svc.cluster.local"),
                server(5432, "10-0-1-3.db.data.svc.cluster.local"),
            ]),
        ),
        ("_main._udp.web.default.svc.cluster.local", SRV, none()),
        ("10-0-1-9.default.pod.cluster.local", A, known(&[address("10.0.1.9")])),
        ("nobody.default.pod.cluster.local", A, none()),
        ("svc.cluster.local", A, known(&[])),
        ("a.b.c.cluster.local", A, none()),
        ("example.org", A, Answer::Elsewhere),
        ("local", A, Answer::Elsewhere),
        ("", A, Answer::Elsewhere),
    ] {
        assert_eq!(ask(name, kind), expected, "{name}");
    }
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
    use hickory_proto::op::{Edns, Message};
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
