//! The cluster's own names (Kubernetes' DNS specification 1.1). Pure.
//!
//! ```text
//! NAME.NAMESPACE.svc.cluster.local                    a Service: its ClusterIP, or its endpoints' addresses
//! 10-1-2-3.NAME.NAMESPACE.svc.cluster.local           one endpoint of a Service without a ClusterIP
//! _PORT._PROTOCOL.NAME.NAMESPACE.svc.cluster.local    (SRV) a named port, and who has it
//! 10-1-2-3.NAMESPACE.pod.cluster.local                a Pod, by its address
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_proto::rr::RecordType;

use super::message::{Code, Query, Record};
use crate::routes::{PortRoute, Protocol, ServiceKey, ServiceRoute};

/// The cluster's domain.
pub(super) const DOMAIN: &str = "cluster.local";

/// Who knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The cluster.
    Known(Code, Vec<Record>),
    /// The machine's resolver, if anybody.
    Elsewhere,
}

/// What the cluster says to a question.
pub(super) fn answer(
    query: &Query,
    service: impl Fn(&ServiceKey) -> Option<Arc<ServiceRoute>>,
) -> Answer {
    let labels: Vec<&str> = query.labels.iter().map(String::as_str).collect();
    let [name @ .., "cluster", "local"] = &labels[..] else { return Answer::Elsewhere };
    if !query.is_internet() {
        return Answer::Known(Code::NotImp, Vec::new());
    }
    let find = |namespace: &str, name: &str| {
        service(&ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() })
    };
    let found: Option<Vec<Record>> = match name {
        // The domain itself, and what only leads on.
        [] | ["svc"] => Some(Vec::new()),
        [address, _, "pod"] => dashed(address).map(|address| vec![Record::Address(address)]),
        [name, namespace, "svc"] => find(namespace, name).map(|service| addresses(&service)),
        [endpoint, name, namespace, "svc"] => find(namespace, name).and_then(|service| {
            let address = Record::Address(dashed(endpoint)?);
            let is_there = service.cluster_ip.is_none() && addresses(&service).contains(&address);
            is_there.then(|| vec![address])
        }),
        [port, protocol, name, namespace, "svc"] => find(namespace, name)
            .map(|service| servers(&service, port, protocol))
            .filter(|servers| !servers.is_empty()),
        _ => None,
    };
    let Some(mut records) = found else { return Answer::Known(Code::NXDomain, Vec::new()) };
    records.retain(|record| match record {
        Record::Address(_) => query.kind() == RecordType::A,
        Record::Server { .. } => query.kind() == RecordType::SRV,
    });
    Answer::Known(Code::NoError, records)
}

fn addresses(service: &ServiceRoute) -> Vec<Record> {
    if let Some(IpAddr::V4(vip)) = service.cluster_ip {
        return vec![Record::Address(vip)];
    }
    let all: BTreeSet<Ipv4Addr> =
        service.ports.iter().flat_map(endpoints).map(|(ip, _)| ip).collect();
    all.into_iter().map(Record::Address).collect()
}

fn endpoints(port: &PortRoute) -> impl Iterator<Item = (Ipv4Addr, u16)> + '_ {
    port.backends.iter().filter_map(|backend| match backend.ip() {
        IpAddr::V4(ip) => Some((ip, backend.port())),
        IpAddr::V6(_) => None,
    })
}

/// Who has a named port.
fn servers(service: &ServiceRoute, port: &str, protocol: &str) -> Vec<Record> {
    let protocol = match protocol {
        "_tcp" => Protocol::Tcp,
        "_udp" => Protocol::Udp,
        "_sctp" => Protocol::Sctp,
        _ => return Vec::new(),
    };
    let Some(name) = port.strip_prefix('_').filter(|name| !name.is_empty()) else {
        return Vec::new();
    };
    let key = &service.key;
    let target = format!("{}.{}.svc.{DOMAIN}", key.name, key.namespace);
    let found = service.ports.iter().filter(|p| p.protocol == protocol && p.name == name);
    let servers = found.flat_map(|found| match service.cluster_ip {
        Some(_) => vec![Record::Server { port: found.port, target: target.clone() }],
        None => {
            let each = endpoints(found).map(|(ip, port)| {
                let target = format!("{}.{target}", ip.to_string().replace('.', "-"));
                Record::Server { port, target }
            });
            each.collect()
        }
    });
    servers.collect()
}

/// An address as a label.
fn dashed(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}
