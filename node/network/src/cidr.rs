//! An IPv4 address range in CIDR notation.
//!
//! Ranges are compared, split and written to configuration files in several places; this type keeps the host bits
//! zero, so that two equal ranges are always equal values.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 range such as `10.64.0.0/16`; serialised as that string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

/// A range that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range; write it as ADDRESS/PREFIX, for example 10.64.0.0/16")]
pub struct ParseCidrError(String);

impl Cidr {
    /// The range of `prefix` bits that contains `address`. A prefix above 32 is taken as 32.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Cidr { base: u32::from(address) & mask(prefix), prefix }
    }

    /// The first address.
    #[must_use]
    pub fn base(self) -> Ipv4Addr {
        self.base.into()
    }

    /// The prefix length, 0 to 32.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The netmask as a number.
    #[must_use]
    pub fn mask(self) -> u32 {
        mask(self.prefix)
    }

    /// How many addresses the range holds.
    #[must_use]
    pub fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The address at `offset` from the first one, if the range holds it.
    #[must_use]
    pub fn nth(self, offset: u32) -> Option<Ipv4Addr> {
        (u64::from(offset) < self.size()).then(|| Ipv4Addr::from(self.base + offset))
    }

    /// The position of `address` in the range, if the range holds it.
    #[must_use]
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| u32::from(address) - self.base)
    }

    /// Whether `address` lies in the range.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == self.base
    }

    /// Whether the two ranges share an address.
    #[must_use]
    pub fn overlaps(self, other: Cidr) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base & shorter == other.base & shorter
    }

    /// The `index`-th part of the range when it is cut into parts of `prefix` bits: how a cluster's Pod range is
    /// divided among its nodes.
    #[must_use]
    pub fn part(self, prefix: u8, index: u32) -> Option<Cidr> {
        if prefix < self.prefix || prefix > 32 {
            return None;
        }
        let offset = u64::from(index) << (32 - prefix);
        (offset < self.size()).then(|| Cidr { base: self.base + offset as u32, prefix })
    }

    /// What remains of the range without its first part of `prefix` bits, as the fewest ranges, smallest first.
    #[must_use]
    pub fn without_first(self, prefix: u8) -> Vec<Cidr> {
        (self.prefix + 1..=prefix.min(32)).rev().filter_map(|p| self.part(p, 1)).collect()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseCidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(error)?;
        Ok(Cidr::new(address.parse().map_err(|_| error())?, prefix))
    }
}

impl TryFrom<String> for Cidr {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}
