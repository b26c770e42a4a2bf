//! The node's Services, for runtimes that route themselves.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Transport protocol of a Service's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// The default.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of messages.
    Sctp,
}

/// The node's Services: `PUT /v1/routes` replaces the whole table at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// Grows with each table an agent pushes; for debugging.
    #[serde(default)]
    pub generation: u64,
    /// Every Service that workloads may call.
    #[serde(default)]
    pub services: Vec<ServiceRoute>,
    /// Addresses on which the host itself is to forward TCP to a Service: an ordinary user's
    /// ClusterIPs and node ports. Empty where the kernel does it.
    #[serde(default)]
    pub listen: Vec<Listen>,
}

/// One Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceRoute {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its ClusterIP; none for a headless Service.
    #[serde(default)]
    pub vip: Option<IpAddr>,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<PortRoute>,
    /// Who is ready behind a headless Service.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// The name that this one stands for (`ExternalName`); such a Service has nothing else.
    #[serde(default)]
    pub external_name: Option<String>,
    /// For how long a caller stays with its backend (`sessionAffinity: ClientIP`); each call begins the time anew.
    #[serde(default)]
    pub affinity_seconds: Option<u32>,
}

/// An endpoint as its Service's names tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its name in the Service's domain: its own, or `10-1-2-3`.
    #[serde(default)]
    pub hostname: Option<String>,
}

/// One port of a Service, and who answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortRoute {
    /// Its name; empty where there is but one.
    #[serde(default)]
    pub name: String,
    /// The port on the ClusterIP.
    pub port: u16,
    /// The port on every node.
    #[serde(default)]
    pub node_port: Option<u16>,
    /// Only TCP is routed by the Wasm host.
    #[serde(default)]
    pub protocol: Protocol,
    /// Ready endpoints, as they can be connected to.
    #[serde(default)]
    pub backends: Vec<SocketAddr>,
}

/// A forwarding listener: connections to `address` go to that Service's backends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listen {
    /// Where to listen.
    pub address: SocketAddr,
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The Service's port ([`PortRoute::port`]).
    pub port: u16,
}

/// Answer to `PUT /v1/routes`. The table is in force even where some listener could not be opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoutesStatus {
    /// Listeners that could not be opened, and why.
    #[serde(default)]
    pub failed: Vec<ListenFailure>,
}

/// A listener that could not be opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenFailure {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub message: String,
}
