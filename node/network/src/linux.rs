//! The node's network as root: a namespace for Wasm Pods and one for each Pod with containers, veth pairs into them, and
//! Service rules in the kernel.
//!
//! Everything is done through netlink sockets, so that no program (`ip`, `nft`) need be installed and a change costs
//! microseconds. A socket belongs to the namespace it was opened in, for ever; only opening one takes a thread that
//! has entered the namespace.

mod attached;
mod balancer;
mod group;
mod netns;
pub mod nft;
mod peers;
mod pod_network;
pub(crate) mod rtnl;

pub use group::MAX_GROUPS;
#[cfg(test)]
pub(crate) use netns::on_thread;
pub use netns::{Make, NetNs, NetNsError};
pub use peers::Peer;
pub use pod_network::{PodNetwork, PodNetworkConfig, PodNetworkError};
pub use rtnl::{RtnlError, neighbourhood, taken_ranges};

/// What the names of links begin with that are the node `id`'s.
#[must_use]
pub fn link_names(id: &str) -> [String; 2] {
    [format!("{}{id}", pod_network::LINK), format!("{}{id}", peers::TUNNEL)]
}

/// Whether this process may set networks up: it has `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`, as root usually does and
/// root in an ordinary container does not.
#[must_use]
pub fn may_administer_network() -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    capabilities & NET_ADMIN != 0 && capabilities & SYS_ADMIN != 0
}
