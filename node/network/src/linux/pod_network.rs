//! The namespace that all Wasm Pods of a node share, and the Service tables on both sides of it.
//!
//! ```text
//!   this machine                          the Pods' namespace
//!   link (BASE+1) ──────── veth ───────── eth0 (BASE+2)
//!   PODS, SERVICES via BASE+2             default via BASE+1
//!                                         every address of PODS is local (AnyIP)
//! ```
//! The first part of the Pod range is left out of the local addresses, for the veth's two ends. Everything is made
//! idempotently: an agent that comes back finds its namespace with the sockets of running Pods in it, and keeps it.
//!
//! Pods that have a namespace of their own ([`super::group`], [`super::attached`]) take addresses out of the same range by more specific
//! routes in the local table, which win over the AnyIP ones.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attached;
use super::balancer;
use super::group::{self, GroupNetwork};
use super::netns::{Make, NetNs, NetNsError};
use super::nft::{self, NftError, Rules, RulesConfig, Scope};
use super::peers::{self, Peer};
use super::rtnl::{self, Rtnl, RtnlError};
use crate::address::reserved_prefix;
use crate::cidr::Cidr;
use crate::routes::{RouteChange, ServiceRoute};

/// The link's name inside the Pods' namespace.
pub(super) const INNER: &str = "eth0";

/// What the names of links on this machine begin with, and those of Service tables.
pub(super) const LINK: &str = "cor-";
const TABLE: &str = "coracle-";

/// How often the routes to all other machines are looked at, whether or not anything changed.
const LOOK: Duration = Duration::from_secs(60);

/// What the Pods' network of one node is made of.
#[derive(Clone, Debug)]
pub struct PodNetworkConfig {
    /// Tells clusters on one machine apart: up to 11 letters, digits and dashes.
    pub id: String,
    /// The file that the namespace is mounted on, for instance `/run/netns/coracle-ID`.
    pub netns: PathBuf,
    /// This node's Pod range; /28 or larger.
    pub pods: Cidr,
    /// The cluster's Pod range, of which that of every node is a part.
    pub cluster: Cidr,
    /// The cluster's Service range.
    pub services: Cidr,
    /// What tells this cluster's tunnels between machines apart from those of others: 24 bits.
    pub tunnel: u32,
}

/// Why the Pods' network could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// The configuration cannot work.
    #[error("network configuration: {0}")]
    Config(String),
    /// Somebody else uses the addresses.
    #[error(
        "the cluster's range {range} overlaps the route {route} of link {link}; remove that route, or choose other ranges for this cluster"
    )]
    Overlap {
        /// The cluster's range.
        range: Cidr,
        /// The other route.
        route: Cidr,
        /// The link that it belongs to.
        link: String,
    },
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
    /// Links, addresses and routes.
    #[error(transparent)]
    Rtnl(#[from] RtnlError),
    /// The Service tables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A kernel setting.
    #[error("cannot set {name} to {value}: {source}; /proc/sys must be writable")]
    Sysctl {
        /// The setting, as a path below /proc/sys.
        name: String,
        /// The value.
        value: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The Pods' network of one node, set up.
#[derive(Debug)]
pub struct PodNetwork {
    config: PodNetworkConfig,
    namespace: NetNs,
    host: Rules,
    pods: Rules,
    groups: BTreeMap<u16, GroupNetwork>,
    /// Addresses of the Pods with a namespace each, by UID, and the numbers of their links.
    attached: BTreeMap<String, (Ipv4Addr, u32)>,
    /// Machines that routes lead to, and when all of these were looked at last.
    peers: Option<(BTreeSet<Peer>, Instant)>,
    /// Load balancers' addresses that are led to the Service table, if that is known.
    balanced: Option<BTreeSet<Ipv4Addr>>,
    /// Those that this machine answers for on the wire, if that is known.
    announced: Option<BTreeSet<Ipv4Addr>>,
}

impl PodNetworkConfig {
    /// The name of the link on this machine.
    #[must_use]
    pub fn link(&self) -> String {
        format!("{LINK}{}", self.id)
    }

    /// The name of the Service tables.
    #[must_use]
    pub fn table(&self) -> String {
        format!("{TABLE}{}", self.id)
    }

    /// This machine's address on the link: how Pods reach it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        end(self.pods, 1)
    }

    fn check(&self) -> Result<(), PodNetworkError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.id.is_empty() || self.id.len() > 11 || !self.id.chars().all(plain) {
            let message = format!("id {:?} must be 1 to 11 letters, digits and dashes", self.id);
            return Err(PodNetworkError::Config(message));
        }
        if self.pods.prefix() > 28 {
            let message = format!("the Pod range {} is too small; /28 is the smallest", self.pods);
            return Err(PodNetworkError::Config(message));
        }
        if self.cluster.prefix() > self.pods.prefix() || !self.cluster.overlaps(self.pods) {
            let message = format!(
                "the Pod range {} is no part of the cluster's, {}",
                self.pods, self.cluster
            );
            return Err(PodNetworkError::Config(message));
        }
        if self.cluster.overlaps(self.services) {
            let message = format!(
                "the Pod range {} and the Service range {} overlap",
                self.cluster, self.services
            );
            return Err(PodNetworkError::Config(message));
        }
        Ok(())
    }

    pub(super) fn rules(&self, scope: Scope) -> RulesConfig {
        RulesConfig {
            table: self.table(),
            scope,
            link: self.link(),
            pods: self.pods,
            cluster: self.cluster,
            services: self.services,
        }
    }
}

impl PodNetwork {
    /// Sets the network up around the calling thread's namespace, or finds it as an earlier agent left it. Service
    /// tables of that time go on working until routes are given to [`PodNetwork::replace`].
    ///
    /// # Errors
    /// When the ranges are somebody else's, or the kernel refuses a step.
    pub fn ensure(config: PodNetworkConfig) -> Result<Self, PodNetworkError> {
        config.check()?;
        let namespace = NetNs::ensure(&config.netns)?;
        let link = config.link();
        check_overlap(&config, &link)?;
        remove_dead_tables(&config)?;
        connect(&config, &namespace, &link)?;
        set_sysctl("net/ipv4/ip_forward", "1")?;
        set_sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), "1")?;
        // Sockets for low ports need no privilege in there: only the cluster's own hosts can enter.
        namespace.run(|| set_sysctl("net/ipv4/ip_unprivileged_port_start", "0"))??;
        let mut host = Rules::open(config.rules(Scope::Host))?;
        host.add_link(rtnl::with(async |rtnl: &Rtnl| expect_link(rtnl, &link).await)?)?;
        let pods = namespace.run(|| Rules::open(config.rules(Scope::Pods)))??;
        let (groups, attached) = (BTreeMap::new(), BTreeMap::new());
        let (balanced, announced) = (None, None);
        Ok(PodNetwork {
            config,
            namespace,
            host,
            pods,
            groups,
            attached,
            peers: None,
            balanced,
            announced,
        })
    }

    /// The configuration it was made from.
    #[must_use]
    pub fn config(&self) -> &PodNetworkConfig {
        &self.config
    }

    /// The file that the Pods' namespace is mounted on.
    #[must_use]
    pub fn namespace(&self) -> &Path {
        self.namespace.path()
    }

    /// Makes the Service tables hold exactly these routes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn replace(&mut self, routes: &[Arc<ServiceRoute>]) -> Result<(), PodNetworkError> {
        // The Pods' side first: the machine's side is what says that a Service is there.
        self.pods.replace(routes.iter().cloned())?;
        for group in self.groups.values_mut() {
            group.rules.replace(routes.iter().cloned())?;
        }
        self.host.replace(routes.iter().cloned())?;
        self.lead_balanced()
    }

    /// Takes changes into the Service tables.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn apply(&mut self, changes: &[RouteChange]) -> Result<(), PodNetworkError> {
        self.pods.apply(changes)?;
        for group in self.groups.values_mut() {
            group.rules.apply(changes)?;
        }
        self.host.apply(changes)?;
        self.lead_balanced()
    }

    fn lead_balanced(&mut self) -> Result<(), PodNetworkError> {
        let wanted = self.host.balanced();
        if self.balanced.as_ref() != Some(&wanted) {
            balancer::lead(&self.config, &wanted)?;
            self.balanced = Some(wanted);
        }
        Ok(())
    }

    /// Answers on the wire for these addresses of load balancers, and for no others.
    ///
    /// # Errors
    /// When the kernel refuses a step; it can be called again.
    pub fn announce(&mut self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), PodNetworkError> {
        if self.announced.as_ref() != Some(addresses) {
            let none = BTreeSet::new();
            let known = self.announced.as_ref().unwrap_or(&none);
            // What an earlier agent announced is among what is led.
            let others = known.iter().chain(self.balanced.iter().flatten());
            let others = others.filter(|address| !addresses.contains(address)).copied().collect();
            balancer::announce(addresses.difference(known), &others)?;
            self.announced = Some(addresses.clone());
        }
        Ok(())
    }

    /// Puts back Service tables that somebody removed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restore(&mut self) -> Result<(), PodNetworkError> {
        self.pods.restore()?;
        for group in self.groups.values_mut() {
            group.rules.restore()?;
        }
        Ok(self.host.restore()?)
    }

    /// The namespace of an isolation group, made or found, with `routes` in force in it.
    ///
    /// # Errors
    /// When the number is too high, or the kernel refuses a step.
    pub fn ensure_group(
        &mut self,
        number: u16,
        routes: impl IntoIterator<Item = Arc<ServiceRoute>>,
    ) -> Result<PathBuf, PodNetworkError> {
        if let Some(group) = self.groups.get(&number) {
            return Ok(group.namespace.path().to_owned());
        }
        let mut group = GroupNetwork::ensure(&self.config, number)?;
        group.rules.replace(routes)?;
        self.host.add_link(group.index)?;
        let path = group.namespace.path().to_owned();
        self.groups.insert(number, group);
        Ok(path)
    }

    /// Gives a Pod of a group, which must be there, its address in the group's namespace.
    ///
    /// # Errors
    /// When the group is not there, or the kernel refuses a step.
    pub fn join_group(&self, number: u16, address: Ipv4Addr) -> Result<(), PodNetworkError> {
        let group = self.groups.get(&number).ok_or_else(|| {
            PodNetworkError::Config(format!("isolation group {number} has no network"))
        })?;
        group.join(&self.config, &self.namespace, address)
    }

    /// Takes it back; neither need be there.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn leave_group(&self, number: u16, address: Ipv4Addr) -> Result<(), PodNetworkError> {
        match self.groups.get(&number) {
            Some(group) => group.leave(&self.namespace, address),
            None => Ok(()),
        }
    }

    /// Removes a group's namespace; it need not be there.
    ///
    /// # Errors
    /// When the kernel refuses a step; it can be called again.
    pub fn remove_group(&mut self, number: u16) -> Result<(), PodNetworkError> {
        group::remove(&self.config, number)?;
        if let Some(group) = self.groups.remove(&number) {
            self.host.remove_link(group.index)?;
        }
        Ok(())
    }

    /// The namespace of one Pod, made or found, with its address and everything else that it needs to be reached. `make` makes
    /// it if it is to be owned by others than this process.
    ///
    /// # Errors
    /// When the UID or the address is none, or the kernel refuses a step; it can be called again.
    pub fn attach(
        &mut self,
        uid: &str,
        address: Ipv4Addr,
        make: Option<Make>,
    ) -> Result<PathBuf, PodNetworkError> {
        if self.attached.get(uid).is_some_and(|(had, _)| *had != address) {
            self.detach(uid)?;
        }
        let (path, link) = attached::ensure(&self.config, &self.namespace, uid, address, make)?;
        self.attached.insert(uid.to_owned(), (address, link));
        self.host.add_link(link)?;
        Ok(path)
    }

    /// Removes it; it need not be there.
    ///
    /// # Errors
    /// When the kernel refuses a step; it can be called again.
    pub fn detach(&mut self, uid: &str) -> Result<(), PodNetworkError> {
        let link = attached::remove(&self.config, &self.namespace, uid)?;
        let known = self.attached.remove(uid).map(|(_, link)| link);
        for link in link.into_iter().chain(known) {
            self.host.remove_link(link)?;
        }
        Ok(())
    }

    /// Removes what there is of all Pods with a namespace each but these: by UID, with their addresses.
    ///
    /// # Errors
    /// When the kernel refuses a step; it can be called again.
    pub fn sweep(&mut self, keep: &BTreeMap<String, Ipv4Addr>) -> Result<(), PodNetworkError> {
        attached::sweep(&self.config, &self.namespace, keep)?;
        let gone: Vec<String> =
            self.attached.keys().filter(|uid| !keep.contains_key(*uid)).cloned().collect();
        for uid in gone {
            self.detach(&uid)?;
        }
        Ok(())
    }

    /// Removes groups that were not asked for since the start, and exceptions for other addresses than these: what an
    /// earlier agent left of Pods that are gone.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn settle_groups(&mut self, kept: &BTreeSet<Ipv4Addr>) -> Result<(), PodNetworkError> {
        for number in group::existing(&self.config) {
            if !self.groups.contains_key(&number) {
                group::remove(&self.config, number)?;
            }
        }
        Ok(self.namespace.run(|| {
            rtnl::with(async |rtnl: &Rtnl| {
                let eth = expect_link(rtnl, INNER).await?;
                for address in rtnl.exceptions().await? {
                    let attached = self.attached.values().any(|(attached, _)| *attached == address);
                    if !kept.contains(&address) && !attached {
                        rtnl.no_longer_except(eth, address).await?;
                    }
                }
                Ok(())
            })
        })??)
    }

    /// Leads to the Pods of other machines; these are all that there are. `own` is this machine's address among them. What
    /// somebody else removed is put back once in a while.
    ///
    /// # Errors
    /// When the kernel refuses a step; it can be called again.
    pub fn set_peers(&mut self, own: Ipv4Addr, peers: &[Peer]) -> Result<(), PodNetworkError> {
        let before = self.peers.take().filter(|(_, at)| at.elapsed() < LOOK);
        let (known, at) = before.unwrap_or_else(|| (BTreeSet::new(), Instant::now()));
        peers::set(&self.config, own, peers, &known)?;
        self.peers = Some((peers.iter().copied().collect(), at));
        Ok(())
    }

    /// Removes everything that [`PodNetwork::ensure`] made, but for `ip_forward`, which others may rely on by now.
    ///
    /// # Errors
    /// When the kernel refuses a step; it can be called again.
    pub fn teardown(mut self) -> Result<(), PodNetworkError> {
        self.host.delete()?;
        self.announce(&BTreeSet::new())?;
        peers::remove(&self.config)?;
        attached::sweep(&self.config, &self.namespace, &BTreeMap::new())?;
        for number in group::existing(&self.config) {
            group::remove(&self.config, number)?;
        }
        let link = self.config.link();
        // Routes and the other end go with the link, the inner table with the namespace.
        rtnl::with(async |rtnl: &Rtnl| rtnl.delete_link(&link).await)?;
        Ok(self.namespace.remove()?)
    }
}

/// Connects the namespace with this machine. An existing pair is kept, half a pair is replaced.
fn connect(
    config: &PodNetworkConfig,
    namespace: &NetNs,
    link: &str,
) -> Result<(), PodNetworkError> {
    let file = namespace.open()?;
    let has_inner =
        namespace.run(|| rtnl::with(async |rtnl: &Rtnl| rtnl.link(INNER).await))??.is_some();
    let prefix = reserved_prefix(config.pods);
    let (host_end, inner_end) = (end(config.pods, 1), end(config.pods, 2));
    rtnl::with(async |rtnl: &Rtnl| {
        if !(has_inner && rtnl.link(link).await?.is_some()) {
            rtnl.delete_link(link).await?;
            rtnl.add_veth(link, INNER, &file).await?;
        }
        let index = expect_link(rtnl, link).await?;
        rtnl.add_address(index, host_end, prefix).await?;
        rtnl.up(index).await
    })?;
    namespace.run(|| {
        rtnl::with(async |rtnl: &Rtnl| {
            let lo = expect_link(rtnl, "lo").await?;
            rtnl.up(lo).await?;
            let eth = expect_link(rtnl, INNER).await?;
            rtnl.add_address(eth, inner_end, prefix).await?;
            rtnl.up(eth).await?;
            for range in config.pods.without_first(prefix) {
                rtnl.add_local(lo, range).await?;
            }
            rtnl.add_via(eth, Cidr::new(Ipv4Addr::UNSPECIFIED, 0), host_end).await
        })
    })??;
    rtnl::with(async |rtnl: &Rtnl| {
        let index = expect_link(rtnl, link).await?;
        rtnl.add_via(index, config.pods, inner_end).await?;
        // Never followed to its end: it gives callers on this machine a source address before the translation.
        rtnl.add_via(index, config.services, inner_end).await
    })?;
    Ok(())
}

/// Refuses ranges of which another link already has routes. A wider route is no obstacle: ours are more specific.
/// Removes the tables of clusters that were killed and whose links are gone: they would go on refusing what is sent to
/// their Service ranges, which look free and may be somebody's Pods by now.
fn remove_dead_tables(config: &PodNetworkConfig) -> Result<(), PodNetworkError> {
    // Asked after the tables were listed: a cluster has its link before its table.
    let has_link = |id: &str| {
        let name = format!("{LINK}{id}");
        rtnl::with(async |rtnl: &Rtnl| rtnl.link(&name).await).map_or(true, |link| link.is_some())
    };
    let is_used = |id: &str| {
        let namespace = config.netns.with_file_name(format!("{TABLE}{id}"));
        id == config.id || namespace.exists() || has_link(id)
    };
    Ok(nft::remove_unused(TABLE, is_used)?)
}

fn check_overlap(config: &PodNetworkConfig, link: &str) -> Result<(), PodNetworkError> {
    let conflict = rtnl::with(async |rtnl: &Rtnl| {
        let own = rtnl.link(link).await?;
        for route in rtnl
            .routes()
            .await?
            .into_iter()
            .filter(|route| route.link.is_some() && route.link != own)
        {
            for range in [config.pods, config.services] {
                if range.prefix() <= route.destination.prefix() && range.overlaps(route.destination)
                {
                    let link_name = rtnl::link_name(rtnl, route.link.unwrap_or_default()).await;
                    // One of this cluster's isolation groups, from an earlier agent's time.
                    if link_name.starts_with(link) {
                        continue;
                    }
                    return Ok(Some(PodNetworkError::Overlap {
                        range,
                        route: route.destination,
                        link: link_name,
                    }));
                }
            }
        }
        Ok(None)
    })?;
    conflict.map_or(Ok(()), Err)
}

pub(super) async fn expect_link(rtnl: &Rtnl, name: &str) -> Result<u32, RtnlError> {
    rtnl.link(name).await?.ok_or_else(|| RtnlError::missing_link(name))
}

/// The other end of the link, in the Pods' namespace.
pub(super) fn inner_end(config: &PodNetworkConfig) -> Ipv4Addr {
    end(config.pods, 2)
}

/// The `number`-th address of a Pod range.
fn end(pods: Cidr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(pods.base()) + number)
}

/// Writes a kernel setting of the current thread's network namespace, unless it has that value.
pub(super) fn set_sysctl(name: &str, value: &'static str) -> Result<(), PodNetworkError> {
    let path = Path::new("/proc/sys").join(name);
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| PodNetworkError::Sysctl {
        name: name.to_owned(),
        value,
        source,
    })
}
