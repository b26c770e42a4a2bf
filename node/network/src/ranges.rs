//! The Pod and Service ranges of a new cluster: chosen once, when it first starts, and kept by the caller. No I/O.
//!
//! Several clusters may run on one machine, so a choice starts at a place that depends on the cluster's own seed
//! (a hash of its data directory) and takes the first ranges that nothing on the machine uses.

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// The address ranges of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRanges {
    /// Pod addresses; a node's own range is a part of it (see [`ClusterRanges::node`]).
    pub pods: Cidr,
    /// ClusterIPs of Services.
    pub services: Cidr,
}

/// No free ranges on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no free private address range of 65,536 addresses is left on this machine for the cluster's {0}; remove routes or other clusters"
)]
pub struct NoFreeRange(&'static str);

impl ClusterRanges {
    /// Ranges for a cluster whose nodes run as root, avoiding those in `taken` (routes and addresses of the machine).
    /// Both are a /16: one node can hold 65,279 Pods.
    ///
    /// # Errors
    /// [`NoFreeRange`] when all private ranges are taken.
    pub fn choose_root(seed: u64, taken: &[Cidr]) -> Result<Self, NoFreeRange> {
        // 10.0–10.7 and 10.255 are what people and other software take first. 100.64.0.0/10 is shared by carriers
        // and VPNs, so it comes last.
        let ten = (8..=254u8).map(|b| Cidr::new(Ipv4Addr::new(10, b, 0, 0), 16));
        let others = (16..=31u8).map(|b| Cidr::new(Ipv4Addr::new(172, b, 0, 0), 16));
        let shared = (64..=127u8).map(|b| Cidr::new(Ipv4Addr::new(100, b, 0, 0), 16));
        let mut candidates: Vec<Cidr> = ten.collect();
        let start = (seed % candidates.len() as u64) as usize;
        candidates.rotate_left(start);
        candidates.extend(others.chain(shared));
        let mut free = candidates
            .into_iter()
            .filter(|c| !taken.iter().any(|t| t.prefix() > 0 && t.overlaps(*c)));
        let pods = free.next().ok_or(NoFreeRange("Pods"))?;
        let services = free.next().ok_or(NoFreeRange("Services"))?;
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

    /// The Pod range of the `index`-th node when every node gets `prefix` bits.
    #[must_use]
    pub fn node(&self, prefix: u8, index: u32) -> Option<Cidr> {
        self.pods.part(prefix, index)
    }
}

/// A seed that stays the same for the same text (FNV-1a): the data directory's path, for instance.
#[must_use]
pub fn seed(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
