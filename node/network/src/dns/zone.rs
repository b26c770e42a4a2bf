//! The cluster's own names (Kubernetes' DNS specification 1.1). Pure.
//!
//! ```text
//! NAME.NAMESPACE.svc.cluster.local                    a Service: its ClusterIP, its endpoints' addresses, or (CNAME) what it is another name of
//! HOSTNAME.NAME.NAMESPACE.svc.cluster.local           one endpoint of a Service without a ClusterIP; 10-1-2-3 where it has no host name
//! _PORT._PROTOCOL.NAME.NAMESPACE.svc.cluster.local    (SRV) a named port, and who has it
//! 10-1-2-3.NAMESPACE.pod.cluster.local                a Pod, by its address
//! 3.2.1.10.in-addr.arpa                               (PTR) the name of a ClusterIP, or of such an endpoint
//! dns-version.cluster.local                           (TXT) the specification's version
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_proto::rr::RecordType;

use super::message::{Code, Query, Record};
use crate::Network;
use crate::routes::{Endpoint, PortRoute, Protocol, ServiceKey, ServiceRoute};

/// The cluster's domain.
pub(super) const DOMAIN: &str = "cluster.local";
const VERSION: &str = "1.1.0";

/// What the names are made of.
pub(super) trait Services {
    /// The Service of this name.
    fn service(&self, key: &ServiceKey) -> Option<Arc<ServiceRoute>>;
    /// The Services with this ClusterIP, or, having none, with this endpoint.
    fn services_at(&self, address: Ipv4Addr) -> Vec<Arc<ServiceRoute>>;
    /// Whether it is for the cluster to name this address.
    fn is_of_cluster(&self, address: Ipv4Addr) -> bool;
}

impl Services for Network {
    fn service(&self, key: &ServiceKey) -> Option<Arc<ServiceRoute>> {
        Network::service(self, key)
    }

    fn services_at(&self, address: Ipv4Addr) -> Vec<Arc<ServiceRoute>> {
        Network::services_at(self, address.into())
    }

    fn is_of_cluster(&self, address: Ipv4Addr) -> bool {
        Network::is_of_cluster(self, address)
    }
}

/// Who knows.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// The cluster.
    Known(Code, Vec<Record>),
    /// Whoever knows this name, which is the same.
    Alias(String),
    /// The machine's resolver, if anybody.
    Elsewhere,
}

/// What the cluster says to a question.
pub(super) fn answer(query: &Query, services: &impl Services) -> Answer {
    let labels: Vec<&str> = query.labels.iter().map(String::as_str).collect();
    let found = match &labels[..] {
        [name @ .., "cluster", "local"] => Ok(name),
        [address @ .., "in-addr", "arpa"] => match reversed(address) {
            // Services may have addresses out of more ranges than the cluster began with.
            Some(address)
                if services.is_of_cluster(address) || !services.services_at(address).is_empty() =>
            {
                Err(address)
            }
            _ => return Answer::Elsewhere,
        },
        _ => return Answer::Elsewhere,
    };
    if !query.is_internet() {
        return Answer::Known(Code::NotImp, Vec::new());
    }
    let find = |namespace: &str, name: &str| {
        services.service(&ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() })
    };
    let found: Option<Vec<Record>> = match found {
        Err(address) => Some(names(address, services)).filter(|names| !names.is_empty()),
        // The domain itself, and what only leads on.
        Ok([] | ["svc"]) => Some(Vec::new()),
        Ok(["dns-version"]) => Some(vec![Record::Text(VERSION.to_owned())]),
        Ok([address, _, "pod"]) => dashed(address).map(|address| vec![Record::Address(address)]),
        Ok([name, namespace, "svc"]) => match find(namespace, name) {
            Some(service) => match &service.external_name {
                Some(target) => return Answer::Alias(target.clone()),
                None => Some(addresses(&service)),
            },
            None => None,
        },
        Ok([label, name, namespace, "svc"]) => find(namespace, name)
            .map(|service| distinct(service.endpoints.iter().filter(|e| e.label() == *label)))
            .filter(|addresses| !addresses.is_empty()),
        Ok([port, protocol, name, namespace, "svc"]) => find(namespace, name)
            .map(|service| servers(&service, port, protocol))
            .filter(|servers| !servers.is_empty()),
        Ok(_) => None,
    };
    let Some(mut records) = found else { return Answer::Known(Code::NXDomain, Vec::new()) };
    records.retain(|record| match record {
        Record::Address(_) => query.kind() == RecordType::A,
        Record::Server { .. } => query.kind() == RecordType::SRV,
        Record::Name(_) => query.kind() == RecordType::PTR,
        Record::Text(_) => query.kind() == RecordType::TXT,
        Record::Alias(_) | Record::Foreign(_) => true,
    });
    Answer::Known(Code::NoError, records)
}

fn addresses(service: &ServiceRoute) -> Vec<Record> {
    match service.cluster_ip {
        Some(IpAddr::V4(vip)) => vec![Record::Address(vip)],
        Some(IpAddr::V6(_)) => Vec::new(),
        None => distinct(service.endpoints.iter()),
    }
}

fn distinct<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<Record> {
    let addresses = endpoints.filter_map(|endpoint| match endpoint.ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    addresses.collect::<BTreeSet<_>>().into_iter().map(Record::Address).collect()
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
    let target = domain(&service.key);
    let found = service.ports.iter().filter(|p| p.protocol == protocol && p.name == name);
    let servers = found.flat_map(|found| match service.cluster_ip {
        Some(_) => vec![Record::Server { port: found.port, target: target.clone() }],
        None => each(service, found, &target),
    });
    servers.collect()
}

/// A port of every endpoint that has a name.
fn each(service: &ServiceRoute, port: &PortRoute, domain: &str) -> Vec<Record> {
    let servers = port.backends.iter().flat_map(|backend| {
        let named = service.endpoints.iter().filter(|endpoint| endpoint.ip == backend.ip());
        named.map(|endpoint| Record::Server {
            port: backend.port(),
            target: format!("{}.{domain}", endpoint.label()),
        })
    });
    servers.collect()
}

/// The names of an address. Those that somebody gave it are before those that are made of it.
fn names(address: Ipv4Addr, services: &impl Services) -> Vec<Record> {
    let (mut given, mut made) = (Vec::new(), Vec::new());
    for service in services.services_at(address) {
        let domain = domain(&service.key);
        if service.cluster_ip.is_some() {
            return vec![Record::Name(domain)];
        }
        for endpoint in service.endpoints.iter().filter(|endpoint| endpoint.ip == address) {
            let list = if endpoint.hostname.is_some() { &mut given } else { &mut made };
            list.push(Record::Name(format!("{}.{domain}", endpoint.label())));
        }
    }
    if given.is_empty() { made } else { given }
}

fn domain(key: &ServiceKey) -> String {
    format!("{}.{}.svc.{DOMAIN}", key.name, key.namespace)
}

/// An address as a label.
fn dashed(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}

/// An address as labels, the last byte first.
fn reversed(labels: &[&str]) -> Option<Ipv4Addr> {
    let labels: Vec<&str> = labels.iter().rev().copied().collect();
    labels.join(".").parse().ok()
}
