//! The network of a node: an address for every Pod, and Services that lead to them.
//!
//! The pure part comes first: [`routes`] derives the Service table from API objects, [`address`] and [`ranges`] hand
//! out addresses, [`listen`] lays out a proxy's sockets for machines without root. [`linux`] performs it as root:
//! one network namespace for all Wasm Pods of the node, and nftables for Services, both through netlink.
//! [`Network`] is what the agent holds; it hides which of the two ways is in use. [`dns`] answers containers that ask for a
//! Service by its name.
//!
//! In the apply trace this is the last step: `routes` rebuilds the table, and the Service answers.

pub mod address;
pub mod cidr;
pub mod dns;
pub mod linux;
pub mod listen;
mod network;
pub mod ranges;
pub mod routes;

pub use cidr::Cidr;
pub use linux::Peer;
pub use listen::Listen;
pub use network::{
    Config, HostPort, Mode, Network, NetworkError, Snapshot, choose_ranges, neighbourhood,
};
pub use ranges::{ClusterRanges, Neighbourhood};
pub use routes::{
    Endpoint, HealthCheck, Place, PortRoute, Protocol, RouteChange, RouteTable, ServiceKey,
    ServiceRoute,
};
