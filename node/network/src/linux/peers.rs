//! The way to the Pods of the cluster's other machines.
//!
//! A machine on the same wire (its address is reached without a gateway) is the gateway of its Pods itself: a plain route.
//! To others leads a VXLAN (RFC 7348) tunnel, which this machine has as soon as there is such a peer:
//!
//! ```text
//!   PODS of a neighbour    via its address
//!   PODS of another        via PODS' first address, on the tunnel; whose machine that is, the tunnel's tables say
//! ```
//! Ends of tunnels have the hardware address that their Pod range says, so that nobody has to announce any.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::pod_network::{PodNetworkConfig, set_sysctl};
use super::rtnl::{self, Rtnl, RtnlError};
use crate::cidr::Cidr;

/// What the names of tunnels begin with: not as links to Pods do, whose traffic is told by that.
pub(super) const TUNNEL: &str = "covx-";
/// The UDP port of tunnels (RFC 7348, section 5).
const PORT: u16 = 4789;
/// What the outer headers take of a packet: Ethernet, IPv4, UDP and VXLAN.
const HEADERS: u32 = 50;

/// Another machine of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The range of its Pods.
    pub pods: Cidr,
    /// Its own address.
    pub address: Ipv4Addr,
}

/// How a packet for a machine's address leaves this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The link.
    pub(crate) link: u32,
    /// Whose hands it goes through; none on the same wire.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// This machine keeps it.
    pub(crate) is_local: bool,
}

fn tunnel_name(config: &PodNetworkConfig) -> String {
    format!("{TUNNEL}{}", config.id)
}

/// The hardware address of a tunnel's end: locally administered, with the first address of its machine's Pod range.
fn hardware_address(pods: Cidr) -> [u8; 6] {
    let [a, b, c, d] = pods.base().octets();
    [0x02, 0xc0, a, b, c, d]
}

/// Sees that routes lead to all of `peers`, and to none else. `known` is what was done before and needs no look.
pub(super) fn set(
    config: &PodNetworkConfig,
    own: Ipv4Addr,
    peers: &[Peer],
    known: &BTreeSet<Peer>,
) -> Result<(), RtnlError> {
    let wanted: BTreeMap<Cidr, Peer> = peers.iter().map(|peer| (peer.pods, *peer)).collect();
    rtnl::with(async |rtnl: &Rtnl| {
        for (range, link) in rtnl.ranges_within(config.cluster).await? {
            if !config.pods.overlaps(range) && !wanted.contains_key(&range) {
                rtnl.remove_range(link, range).await?;
            }
        }
        let mut tunnel = None;
        let mut failed = None;
        for peer in wanted.values().filter(|peer| !known.contains(peer)) {
            if let Err(error) = lead(rtnl, config, own, peer, &mut tunnel).await {
                // One that cannot be reached now keeps nobody from the others.
                tracing::warn!(%error, pods = %peer.pods, address = %peer.address, "no route to a machine's Pods");
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    })
}

async fn lead(
    rtnl: &Rtnl,
    config: &PodNetworkConfig,
    own: Ipv4Addr,
    peer: &Peer,
    tunnel: &mut Option<u32>,
) -> Result<(), RtnlError> {
    let way = rtnl.way_to(peer.address).await?;
    if way.is_local {
        // Another node on this very machine has made its own routes.
        return Ok(());
    }
    if way.gateway.is_none() {
        answer_loopback(rtnl, way.link).await;
        return rtnl.add_via(way.link, peer.pods, peer.address).await;
    }
    let link = match *tunnel {
        Some(link) => link,
        None => *tunnel.insert(ensure_tunnel(rtnl, config, own).await?),
    };
    let end = peer.pods.base();
    let hardware = hardware_address(peer.pods);
    rtnl.forward_to(link, hardware, peer.address).await?;
    rtnl.add_neighbour(link, end, hardware).await?;
    rtnl.add_via_on_link(link, peer.pods, end).await
}

async fn ensure_tunnel(
    rtnl: &Rtnl,
    config: &PodNetworkConfig,
    own: Ipv4Addr,
) -> Result<u32, RtnlError> {
    let name = tunnel_name(config);
    if rtnl.tunnel_from(&name).await? != Some(own) {
        // A machine whose address has changed.
        rtnl.delete_link(&name).await?;
        let hardware = hardware_address(config.pods);
        rtnl.add_tunnel(&name, config.tunnel, PORT, own, hardware).await?;
    }
    let link = rtnl.link(&name).await?.ok_or_else(|| RtnlError::missing_link(&name))?;
    let mtu = rtnl.uplink_mtu().await?;
    rtnl.set_mtu(link, mtu.saturating_sub(HEADERS).max(576)).await?;
    rtnl.add_address(link, config.pods.base(), 32).await?;
    rtnl.up(link).await?;
    answer_loopback(rtnl, link).await;
    Ok(link)
}

/// Lets Pods on the other side of a link answer what calls a NodePort at 127.0.0.1. The table sees to it that nothing else of
/// loopback is reached from there.
async fn answer_loopback(rtnl: &Rtnl, link: u32) {
    let name = rtnl::link_name(rtnl, link).await;
    if let Err(error) = set_sysctl(&format!("net/ipv4/conf/{name}/route_localnet"), "1") {
        tracing::warn!(%error, link = name, "NodePorts at 127.0.0.1 do not lead to other machines");
    }
}

/// What Pods may send in one piece: less where some of it goes through a tunnel.
pub(super) async fn mtu(rtnl: &Rtnl, config: &PodNetworkConfig) -> Result<u32, RtnlError> {
    let uplink = rtnl.uplink_mtu().await?;
    let has_tunnel = rtnl.link(&tunnel_name(config)).await?.is_some();
    Ok(if has_tunnel { uplink.saturating_sub(HEADERS).max(576) } else { uplink })
}

/// Removes all of it.
pub(super) fn remove(config: &PodNetworkConfig) -> Result<(), RtnlError> {
    rtnl::with(async |rtnl: &Rtnl| {
        for (range, link) in rtnl.ranges_within(config.cluster).await? {
            if !config.pods.overlaps(range) {
                rtnl.remove_range(link, range).await?;
            }
        }
        rtnl.delete_link(&tunnel_name(config)).await
    })
}
