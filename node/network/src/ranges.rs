//! The Pod and Service ranges of a new cluster: chosen once, when it first starts, and kept by the caller. No I/O.
//!
//! Several clusters may run on one machine, so a choice starts at a place that depends on the cluster's own seed
//! (a hash of its data directory) and takes the first ranges that nothing on the machine uses.

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// Prefix length of a cluster's Pod range: 262,144 addresses, for 16 nodes of 10,000 Pods, or 128 of 1,000.
const PODS: u8 = 14;
/// Prefix length of its Service range.
const SERVICES: u8 = 16;

/// The address ranges of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRanges {
    /// Pod addresses; a node's own range is a part of it (`Node.spec.podCIDR`).
    pub pods: Cidr,
    /// ClusterIPs of Services.
    pub services: Cidr,
}

/// No free ranges on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no free private address range is left on this machine for the cluster's {0}; remove routes or other clusters, or choose with --pod-range and --service-range"
)]
pub struct NoFreeRange(&'static str);

impl ClusterRanges {
    /// Ranges for a cluster whose nodes run as root, avoiding those in `taken` (routes and addresses of the machine): a
    /// /14 for Pods, of which every node gets a part, and a /16 for Services.
    ///
    /// # Errors
    /// [`NoFreeRange`] when all private ranges are taken.
    pub fn choose_root(seed: u64, taken: &[Cidr]) -> Result<Self, NoFreeRange> {
        // 10.0–10.7 and the end of 10 are what people and other software take first. 100.64.0.0/10 is shared by carriers
        // and VPNs, so it comes last.
        let ten = Cidr::new(Ipv4Addr::new(10, 0, 0, 0), 8);
        let others = Cidr::new(Ipv4Addr::new(172, 16, 0, 0), 12);
        let shared = Cidr::new(Ipv4Addr::new(100, 64, 0, 0), 10);
        let parts = |range: Cidr, prefix| (0..).map_while(move |n| range.part(prefix, n));
        let turned = |mut all: Vec<Cidr>| {
            let start = (seed % all.len() as u64) as usize;
            all.rotate_left(start);
            all
        };
        let outside = || [others, shared].into_iter();
        let is_free = |c: &Cidr| !taken.iter().any(|t| t.prefix() > 0 && t.overlaps(*c));
        let pods = turned(parts(ten, PODS).skip(2).take(61).collect()).into_iter();
        let mut pods = pods.chain(outside().flat_map(|range| parts(range, PODS)));
        let pods = pods.find(is_free).ok_or(NoFreeRange("Pods"))?;
        let services = turned(outside().flat_map(|range| parts(range, SERVICES)).collect());
        let mut services = services.into_iter().chain(parts(ten, SERVICES).skip(8).take(244));
        let services = services.find(|c| is_free(c) && !c.overlaps(pods));
        let services = services.ok_or(NoFreeRange("Services"))?;
        Ok(ClusterRanges { pods, services })
    }

    /// Ranges for a cluster of an ordinary user: two parts of 127.0.0.0/8. `is_free` tells whether no other cluster
    /// of this machine claims the pair (see [`ClusterRanges::claim_address`]).
    ///
    /// # Errors
    /// [`NoFreeRange`] when every part is claimed.
    pub fn choose_rootless(
        seed: u64,
        mut is_free: impl FnMut(&ClusterRanges) -> bool,
    ) -> Result<Self, NoFreeRange> {
        const PAIRS: u64 = 120;
        (0..PAIRS)
            .map(|n| ((seed % PAIRS + n) % PAIRS) as u8)
            // 127.0 and 127.1 are left alone: resolvers and people use them. Pairs are (10, 11) to (248, 249).
            .map(|pair| (10 + pair * 2, 11 + pair * 2))
            .map(|(pods, services)| ClusterRanges {
                pods: Cidr::new(Ipv4Addr::new(127, pods, 0, 0), 16),
                services: Cidr::new(Ipv4Addr::new(127, services, 0, 0), 16),
            })
            .find(|ranges| is_free(ranges))
            .ok_or(NoFreeRange("Pods and Services on loopback"))
    }

    /// The address in the Pod range that a running cluster without root keeps bound, so that others see the claim.
    #[must_use]
    pub fn claim_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pods.base()) | 1)
    }
}

/// A network that this machine is in, or has a route to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbourhood {
    /// Its addresses.
    pub range: Cidr,
    /// The link that leads there, where one does.
    pub link: String,
    /// Whether the machine has an address in it; otherwise there is a route.
    pub is_own: bool,
}

impl Neighbourhood {
    /// What of a machine's networks a cluster's range cannot be beside. A route that leads to more than the range is for what
    /// narrower ones leave over; a network that the machine is in must be reached as a whole.
    #[must_use]
    pub fn in_the_way(found: &[Self], range: Cidr) -> Option<&Self> {
        let mut overlapping = found.iter().filter(|it| it.range.overlaps(range));
        overlapping.find(|it| it.is_own || it.range.prefix() >= range.prefix())
    }
}

/// A seed that stays the same for the same text (FNV-1a): the data directory's path, for instance.
#[must_use]
pub fn seed(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
