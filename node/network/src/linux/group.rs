//! A namespace for the Pods of one isolation group: those of a namespace or a single Pod that have a host process to
//! themselves.
//!
//! ```text
//!   the Pods' namespace          this machine                    the group's namespace
//!   POD via BASE+1 (table local) POD on link ──────── veth ───── eth0 (POD, POD, …)
//!                                link (BASE+1)                    default via BASE+1
//! ```
//! Addresses come from the node's range as everybody's do. In the namespace that most Pods share the whole range is
//! local, so each address that lives elsewhere is excepted there, in the same table, by a longer prefix.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::netns::NetNs;
use super::nft::{Rules, Scope};
use super::pod_network::{INNER, PodNetworkConfig, PodNetworkError, expect_link, set_sysctl};
use super::rtnl::{self, Rtnl};
use crate::cidr::Cidr;

/// Most groups that a node can have; their numbers are three hexadecimal digits of names.
pub const MAX_GROUPS: u16 = 0x1000;

/// The network of one isolation group.
#[derive(Debug)]
pub(super) struct GroupNetwork {
    pub(super) namespace: NetNs,
    link: String,
    /// The number of that link.
    pub(super) index: u32,
    /// Services as the group's Pods reach them.
    pub(super) rules: Rules,
}

/// The name of a group's link on this machine: it begins as the node's own does.
fn link(config: &PodNetworkConfig, number: u16) -> Result<String, PodNetworkError> {
    let name = format!("{}{number:03x}", config.link());
    // IFNAMSIZ, with its closing zero.
    if number >= MAX_GROUPS || name.len() > 15 {
        let message = format!("no network for isolation group {number}: link {name} is no name");
        return Err(PodNetworkError::Config(message));
    }
    Ok(name)
}

fn netns(config: &PodNetworkConfig, number: u16) -> PathBuf {
    let mut path = config.netns.clone().into_os_string();
    path.push(format!("-{number:03x}"));
    path.into()
}

/// Numbers of the groups whose namespaces are there.
pub(super) fn existing(config: &PodNetworkConfig) -> Vec<u16> {
    let name = config.netns.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = config.netns.parent().unwrap_or(Path::new("/"));
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |file: std::fs::DirEntry| {
        let file = file.file_name().into_string().ok()?;
        let digits = file.strip_prefix(&name)?.strip_prefix('-').filter(|d| d.len() == 3)?;
        u16::from_str_radix(digits, 16).ok()
    };
    files.filter_map(number).collect()
}

/// Removes what there is of a group.
pub(super) fn remove(config: &PodNetworkConfig, number: u16) -> Result<(), PodNetworkError> {
    let name = link(config, number)?;
    // Routes and the other end go with the link, the inner table with the namespace.
    rtnl::with(async |rtnl: &Rtnl| rtnl.delete_link(&name).await)?;
    Ok(NetNs::named(&netns(config, number)).remove()?)
}

impl GroupNetwork {
    /// Sets a group's network up, or finds it as an earlier agent left it.
    pub(super) fn ensure(config: &PodNetworkConfig, number: u16) -> Result<Self, PodNetworkError> {
        let link = link(config, number)?;
        let namespace = NetNs::ensure(&netns(config, number))?;
        let file = namespace.open()?;
        let has_inner =
            namespace.run(|| rtnl::with(async |rtnl: &Rtnl| rtnl.link(INNER).await))??.is_some();
        let gateway = config.gateway();
        let index = rtnl::with(async |rtnl: &Rtnl| {
            if !(has_inner && rtnl.link(&link).await?.is_some()) {
                rtnl.delete_link(&link).await?;
                rtnl.add_veth(&link, INNER, &file).await?;
            }
            let index = expect_link(rtnl, &link).await?;
            rtnl.add_address(index, gateway, 32).await?;
            rtnl.up(index).await?;
            Ok(index)
        })?;
        // A NodePort that is called through 127.0.0.1 may lead here.
        set_sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), "1")?;
        namespace.run(|| {
            // Sockets for low ports need no privilege in there: only the group's own host can enter.
            set_sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
            rtnl::with(async |rtnl: &Rtnl| {
                let lo = expect_link(rtnl, "lo").await?;
                rtnl.up(lo).await?;
                let eth = expect_link(rtnl, INNER).await?;
                rtnl.up(eth).await?;
                rtnl.add_on_link(eth, Cidr::new(gateway, 32)).await?;
                rtnl.add_via(eth, Cidr::new(Ipv4Addr::UNSPECIFIED, 0), gateway).await
            })
            .map_err(PodNetworkError::from)
        })??;
        let rules = namespace.run(|| Rules::open(config.rules(Scope::Pods)))??;
        Ok(GroupNetwork { namespace, link, index, rules })
    }

    /// Leads a Pod's address into the group's namespace. A second time is no error.
    pub(super) fn join(
        &self,
        config: &PodNetworkConfig,
        pods: &NetNs,
        address: Ipv4Addr,
    ) -> Result<(), PodNetworkError> {
        self.namespace.run(|| {
            rtnl::with(async |rtnl: &Rtnl| {
                let eth = expect_link(rtnl, INNER).await?;
                rtnl.add_address(eth, address, 32).await
            })
        })??;
        rtnl::with(async |rtnl: &Rtnl| {
            let index = expect_link(rtnl, &self.link).await?;
            rtnl.add_on_link(index, Cidr::new(address, 32)).await
        })?;
        let gateway = config.gateway();
        Ok(pods.run(|| {
            rtnl::with(async |rtnl: &Rtnl| {
                let eth = expect_link(rtnl, INNER).await?;
                rtnl.except(eth, address, gateway).await
            })
        })??)
    }

    /// Takes the address back: from now on it is one of the namespace that most Pods share.
    pub(super) fn leave(&self, pods: &NetNs, address: Ipv4Addr) -> Result<(), PodNetworkError> {
        pods.run(|| {
            rtnl::with(async |rtnl: &Rtnl| {
                let eth = expect_link(rtnl, INNER).await?;
                rtnl.no_longer_except(eth, address).await
            })
        })??;
        rtnl::with(async |rtnl: &Rtnl| match rtnl.link(&self.link).await? {
            Some(index) => rtnl.remove_on_link(index, Cidr::new(address, 32)).await,
            None => Ok(()),
        })?;
        Ok(self.namespace.run(|| {
            rtnl::with(async |rtnl: &Rtnl| match rtnl.link(INNER).await? {
                Some(eth) => rtnl.remove_address(eth, address).await,
                None => Ok(()),
            })
        })??)
    }
}
