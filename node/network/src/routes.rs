//! The Service table of a node: which virtual address and port lead to which ready Pods. Pure.
//!
//! It is kept up one object at a time, because a cluster of 5,000 Services sees many small changes: an update costs
//! the work of its own Service, and yields a [`RouteChange`] only where the outcome differs, so that nothing is
//! pushed when nothing changed. [`crate::Network::apply`] takes the changes from here to the kernel or to the proxy.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol of a Service port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }
}

/// Where one Service leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRoute {
    /// The Service.
    #[serde(flatten)]
    pub key: ServiceKey,
    /// Its ClusterIP; none for a headless Service, which guests still find by name.
    pub cluster_ip: Option<IpAddr>,
    /// Further addresses that lead here: `spec.externalIPs` and the load balancer's.
    pub external_ips: Vec<IpAddr>,
    /// `sessionAffinity: ClientIP`, with its timeout: a client stays with its backend.
    pub affinity: Option<Duration>,
    /// Its ports, in the order of the Service.
    pub ports: Vec<PortRoute>,
    /// Who is ready behind a Service that has no ClusterIP, whose names are theirs; sorted and without duplicates.
    pub endpoints: Vec<Endpoint>,
    /// `spec.externalName`: the name that this one stands for. Such a Service has neither addresses nor ports.
    pub external_name: Option<String>,
}

impl ServiceRoute {
    /// The addresses that have names by it: its own, or its endpoints'.
    pub(crate) fn named(&self) -> BTreeSet<IpAddr> {
        self.cluster_ip.into_iter().chain(self.endpoints.iter().map(|e| e.ip)).collect()
    }
}

/// An endpoint as its Service's names tell of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its name in the Service's domain: `spec.hostname` of a Pod whose `spec.subdomain` is this Service.
    pub hostname: Option<String>,
}

/// Where one port of a Service leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRoute {
    /// The port's name; empty when the Service has a single, unnamed port.
    pub name: String,
    /// The port on the ClusterIP.
    pub port: u16,
    /// The port on every node, for NodePort and LoadBalancer Services.
    pub node_port: Option<u16>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The addresses that answer, sorted and without duplicates.
    pub backends: Vec<SocketAddr>,
}

/// What became of one Service's route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// The route is new or different.
    Set(Arc<ServiceRoute>),
    /// The Service is gone.
    Gone(ServiceKey),
}

impl RouteChange {
    /// The Service it is about.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        match self {
            RouteChange::Set(route) => &route.key,
            RouteChange::Gone(key) => key,
        }
    }
}

/// All routes, kept up from Services and their EndpointSlices.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// A Service's route without backends.
    services: HashMap<ServiceKey, ServiceRoute>,
    /// Endpoints by Service, then by slice name. They may arrive before their Service.
    slices: HashMap<ServiceKey, BTreeMap<String, SliceEndpoints>>,
    /// Which Service a slice (namespace, name) belongs to: its label may change, and a deletion may lack it.
    owners: HashMap<(String, String), ServiceKey>,
    routes: BTreeMap<ServiceKey, Arc<ServiceRoute>>,
}

/// The endpoints of one slice, reduced to what routing needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SliceEndpoints {
    /// Port name, protocol and number.
    ports: Vec<(String, Protocol, u16)>,
    ready: Vec<Endpoint>,
    /// Shutting down but still answering: used only where nothing is ready.
    draining: Vec<Endpoint>,
}

impl RouteTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a new or changed Service.
    pub fn update_service(&mut self, service: &Service) -> Option<RouteChange> {
        let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name)
        else {
            return None;
        };
        let key = ServiceKey { namespace: namespace.clone(), name: name.clone() };
        self.services.insert(key.clone(), skeleton(&key, service));
        self.rebuild(key)
    }

    /// Forgets a deleted Service.
    pub fn remove_service(&mut self, namespace: &str, name: &str) -> Option<RouteChange> {
        let key = ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.services.remove(&key);
        self.rebuild(key)
    }

    /// Takes in a new or changed EndpointSlice. Two Services change when its label moved from one to the other.
    pub fn update_slice(&mut self, slice: &EndpointSlice) -> Vec<RouteChange> {
        let (Some(namespace), Some(name)) = (&slice.metadata.namespace, &slice.metadata.name)
        else {
            return Vec::new();
        };
        let owner =
            slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        let Some(owner) = owner.filter(|owner| !owner.is_empty()) else {
            return self.remove_slice(namespace, name).into_iter().collect();
        };
        let key = ServiceKey { namespace: namespace.clone(), name: owner.clone() };
        let before = self.owners.insert((namespace.clone(), name.clone()), key.clone());
        let mut changes = Vec::new();
        if let Some(before) = before.filter(|before| *before != key) {
            self.drop_endpoints(&before, name);
            changes.extend(self.rebuild(before));
        }
        self.slices.entry(key.clone()).or_default().insert(name.clone(), endpoints(slice));
        changes.extend(self.rebuild(key));
        changes
    }

    /// Forgets a deleted EndpointSlice.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) -> Option<RouteChange> {
        let key = self.owners.remove(&(namespace.to_owned(), name.to_owned()))?;
        self.drop_endpoints(&key, name);
        self.rebuild(key)
    }

    /// Replaces everything, as after a fresh list, and tells what differs.
    pub fn replace<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Vec<RouteChange> {
        let mut fresh = RouteTable::new();
        for service in services {
            fresh.update_service(service);
        }
        for slice in slices {
            fresh.update_slice(slice);
        }
        let mut changes = Vec::new();
        for key in self.routes.keys().filter(|key| !fresh.routes.contains_key(key)) {
            changes.push(RouteChange::Gone(key.clone()));
        }
        for (key, route) in &fresh.routes {
            if self.routes.get(key) != Some(route) {
                changes.push(RouteChange::Set(Arc::clone(route)));
            }
        }
        *self = fresh;
        changes
    }

    /// The route of one Service.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceRoute>> {
        self.routes.get(&ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// All routes, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServiceRoute>> {
        self.routes.values()
    }

    fn drop_endpoints(&mut self, key: &ServiceKey, slice: &str) {
        if let Some(slices) = self.slices.get_mut(key) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices.remove(key);
            }
        }
    }

    /// Derives one Service's route afresh; yields it only if it differs.
    fn rebuild(&mut self, key: ServiceKey) -> Option<RouteChange> {
        let Some(skeleton) = self.services.get(&key) else {
            return self.routes.remove(&key).map(|_| RouteChange::Gone(key));
        };
        let mut route = skeleton.clone();
        // What is left of the time before a Service's type became `ExternalName` leads nowhere.
        if let Some(slices) = self.slices.get(&key)
            && route.external_name.is_none()
        {
            if route.cluster_ip.is_none() {
                let ready: BTreeSet<&Endpoint> = slices.values().flat_map(|s| &s.ready).collect();
                route.endpoints = ready.into_iter().cloned().collect();
            }
            for port in &mut route.ports {
                port.backends = backends(slices.values(), &port.name, port.protocol);
            }
        }
        if self.routes.get(&key).is_some_and(|before| **before == route) {
            return None;
        }
        let route = Arc::new(route);
        self.routes.insert(key, Arc::clone(&route));
        Some(RouteChange::Set(route))
    }
}

/// The ready endpoints of a port; where there are none, those that shut down but still serve, as kube-proxy does.
fn backends<'a>(
    slices: impl Iterator<Item = &'a SliceEndpoints> + Clone,
    name: &str,
    protocol: Protocol,
) -> Vec<SocketAddr> {
    let collect = |pick: fn(&SliceEndpoints) -> &Vec<Endpoint>| -> BTreeSet<SocketAddr> {
        let matching = slices.clone().flat_map(|slice| {
            let ports = slice.ports.iter().filter(|(n, p, _)| n == name && *p == protocol);
            ports.flat_map(move |(_, _, port)| {
                pick(slice).iter().map(|endpoint| SocketAddr::new(endpoint.ip, *port))
            })
        });
        matching.collect()
    };
    let mut found = collect(|slice| &slice.ready);
    if found.is_empty() {
        found = collect(|slice| &slice.draining);
    }
    found.into_iter().collect()
}

/// A Service's route without backends.
fn skeleton(key: &ServiceKey, service: &Service) -> ServiceRoute {
    let nothing = ServiceRoute {
        key: key.clone(),
        cluster_ip: None,
        external_ips: Vec::new(),
        affinity: None,
        ports: Vec::new(),
        endpoints: Vec::new(),
        external_name: None,
    };
    let Some(spec) = &service.spec else { return nothing };
    if spec.type_.as_deref() == Some("ExternalName") {
        return ServiceRoute { external_name: spec.external_name.clone(), ..nothing };
    }
    let port_number = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0);
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(PortRoute {
            name: port.name.clone().unwrap_or_default(),
            port: port_number(port.port)?,
            node_port: port.node_port.and_then(port_number),
            protocol: Protocol::parse(port.protocol.as_deref())?,
            backends: Vec::new(),
        })
    });
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let ingress = ingress.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref());
    let externals: BTreeSet<IpAddr> = spec
        .external_ips
        .iter()
        .flatten()
        .chain(ingress)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config =
            spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|client| client.timeout_seconds).unwrap_or(10_800);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(10_800))
    });
    ServiceRoute {
        // "None" marks a headless Service; it does not parse as an address.
        cluster_ip: spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()),
        external_ips: externals.into_iter().collect(),
        affinity,
        ports: ports.collect(),
        ..nothing
    }
}

fn endpoints(slice: &EndpointSlice) -> SliceEndpoints {
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        let number = port.port.and_then(|n| u16::try_from(n).ok())?;
        Some((
            port.name.clone().unwrap_or_default(),
            Protocol::parse(port.protocol.as_deref())?,
            number,
        ))
    });
    let mut result = SliceEndpoints { ports: ports.collect(), ..SliceEndpoints::default() };
    for endpoint in slice.endpoints.iter().flatten() {
        // The API defines absent conditions: ready and serving count as true, terminating as false.
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        let list = match (ready, serving && terminating) {
            (true, _) => &mut result.ready,
            (false, true) => &mut result.draining,
            (false, false) => continue,
        };
        // Consumers use the first address only: the others are the API's reserve (EndpointSlice v1).
        let ip = endpoint.addresses.first().and_then(|ip| ip.parse::<IpAddr>().ok());
        let hostname = endpoint.hostname.clone().filter(|name| !name.is_empty());
        list.extend(ip.map(|ip| Endpoint { ip, hostname }));
    }
    result
}
