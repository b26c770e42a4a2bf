//! What the agent holds: addresses for Pods and routes for Services, whichever way they are made.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::address::{AddressError, PodAddresses, listen_port};
use crate::cidr::Cidr;
use crate::linux::{self, Peer, PodNetwork, PodNetworkConfig, PodNetworkError, RtnlError};
use crate::listen::{Listen, Loopback};
use crate::ranges::{self, ClusterRanges, NoFreeRange};
use crate::routes::{PortRoute, Protocol, RouteChange, ServiceKey, ServiceRoute};

/// A port of the claim address that nothing else uses.
const CLAIM_PORT: u16 = 10_255;

/// How Pods and Services get their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A namespace for Pods, nftables for Services.
    Root,
    /// Loopback addresses, a proxy for Services.
    Rootless,
}

impl Mode {
    /// What this process may do.
    #[must_use]
    pub fn detect() -> Self {
        if linux::may_administer_network() { Mode::Root } else { Mode::Rootless }
    }
}

/// A node's network, as configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// How addresses are made.
    pub mode: Mode,
    /// Tells clusters on one machine apart: up to 11 letters, digits and dashes.
    pub id: String,
    /// This node's Pod range.
    pub pods: Cidr,
    /// The cluster's Pod range, of which that of every node is a part.
    pub cluster: Cidr,
    /// The cluster's Service range.
    pub services: Cidr,
    /// What tells this cluster's tunnels between machines apart from those of others: 24 bits.
    pub tunnel: u32,
}

/// Why a node has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No free ranges for a new cluster.
    #[error(transparent)]
    NoFreeRange(#[from] NoFreeRange),
    /// The machine's routes could not be read.
    #[error(transparent)]
    Routes(#[from] RtnlError),
    /// The Pods' network as root.
    #[error(transparent)]
    Pods(#[from] PodNetworkError),
    /// The work was cut off, as happens when the process ends.
    #[error("the network's work was cut off: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// All routes at one moment, as a sandbox host wants them.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every change, also over restarts of this process.
    pub generation: u64,
    /// Every Service, by namespace and name; backends are as they can be connected to.
    pub services: Vec<Arc<ServiceRoute>>,
    /// The sockets that the host's proxy is to open; none as root, where the kernel translates.
    pub listen: Vec<Listen>,
}

/// The ranges of a new cluster on this machine, to be kept by the caller. `seed_text` (the data directory's path)
/// makes clusters that do not run at the same time choose differently; of those that start at the same time, each has
/// its own for as long as the process lives.
///
/// # Errors
/// When no range is free, or the machine's routes cannot be read.
pub fn choose_ranges(mode: Mode, seed_text: &str) -> Result<ClusterRanges, NetworkError> {
    let seed = ranges::seed(seed_text.as_bytes());
    if mode == Mode::Rootless {
        let is_free = |ranges: &ClusterRanges| {
            claim(ranges.claim_address()).is_ok() && reserve(&[ranges.pods])
        };
        return Ok(ClusterRanges::choose_rootless(seed, is_free)?);
    }
    let mut taken = linux::taken_ranges()?;
    loop {
        let ranges = ClusterRanges::choose_root(seed, &taken)?;
        if reserve(&[ranges.services]) {
            if reserve(&[ranges.pods]) {
                return Ok(ranges);
            }
            taken.push(ranges.pods);
        } else {
            taken.push(ranges.services);
        }
    }
}

/// The networks of this machine that are not those of the node `id`, as [`ranges::Neighbourhood::in_the_way`] wants them.
///
/// # Errors
/// When the machine's routes cannot be read.
pub fn neighbourhood(id: &str) -> Result<Vec<ranges::Neighbourhood>, NetworkError> {
    let own = linux::link_names(id);
    Ok(linux::neighbourhood(|link| own.iter().any(|name| link.starts_with(name)))?)
}

/// Reserves ranges for this process, all or none: a link or a listener, which others would see, is made only later. The
/// name of an abstract socket belongs to one process of the network namespace, and goes with it.
fn reserve(ranges: &[Cidr]) -> bool {
    static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let bind = |range: &Cidr| {
        let name = SocketAddr::from_abstract_name(format!("coracle/range/{range}"))?;
        UnixListener::bind_addr(&name)
    };
    match ranges.iter().map(bind).collect::<std::io::Result<Vec<_>>>() {
        Ok(sockets) => {
            lock(&HELD).extend(sockets);
            true
        }
        Err(_) => false,
    }
}

/// A port of this machine that leads to a Pod (`core/v1 ContainerPort.hostPort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `hostIP`: the only address of this machine that has it; all where none is given.
    pub address: Option<Ipv4Addr>,
    /// `hostPort`.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The Pod's address and `containerPort`.
    pub target: SocketAddrV4,
}

impl HostPort {
    /// As a Service of a namespace that none can have.
    fn route(&self, uid: &str, number: usize) -> ServiceRoute {
        let address = self.address.filter(|address| !address.is_unspecified());
        ServiceRoute {
            key: ServiceKey { namespace: String::new(), name: format!("{uid}/{number}") },
            external_ips: address.into_iter().map(IpAddr::V4).collect(),
            ports: vec![PortRoute {
                name: String::new(),
                port: self.port,
                node_port: address.is_none().then_some(self.port),
                protocol: self.protocol,
                backends: vec![self.target.into()],
                ..PortRoute::default()
            }],
            ..ServiceRoute::default()
        }
    }
}

impl Services {
    fn put(&mut self, route: Arc<ServiceRoute>) {
        self.take(&route.key);
        for address in route.named() {
            self.by_address.entry(address).or_default().insert(route.key.clone());
        }
        self.routes.insert(route.key.clone(), route);
    }

    fn take(&mut self, key: &ServiceKey) {
        let Some(route) = self.routes.remove(key) else { return };
        for address in route.named() {
            if let Some(keys) = self.by_address.get_mut(&address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
    }

    /// Everything that leads to Pods.
    fn all(&self) -> impl Iterator<Item = Arc<ServiceRoute>> + '_ {
        self.routes.values().chain(self.host_ports.values().flatten()).cloned()
    }
}

/// A node's network. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    unprivileged_start: u16,
    netns: Option<PathBuf>,
    // Two locks, each held for a moment or for one transaction with the kernel: Pods that start must not wait for
    // a large Service change.
    addresses: Mutex<PodAddresses>,
    services: Mutex<Services>,
    /// Keeps other clusters from choosing the same loopback ranges.
    _claim: Option<TcpListener>,
}

#[derive(Debug)]
struct Services {
    generation: u64,
    routes: BTreeMap<ServiceKey, Arc<ServiceRoute>>,
    /// The Services that give an address its names.
    by_address: HashMap<IpAddr, BTreeSet<ServiceKey>>,
    /// Ports of this machine that lead to Pods (`hostPort`), by the Pods' UIDs.
    host_ports: BTreeMap<String, Vec<Arc<ServiceRoute>>>,
    pods: Option<PodNetwork>,
}

impl Network {
    /// Sets the network up, or finds it as an earlier agent left it.
    ///
    /// # Errors
    /// As root, when the kernel refuses or the ranges are somebody else's.
    pub async fn start(config: Config) -> Result<Self, NetworkError> {
        let (pods, claim) = match config.mode {
            Mode::Root => {
                let id = config.id.clone();
                let netns = Path::new("/run/netns").join(format!("coracle-{id}"));
                let Config { pods, cluster, services, tunnel, .. } = config;
                let pods = PodNetworkConfig { id, netns, pods, cluster, services, tunnel };
                (Some(tokio::task::spawn_blocking(move || PodNetwork::ensure(pods)).await??), None)
            }
            Mode::Rootless => {
                let ranges = ClusterRanges { pods: config.pods, services: config.services };
                let claim = claim(ranges.claim_address());
                if let Err(error) = &claim {
                    tracing::warn!(range = %config.pods, %error, "another cluster seems to use this loopback range");
                }
                (None, claim.ok())
            }
        };
        let unprivileged_start = if config.mode == Mode::Root { 0 } else { unprivileged_start() };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let netns = pods.as_ref().map(|pods| pods.namespace().to_owned());
        let addresses = Mutex::new(PodAddresses::new(config.pods));
        // Microseconds: a later process starts above whatever this one counts up to.
        let generation = started.as_micros() as u64;
        let services = Mutex::new(Services {
            generation,
            routes: BTreeMap::new(),
            by_address: HashMap::new(),
            host_ports: BTreeMap::new(),
            pods,
        });
        Ok(Network {
            shared: Arc::new(Shared {
                config,
                unprivileged_start,
                netns,
                addresses,
                services,
                _claim: claim,
            }),
        })
    }

    /// How addresses are made.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.shared.config.mode
    }

    /// The namespace that Pods' sockets belong in; none without root.
    #[must_use]
    pub fn pod_netns(&self) -> Option<&Path> {
        self.shared.netns.as_deref()
    }

    /// The machine's address that Pods can reach: the gateway of their namespace, or loopback without root.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        match self.mode() {
            Mode::Root => Ipv4Addr::from(u32::from(self.shared.config.pods.base()) + 1),
            Mode::Rootless => Ipv4Addr::LOCALHOST,
        }
    }

    /// The port that is really bound for `port` of a Pod or Service (see [`listen_port`]).
    #[must_use]
    pub fn listen_port(&self, port: u16) -> u16 {
        listen_port(port, self.shared.unprivileged_start)
    }

    /// The address of Pod `uid`: the one it has, or a free one.
    ///
    /// # Errors
    /// When the node's range is full.
    pub fn allocate_pod_ip(&self, uid: &str) -> Result<Ipv4Addr, AddressError> {
        self.addresses().allocate(uid)
    }

    /// Records that Pod `uid`, which ran before this process did, has `address`. To be called for all such Pods
    /// before the first [`Network::allocate_pod_ip`].
    ///
    /// # Errors
    /// When the address is not of this node's range, or another Pod's.
    pub fn adopt(&self, uid: &str, address: Ipv4Addr) -> Result<(), AddressError> {
        self.addresses().adopt(uid, address)
    }

    /// Frees the address of Pod `uid`, which may have none.
    pub fn release(&self, uid: &str) {
        self.addresses().release(uid);
    }

    /// Makes `routes` all there is, as after a fresh list.
    ///
    /// # Errors
    /// As root, when the kernel refuses.
    pub async fn replace(&self, routes: Vec<Arc<ServiceRoute>>) -> Result<(), NetworkError> {
        self.with_services(move |services| {
            services.generation += 1;
            services.routes.clear();
            services.by_address.clear();
            routes.into_iter().for_each(|route| services.put(route));
            let all: Vec<_> = services.all().collect();
            services.pods.as_mut().map_or(Ok(()), |pods| pods.replace(&all))
        })
        .await
    }

    /// Takes changes in. As root the kernel follows before this returns; [`Network::snapshot`] is what sandbox hosts
    /// are to be told.
    ///
    /// # Errors
    /// As root, when the kernel refuses; the changes are kept, and the next call tries again.
    pub async fn apply(&self, changes: Vec<RouteChange>) -> Result<(), NetworkError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.with_services(move |services| {
            services.generation += 1;
            for change in &changes {
                match change {
                    RouteChange::Set(route) => services.put(Arc::clone(route)),
                    RouteChange::Gone(key) => services.take(key),
                }
            }
            services.pods.as_mut().map_or(Ok(()), |pods| pods.apply(&changes))
        })
        .await
    }

    /// Puts back what somebody else removed from the kernel, such as a firewall that restarts. To be called now and
    /// then.
    ///
    /// # Errors
    /// As root, when the kernel refuses.
    pub async fn restore(&self) -> Result<(), NetworkError> {
        self.with_services(|services| services.pods.as_mut().map_or(Ok(()), PodNetwork::restore))
            .await
    }

    /// The network namespace of an isolation group, made or found; none without root. It is asked for when the group's
    /// host starts, or is found running, and removed when that has ended.
    ///
    /// # Errors
    /// As root, when the kernel refuses.
    pub async fn ensure_group(&self, number: u16) -> Result<Option<PathBuf>, NetworkError> {
        self.with_services(move |services| {
            let all: Vec<_> = services.all().collect();
            let Some(pods) = &mut services.pods else { return Ok(None) };
            pods.ensure_group(number, all).map(Some)
        })
        .await
    }

    /// Leads the address of a Pod into its group's namespace.
    ///
    /// # Errors
    /// As root, when the kernel refuses.
    pub async fn join_group(&self, number: u16, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.with_services(move |services| match &services.pods {
            Some(pods) => pods.join_group(number, address),
            None => Ok(()),
        })
        .await
    }

    /// Takes that back.
    ///
    /// # Errors
    /// As root, when the kernel refuses.
    pub async fn leave_group(&self, number: u16, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.with_services(move |services| match &services.pods {
            Some(pods) => pods.leave_group(number, address),
            None => Ok(()),
        })
        .await
    }

    /// Removes a group's namespace.
    ///
    /// # Errors
    /// As root, when the kernel refuses.
    pub async fn remove_group(&self, number: u16) -> Result<(), NetworkError> {
        self.with_services(move |services| match &mut services.pods {
            Some(pods) => pods.remove_group(number),
            None => Ok(()),
        })
        .await
    }

    /// Removes what earlier agents left of groups and of Pods in them that nobody asked for since the start. `kept` are
    /// the addresses of Pods in groups.
    ///
    /// # Errors
    /// As root, when the kernel refuses.
    pub async fn settle_groups(&self, kept: BTreeSet<Ipv4Addr>) -> Result<(), NetworkError> {
        self.with_services(move |services| match &mut services.pods {
            Some(pods) => pods.settle_groups(&kept),
            None => Ok(()),
        })
        .await
    }

    /// The network namespace of a Pod that has processes of its own, made or found, in which it has its address; none
    /// without root. To be called before its sandbox is made, and for those that are found running. `make` makes it if it is to
    /// be owned by others than this process.
    ///
    /// # Errors
    /// As root, when the kernel refuses; it can be called again.
    pub async fn attach_pod(
        &self,
        uid: &str,
        address: Ipv4Addr,
        make: Option<linux::Make>,
    ) -> Result<Option<PathBuf>, NetworkError> {
        let uid = uid.to_owned();
        self.with_services(move |services| {
            let Some(pods) = &mut services.pods else { return Ok(None) };
            pods.attach(&uid, address, make).map(Some)
        })
        .await
    }

    /// Removes it, whatever still runs in it; it need not be there.
    ///
    /// # Errors
    /// As root, when the kernel refuses; it can be called again.
    pub async fn detach_pod(&self, uid: &str) -> Result<(), NetworkError> {
        let uid = uid.to_owned();
        self.with_services(move |services| {
            services.pods.as_mut().map_or(Ok(()), |pods| pods.detach(&uid))
        })
        .await
    }

    /// Removes what earlier agents left of Pods with a namespace each, half-made ones included: all but these, by UID with
    /// their addresses.
    ///
    /// # Errors
    /// As root, when the kernel refuses; it can be called again.
    pub async fn sweep(&self, keep: BTreeMap<String, Ipv4Addr>) -> Result<(), NetworkError> {
        self.with_services(move |services| {
            services.pods.as_mut().map_or(Ok(()), |pods| pods.sweep(&keep))
        })
        .await
    }

    /// Leads ports of this machine to a Pod (`hostPort`); these are all that it has. Where a Service's NodePort or another
    /// Pod has one already, the first keeps it.
    ///
    /// # Errors
    /// As root, when the kernel refuses; they are kept, and the next change tries again.
    pub async fn set_host_ports(
        &self,
        uid: &str,
        ports: Vec<HostPort>,
    ) -> Result<(), NetworkError> {
        let uid = uid.to_owned();
        self.with_services(move |services| {
            let routes: Vec<_> =
                ports.iter().enumerate().map(|(n, port)| Arc::new(port.route(&uid, n))).collect();
            let before = services.host_ports.remove(&uid).unwrap_or_default();
            if routes == before {
                if !routes.is_empty() {
                    services.host_ports.insert(uid, routes);
                }
                return Ok(());
            }
            services.generation += 1;
            let gone = before.iter().skip(routes.len()).map(|r| RouteChange::Gone(r.key.clone()));
            let changes: Vec<_> =
                gone.chain(routes.iter().cloned().map(RouteChange::Set)).collect();
            if !routes.is_empty() {
                services.host_ports.insert(uid, routes);
            }
            services.pods.as_mut().map_or(Ok(()), |pods| pods.apply(&changes))
        })
        .await
    }

    /// Answers on the wire for these addresses of load balancers, and for no others. Without root nothing is answered for.
    ///
    /// # Errors
    /// As root, when the kernel refuses; it can be called again.
    pub async fn announce(&self, addresses: BTreeSet<Ipv4Addr>) -> Result<(), NetworkError> {
        self.with_services(move |services| {
            services.pods.as_mut().map_or(Ok(()), |pods| pods.announce(&addresses))
        })
        .await
    }

    /// Leads to the Pods of the cluster's other machines; these are all that there are. Without root there is nothing to be
    /// done: all its nodes are on one machine.
    ///
    /// # Errors
    /// As root, when the kernel refuses; it can be called again.
    pub async fn set_peers(&self, own: Ipv4Addr, peers: Vec<Peer>) -> Result<(), NetworkError> {
        self.with_services(move |services| {
            services.pods.as_mut().map_or(Ok(()), |pods| pods.set_peers(own, &peers))
        })
        .await
    }

    /// All routes as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let services = lock(&self.shared.services);
        let mut routes: Vec<Arc<ServiceRoute>> = services.routes.values().cloned().collect();
        let mut listen = Vec::new();
        if self.mode() == Mode::Rootless {
            // The proxy asks by the keys of what it listens for.
            routes = services.all().collect();
            let loopback = self.loopback();
            listen = loopback.listens(routes.iter().map(AsRef::as_ref));
            for route in &mut routes {
                if let Some(bound) = loopback.bound(route) {
                    *route = Arc::new(bound);
                }
            }
        }
        Snapshot { generation: services.generation, services: routes, listen }
    }

    /// The Service of this name, as its address and its endpoints can be connected to as root.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<Arc<ServiceRoute>> {
        lock(&self.shared.services).routes.get(key).cloned()
    }

    /// The Services that give this address a name: whose ClusterIP it is, or, having none, whose endpoint.
    #[must_use]
    pub fn services_at(&self, address: IpAddr) -> Vec<Arc<ServiceRoute>> {
        let services = lock(&self.shared.services);
        let keys = services.by_address.get(&address).into_iter().flatten();
        keys.filter_map(|key| services.routes.get(key).cloned()).collect()
    }

    /// Whether it is an address of the cluster's: a Pod's, or a Service's.
    #[must_use]
    pub fn is_of_cluster(&self, address: Ipv4Addr) -> bool {
        let config = &self.shared.config;
        config.cluster.contains(address) || config.services.contains(address)
    }

    /// Whether it is an address of this node's Pods, or this machine's among them.
    #[must_use]
    pub fn is_of_this_node(&self, address: Ipv4Addr) -> bool {
        self.shared.config.pods.contains(address)
    }

    /// For each TCP port of a NodePort or LoadBalancer Service, a URL that a browser on this machine can open.
    #[must_use]
    pub fn urls(&self, route: &ServiceRoute) -> Vec<String> {
        let ports = route.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let url = |port: &crate::routes::PortRoute| {
            let number = self.listen_port(port.node_port?);
            let scheme = if port.name == "https" || port.port == 443 { "https" } else { "http" };
            Some(format!("{scheme}://127.0.0.1:{number}"))
        };
        ports.filter_map(url).collect()
    }

    /// Removes everything from the kernel. Running Pods lose their network.
    ///
    /// # Errors
    /// As root, when the kernel refuses.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        self.with_services(|services| services.pods.take().map_or(Ok(()), PodNetwork::teardown))
            .await
    }

    fn addresses(&self) -> MutexGuard<'_, PodAddresses> {
        lock(&self.shared.addresses)
    }

    fn loopback(&self) -> Loopback {
        Loopback {
            pods: self.shared.config.cluster,
            unprivileged_start: self.shared.unprivileged_start,
        }
    }

    /// A transaction of thousands of Services keeps the kernel busy for a while: not on a thread of the runtime.
    async fn with_services<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Services) -> Result<T, PodNetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let shared = Arc::clone(&self.shared);
        Ok(tokio::task::spawn_blocking(move || work(&mut lock(&shared.services))).await??)
    }
}

/// Locks also after a panic elsewhere: every change to what these locks guard is repeatable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn claim(address: Ipv4Addr) -> std::io::Result<TcpListener> {
    TcpListener::bind((address, CLAIM_PORT))
}

fn unprivileged_start() -> u16 {
    let text =
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}
