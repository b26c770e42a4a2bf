//! A namespace for one Pod that has processes of its own: containers, alone or beside Wasm.
//!
//! ```text
//!   the Pods' namespace          this machine                    the Pod's namespace
//!   POD via BASE+1 (table local) POD on link ──────── veth ───────── eth0 (POD)
//!                                link (BASE+1)                    default via BASE+1
//! ```
//! Each veth is routed; there is no bridge. A bridge would need its ports told to send packets back where they came from
//! (a Pod that reaches itself through its Service), would hide Services from Pods beside each other unless
//! `br_netfilter` is loaded, and would carry one Pod's forged ARP to the others. On a routed link all that is the ordinary
//! way of a packet: each crosses this machine's rules, hairpin or not, and what does not come from the Pod's own address is
//! dropped there.
//!
//! Everything is found by names: the namespace's file has the Pod's UID, and the link's name its address. So whatever an
//! agent that was killed left behind is found by the next, and nothing is asked of a record.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::netns::{Make, NetNs};
use super::peers;
use super::pod_network::{INNER, PodNetworkConfig, PodNetworkError, expect_link, set_sysctl};
use super::rtnl::{self, Rtnl};
use crate::cidr::Cidr;

/// Digits of links' names.
const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// The first digit is none of hexadecimal: those are isolation groups'.
const FIRST: usize = 16;
/// Longest UID that is taken as part of a file's name.
const MAX_UID: usize = 128;

/// The name of a Pod's link on this machine: the node's own, and three digits for the address.
fn link_name(config: &PodNetworkConfig, address: Ipv4Addr) -> Result<String, PodNetworkError> {
    let bad = |why: &str| {
        PodNetworkError::Config(format!("no link for the Pod address {address}: {why}"))
    };
    let offset =
        config.pods.offset(address).ok_or_else(|| bad("it is not of this node's range"))?;
    let offset = offset as usize;
    let (first, rest) =
        (offset / (DIGITS.len() * DIGITS.len()), offset % (DIGITS.len() * DIGITS.len()));
    let first = DIGITS.get(FIRST + first).ok_or_else(|| bad("the node's range is too large"))?;
    let digits = [*first, DIGITS[rest / DIGITS.len()], DIGITS[rest % DIGITS.len()]];
    let name = format!("{}{}", config.link(), String::from_utf8_lossy(&digits));
    // IFNAMSIZ, with its closing zero.
    if name.len() > 15 { Err(bad("the cluster's id is too long")) } else { Ok(name) }
}

/// The address that a link's name stands for; `None` if it is no Pod's.
fn address_of(config: &PodNetworkConfig, link: &str) -> Option<Ipv4Addr> {
    let digits = link.strip_prefix(&config.link())?.as_bytes();
    let [first, second, third] = digits else { return None };
    let value = |digit: &u8| DIGITS.iter().position(|d| d == digit);
    let first = value(first)?.checked_sub(FIRST)?;
    let offset = (first * DIGITS.len() + value(second)?) * DIGITS.len() + value(third)?;
    config.pods.nth(u32::try_from(offset).ok()?)
}

fn prefix(config: &PodNetworkConfig) -> String {
    let name = config.netns.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("{name}-pod-")
}

fn netns(config: &PodNetworkConfig, uid: &str) -> Result<PathBuf, PodNetworkError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if uid.is_empty() || uid.len() > MAX_UID || !uid.chars().all(plain) {
        let why = format!("no network namespace for Pod {uid:?}: that is no UID");
        return Err(PodNetworkError::Config(why));
    }
    Ok(config.netns.with_file_name(format!("{}{uid}", prefix(config))))
}

/// UIDs of the Pods whose namespaces are there.
fn existing(config: &PodNetworkConfig) -> Vec<String> {
    let prefix = prefix(config);
    let folder = config.netns.parent().unwrap_or(Path::new("/"));
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect()
}

/// Sets a Pod's network up, or finds it as it was; whatever is not as it should be is made anew. Where its namespace is, which
/// `make` makes if it is to be a special one, and the number of its link on this machine.
pub(super) fn ensure(
    config: &PodNetworkConfig,
    pods: &NetNs,
    uid: &str,
    address: Ipv4Addr,
    make: Option<Make>,
) -> Result<(PathBuf, u32), PodNetworkError> {
    let (link, gateway) = (link_name(config, address)?, config.gateway());
    let namespace = NetNs::ensure_with(&netns(config, uid)?, make)?;
    let file = namespace.open()?;
    let inner = namespace.run(|| rtnl::with(async |rtnl: &Rtnl| rtnl.pair(INNER).await))??;
    let outer = rtnl::with(async |rtnl: &Rtnl| rtnl.pair(&link).await)?;
    // Of one pair, each names the other.
    let paired = inner
        .zip(outer)
        .is_some_and(|((inner, to), (outer, from))| to == Some(outer) && from == Some(inner));
    if !paired {
        namespace.run(|| rtnl::with(async |rtnl: &Rtnl| rtnl.delete_link(INNER).await))??;
    }
    let (index, mtu) = rtnl::with(async |rtnl: &Rtnl| {
        if !paired {
            rtnl.delete_link(&link).await?;
            rtnl.add_veth(&link, INNER, &file).await?;
        }
        let index = expect_link(rtnl, &link).await?;
        let mtu = peers::mtu(rtnl, config).await?;
        rtnl.set_mtu(index, mtu).await?;
        Ok((index, mtu))
    })?;
    // Before anything can come through it. A NodePort that is called through 127.0.0.1 may lead here.
    set_sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), "1")?;
    set_sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "1")?;
    // Pods have no IPv6 yet, and are not to reach this machine by an address of the link's own making.
    if Path::new("/proc/sys/net/ipv6").exists() {
        set_sysctl(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1")?;
    }
    rtnl::with(async |rtnl: &Rtnl| {
        rtnl.add_address(index, gateway, 32).await?;
        rtnl.up(index).await?;
        rtnl.add_on_link(index, Cidr::new(address, 32)).await
    })?;
    namespace.run(|| {
        // As container runtimes have it: low ports and pings need no privilege in a namespace of one's own.
        set_sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
        set_sysctl("net/ipv4/ping_group_range", "0\t2147483647")?;
        rtnl::with(async |rtnl: &Rtnl| {
            let lo = expect_link(rtnl, "lo").await?;
            rtnl.up(lo).await?;
            let eth = expect_link(rtnl, INNER).await?;
            rtnl.set_mtu(eth, mtu).await?;
            rtnl.add_address(eth, address, 32).await?;
            rtnl.up(eth).await?;
            rtnl.add_on_link(eth, Cidr::new(gateway, 32)).await?;
            rtnl.add_via(eth, Cidr::new(Ipv4Addr::UNSPECIFIED, 0), gateway).await
        })
        .map_err(PodNetworkError::from)
    })??;
    pods.run(|| {
        rtnl::with(async |rtnl: &Rtnl| {
            let eth = expect_link(rtnl, INNER).await?;
            rtnl.except(eth, address, gateway).await
        })
    })??;
    Ok((namespace.path().to_owned(), index))
}

/// Removes what there is of a Pod's network. The number of its link, if it had one.
pub(super) fn remove(
    config: &PodNetworkConfig,
    pods: &NetNs,
    uid: &str,
) -> Result<Option<u32>, PodNetworkError> {
    let namespace = NetNs::named(&netns(config, uid)?);
    let mut index = None;
    if namespace.exists() {
        let (pair, addresses) = namespace.run(|| {
            rtnl::with(async |rtnl: &Rtnl| {
                let pair = rtnl.pair(INNER).await?;
                let addresses = match pair {
                    Some((eth, _)) => rtnl.addresses_of(eth).await?,
                    None => Vec::new(),
                };
                // The other end and its routes go with it, even while a process holds on to the namespace.
                rtnl.delete_link(INNER).await?;
                Ok((pair, addresses))
            })
        })??;
        index = pair.and_then(|(_, outer)| outer);
        let own = addresses.iter().filter(|address| config.pods.contains(**address));
        include(pods, own.copied())?;
    }
    namespace.remove()?;
    Ok(index)
}

/// Makes addresses those of the namespace that most Pods share again.
fn include(
    pods: &NetNs,
    addresses: impl Iterator<Item = Ipv4Addr> + Send,
) -> Result<(), PodNetworkError> {
    Ok(pods.run(|| {
        rtnl::with(async |rtnl: &Rtnl| {
            let Some(eth) = rtnl.link(INNER).await? else { return Ok(()) };
            for address in addresses {
                rtnl.no_longer_except(eth, address).await?;
            }
            Ok(())
        })
    })??)
}

/// Removes the networks of all Pods but these, half-made ones included: by UID, with their addresses.
pub(super) fn sweep(
    config: &PodNetworkConfig,
    pods: &NetNs,
    keep: &BTreeMap<String, Ipv4Addr>,
) -> Result<(), PodNetworkError> {
    for uid in existing(config).iter().filter(|uid| !keep.contains_key(*uid)) {
        remove(config, pods, uid)?;
    }
    let kept = |address: &Ipv4Addr| keep.values().any(|kept| kept == address);
    let stale = rtnl::with(async |rtnl: &Rtnl| {
        let mut stale = Vec::new();
        for name in rtnl.link_names().await? {
            if let Some(address) = address_of(config, &name).filter(|address| !kept(address)) {
                rtnl.delete_link(&name).await?;
                stale.push(address);
            }
        }
        Ok(stale)
    })?;
    include(pods, stale.into_iter())
}

#[cfg(test)]
mod tests;
