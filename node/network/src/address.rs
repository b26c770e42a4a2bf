//! Which address a Pod gets on its node, and on which port something listens without root. No I/O.
//!
//! A node's range is handed out in circles: an address comes back only after all others had their turn, so that
//! a client with a stale address meets nobody rather than a stranger. One bit per address keeps a /16 at 8 KiB.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::cidr::Cidr;

/// What an ordinary user's listeners add to a port that only root may bind.
pub const UNPRIVILEGED_OFFSET: u16 = 10_000;

/// The port that is really bound for `port` where binding below `unprivileged_start`
/// (`net.ipv4.ip_unprivileged_port_start`) is forbidden: the port itself, or 10,000 above it.
#[must_use]
pub fn listen_port(port: u16, unprivileged_start: u16) -> u16 {
    if port >= unprivileged_start { port } else { port.saturating_add(UNPRIVILEGED_OFFSET) }
}

/// How many bits the reserved first part of a node's range has: a /24 of a large range, a quarter of a small one.
/// It holds the addresses of the veth ends, and later those of the node's own services.
#[must_use]
pub fn reserved_prefix(range: Cidr) -> u8 {
    (range.prefix() + 2).clamp(24, 32)
}

/// The Pod addresses of one node, by Pod UID.
#[derive(Debug, Clone)]
pub struct PodAddresses {
    range: Cidr,
    first: u32,
    /// One past the last usable offset: the broadcast address stays free.
    end: u32,
    next: u32,
    used: Vec<u64>,
    by_uid: HashMap<String, u32>,
}

/// Why a Pod got no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Every address is taken.
    #[error(
        "the node's Pod range {range} is full: {used} addresses are in use; remove Pods or give the node a larger range"
    )]
    Full {
        /// The node's range.
        range: Cidr,
        /// How many Pods hold an address.
        used: usize,
    },
    /// An adopted address is not one that this node hands out.
    #[error(
        "Pod {uid} has the address {address}, which is outside the node's Pod range {range}; recreate the Pod"
    )]
    OutOfRange {
        /// The Pod's UID.
        uid: String,
        /// Its address.
        address: Ipv4Addr,
        /// The node's range.
        range: Cidr,
    },
    /// An adopted address is another Pod's already.
    #[error(
        "Pod {uid} has the address {address}, which another Pod on this node holds; recreate the Pod"
    )]
    Taken {
        /// The Pod's UID.
        uid: String,
        /// Its address.
        address: Ipv4Addr,
    },
}

impl PodAddresses {
    /// An empty allocation over `range`, without its reserved first part (see [`reserved_prefix`]).
    #[must_use]
    pub fn new(range: Cidr) -> Self {
        let first = 1u32 << (32 - reserved_prefix(range));
        let end = u32::try_from(range.size() - 1).unwrap_or(u32::MAX);
        let words = (range.size() as usize).div_ceil(64);
        PodAddresses {
            range,
            first,
            end,
            next: first,
            used: vec![0; words],
            by_uid: HashMap::new(),
        }
    }

    /// The address of Pod `uid`: the one it has, or a free one.
    ///
    /// # Errors
    /// [`AddressError::Full`] when none is free.
    pub fn allocate(&mut self, uid: &str) -> Result<Ipv4Addr, AddressError> {
        if let Some(address) = self.get(uid) {
            return Ok(address);
        }
        let offset = self
            .free_in(self.next, self.end)
            .or_else(|| self.free_in(self.first, self.next))
            .ok_or(AddressError::Full { range: self.range, used: self.by_uid.len() })?;
        self.take(uid, offset);
        Ok(Ipv4Addr::from(u32::from(self.range.base()) + offset))
    }

    /// Records that Pod `uid`, which ran before this process did, has `address`.
    ///
    /// # Errors
    /// When the address is outside the range or another Pod's.
    pub fn adopt(&mut self, uid: &str, address: Ipv4Addr) -> Result<(), AddressError> {
        let offset =
            self.range.offset(address).filter(|o| (self.first..self.end).contains(o)).ok_or_else(
                || AddressError::OutOfRange { uid: uid.to_owned(), address, range: self.range },
            )?;
        if self.by_uid.get(uid) == Some(&offset) {
            return Ok(());
        }
        if self.used[offset as usize / 64] & (1 << (offset % 64)) != 0 {
            return Err(AddressError::Taken { uid: uid.to_owned(), address });
        }
        self.release(uid);
        let next = self.next.max(offset + 1);
        self.take(uid, offset);
        self.next = next;
        Ok(())
    }

    /// Frees the address of Pod `uid` and returns it. A Pod without one is no error: releasing is repeatable.
    pub fn release(&mut self, uid: &str) -> Option<Ipv4Addr> {
        let offset = self.by_uid.remove(uid)?;
        self.used[offset as usize / 64] &= !(1 << (offset % 64));
        self.range.nth(offset)
    }

    /// The address of Pod `uid`, if it has one.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Ipv4Addr> {
        self.by_uid.get(uid).and_then(|offset| self.range.nth(*offset))
    }

    /// How many Pods hold an address.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// Whether no Pod holds an address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    fn take(&mut self, uid: &str, offset: u32) {
        self.used[offset as usize / 64] |= 1 << (offset % 64);
        self.by_uid.insert(uid.to_owned(), offset);
        self.next = offset + 1;
    }

    /// The first free offset in `from..to`, a word of 64 addresses at a time.
    fn free_in(&self, from: u32, to: u32) -> Option<u32> {
        let mut offset = from;
        while offset < to {
            let free = !self.used[offset as usize / 64] >> (offset % 64);
            if free != 0 {
                let found = offset + free.trailing_zeros();
                return (found < to).then_some(found);
            }
            offset = (offset / 64 + 1) * 64;
        }
        None
    }
}
