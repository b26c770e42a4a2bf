//! The Service table of a node: which virtual address and port lead to which ready Pods. Pure.
//!
//! It is kept up one object at a time, because a cluster of 5,000 Services sees many small changes: an update costs
//! the work of its own Service, and yields a [`RouteChange`] only where the outcome differs, so that nothing is
//! pushed when nothing changed. [`crate::Network::apply`] takes the changes from here to the kernel or to the proxy.
//!
//! What a Service says is read in [`service`]; who of its endpoints gets which calls is decided in [`endpoints`].

mod endpoints;
mod service;
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

use self::endpoints::SliceEndpoints;
use self::service::Skeleton;
use crate::cidr::Cidr;

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// Where a node is: what policies and hints compare endpoints with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Its zone (`topology.kubernetes.io/zone`).
    pub zone: Option<String>,
}

/// Where one Service leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRoute {
    /// The Service.
    #[serde(flatten)]
    pub key: ServiceKey,
    /// Its ClusterIP; none for a headless Service, which guests still find by name.
    pub cluster_ip: Option<IpAddr>,
    /// Further addresses that lead here: `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses (`status.loadBalancer.ingress`), but for those that are a proxy's own.
    pub balancer_ips: Vec<IpAddr>,
    /// Who may call the load balancer's addresses (`spec.loadBalancerSourceRanges`); everybody where there is none.
    pub source_ranges: Vec<Cidr>,
    /// Where other load balancers ask whether this node has endpoints (`spec.healthCheckNodePort`).
    pub health_check: Option<HealthCheck>,
    /// The nodes with endpoints, of a Service that takes calls from outside only there.
    pub nodes: Option<BTreeSet<Arc<str>>>,
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

impl Endpoint {
    /// Its name in the Service's domain, which is made of its address where nobody gave it one.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.hostname {
            Some(name) => name.clone(),
            None => self.ip.to_string().replace(['.', ':'], "-"),
        }
    }
}

/// What is answered on a `healthCheckNodePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The port on every node.
    pub port: u16,
    /// How many ready endpoints this node has.
    pub local_endpoints: usize,
}

/// Where one port of a Service leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Who answers node ports and external addresses, where that is somebody else (`internalTrafficPolicy: Local`).
    pub external: Option<Vec<SocketAddr>>,
    /// Who answers callers from outside of the cluster there, where that is somebody else (`externalTrafficPolicy: Local`).
    pub outside: Option<Vec<SocketAddr>>,
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
    place: Place,
    /// A Service's route without backends.
    services: HashMap<ServiceKey, Skeleton>,
    /// Endpoints by Service, then by slice name. They may arrive before their Service.
    slices: HashMap<ServiceKey, BTreeMap<String, SliceEndpoints>>,
    /// Which Service a slice (namespace, name) belongs to: its label may change, and a deletion may lack it.
    owners: HashMap<(String, String), ServiceKey>,
    routes: BTreeMap<ServiceKey, Arc<ServiceRoute>>,
}

impl RouteTable {
    /// An empty table of a node at `place`.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// Takes in where the node is, as far as that has changed.
    pub fn set_place(&mut self, place: Place) -> Vec<RouteChange> {
        if self.place == place {
            return Vec::new();
        }
        self.place = place;
        let keys: Vec<ServiceKey> = self.services.keys().cloned().collect();
        keys.into_iter().filter_map(|key| self.rebuild(key)).collect()
    }

    /// Takes in a new or changed Service.
    pub fn update_service(&mut self, service: &Service) -> Option<RouteChange> {
        let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name)
        else {
            return None;
        };
        let key = ServiceKey { namespace: namespace.clone(), name: name.clone() };
        self.services.insert(key.clone(), Skeleton::of(&key, service));
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
        self.slices.entry(key.clone()).or_default().insert(name.clone(), SliceEndpoints::of(slice));
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
        let mut fresh = RouteTable::at(self.place.clone());
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
        let none = BTreeMap::new();
        let slices = self.slices.get(&key).unwrap_or(&none);
        let route = skeleton.with(slices.values(), &self.place);
        if self.routes.get(&key).is_some_and(|before| **before == route) {
            return None;
        }
        let route = Arc::new(route);
        self.routes.insert(key, Arc::clone(&route));
        Some(RouteChange::Set(route))
    }
}
