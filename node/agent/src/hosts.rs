//! Which sandbox host a Pod lives in: a host is a process, and the Pods of one [`Group`] share one.
//!
//! The shared host is there from the agent's start to its end; what is shared costs nothing per Pod here. Other hosts
//! are started for their group's first Pod and ended with its last. Each group has a number, which its user, its network
//! and its folders are named by; a record on disk keeps it until the last file of the group's Pods is gone.
//!
//! Everything that a group goes through happens under its own lock, so that a Pod that comes while the last one goes
//! finds either the old host whole or a new one.
//!
//! Hosts of an older program, found after an upgrade, keep their Pods and get no others: see [`upgrade`].

mod containers;
pub(crate) mod folders;
mod member;
mod upgrade;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use coracle_network::{Network, NetworkError, linux};
use coracle_sandbox::{Client, Info, Routes, SandboxSpec, SandboxStatus, UserMapping};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub use containers::Runtime;
pub use folders::Folders;
pub use member::Host;

use self::member::{State, Tenant};
use crate::cgroup::{Cgroups, Limits};
use crate::host::{self, HostError};
use crate::isolation::Group;
use crate::services;

/// What a host process needs besides what its Pods may use: itself, and code that they share.
const OVERHEAD: u64 = 256 << 20;
/// Most threads of a host: those of its runtimes, and of work that blocks.
const TASKS: u32 = 2048;

/// The number that no group gets: that of the user who compiles.
pub const COMPILER: u16 = linux::MAX_GROUPS - 1;
/// Nor this one, which is of the user who serves Ingresses.
pub const PROXY: u16 = linux::MAX_GROUPS - 2;
/// Name of that process's cgroup.
const INGRESS: &str = "ingress";

/// Where hosts have their things, and how they are started.
#[derive(Debug, Clone)]
pub struct HostsConfig {
    /// The program: the agent's own.
    pub program: PathBuf,
    /// Folder of sockets; its path must be short.
    pub sockets: PathBuf,
    /// Folder of what hosts keep for themselves, one folder a host.
    pub data: PathBuf,
    /// The agent's folder: compiled code, and below it logs and volumes.
    pub agent_data: PathBuf,
    /// Tells clusters on one machine apart.
    pub cluster: String,
    /// The shared host's user; others follow by their groups' numbers. None where hosts cannot have users of their own.
    pub users: Option<u32>,
    /// Whether the program can run containers, if the agent may.
    pub containers: bool,
}

/// All hosts of this node; cheap to clone.
#[derive(Clone)]
pub struct Hosts {
    inner: Arc<Inner>,
}

struct Inner {
    config: HostsConfig,
    network: Network,
    cgroups: Option<Cgroups>,
    /// Allocatable CPU in millicores and memory in bytes.
    allocatable: (u64, u64),
    shared: Arc<Host>,
    groups: Mutex<HashMap<Group, Arc<Host>>>,
    /// Hosts that new Pods of their groups do not come to: they are of an older program, or stood in for one that was.
    older: Mutex<Vec<Arc<Host>>>,
    /// Held while the process that makes shims is looked for or started.
    /// Whether the zygote is known to be of this program; locked while it is looked for.
    zygote: tokio::sync::Mutex<bool>,
    /// Pods that are not in the shared host.
    pods: RwLock<HashMap<String, Arc<Host>>>,
    /// Some host does not have the node's routes.
    stale: Notify,
    /// Hosts that somebody has to follow.
    started: mpsc::UnboundedSender<Started>,
    /// No host is started any more.
    closed: CancellationToken,
}

/// A host that is there from now on, or the shim of a Pod.
pub struct Started {
    /// The host.
    pub host: Arc<Host>,
    /// How to reach it.
    pub client: Client,
    /// Whether it is the shim: nobody starts that again, its Pod has to be made anew.
    pub is_shim: bool,
    /// Which start of it.
    pub instance: String,
    /// Its end.
    pub ended: CancellationToken,
}

/// Where a Pod was put.
pub struct Place {
    /// Its host.
    pub client: Client,
    /// The network namespace of its addresses; none where there are no namespaces.
    pub netns: Option<PathBuf>,
    /// Where it has its files.
    pub folders: Arc<Folders>,
    /// The IDs of its users, if it is to have some of its own.
    pub users: Option<UserMapping>,
}

/// A Pod found no host.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Its host does not start.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Its host has no network.
    #[error("no network for isolation group \"{group}\": {source}")]
    Network {
        /// Whose.
        group: Group,
        /// Why.
        source: NetworkError,
    },
    /// The disk.
    #[error("folders of isolation group \"{group}\": {source}")]
    Folders {
        /// Whose.
        group: Group,
        /// What the system said.
        source: io::Error,
    },
    /// This node runs no containers.
    #[error("this node runs no containers; see its label coracle.dev/runtime-oci")]
    NoContainers,
    /// All numbers are taken.
    #[error(
        "this node has {0} isolation groups, which is all that it can have; remove some of their Pods"
    )]
    TooMany(usize),
    /// The agent ends.
    #[error("the agent is about to end")]
    Closed,
}

/// What of a group is kept on disk.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    group: Group,
    number: u16,
    #[serde(default)]
    host_paths: Vec<PathBuf>,
    /// Its Pod has containers.
    #[serde(default)]
    containers: bool,
}

impl Record {
    fn shared() -> Record {
        Record { group: Group::Shared, number: 0, host_paths: Vec::new(), containers: false }
    }

    fn pod(&self) -> Option<&str> {
        match &self.group {
            Group::Pod(uid) if self.containers => Some(uid),
            _ => None,
        }
    }
}

impl Hosts {
    /// Finds the hosts that outlived an earlier agent, and starts the shared one if it is not among them. Gives what they
    /// run, and those that are to be followed, now and later.
    pub async fn open(
        config: HostsConfig,
        network: Network,
        allocatable: (u64, u64),
    ) -> Result<(Self, Vec<SandboxStatus>, mpsc::UnboundedReceiver<Started>), PlaceError> {
        let (started, receiver) = mpsc::unbounded_channel();
        let cgroups = Cgroups::find(&config.cluster);
        let stale = Notify::new();
        // Hosts may be new and know no route, or have an older agent's.
        stale.notify_one();
        let inner = Inner {
            shared: Arc::new(Host::new(&config, Record::shared())),
            config,
            network,
            cgroups,
            allocatable,
            groups: Mutex::default(),
            older: Mutex::default(),
            zygote: tokio::sync::Mutex::default(),
            pods: RwLock::default(),
            stale,
            started,
            closed: CancellationToken::new(),
        };
        let hosts = Self { inner: Arc::new(inner) };
        let mut sandboxes = hosts.find(&hosts.inner.shared).await?;
        let records = hosts.records();
        let mut shims = hosts.shims(&records).await;
        for record in records {
            let shim = record.pod().and_then(|uid| shims.remove(uid));
            let host = Arc::new(Host::new(&hosts.inner.config, record));
            let found = match &host.shim {
                Some(_) => hosts.find_containers(&host, shim).await,
                None => hosts.find(&host).await,
            };
            match found {
                Ok(found) => sandboxes.extend(found),
                Err(error) => tracing::error!(%error, group = %host.group, "not taken over"),
            }
            hosts.file(host);
        }
        for (_, nobodys) in shims {
            hosts.end_shim(&nobodys).await;
        }
        hosts.settle().await;
        Ok((hosts, sandboxes, receiver))
    }

    /// What a host runs that an earlier agent started.
    async fn find(&self, host: &Arc<Host>) -> Result<Vec<SandboxStatus>, PlaceError> {
        let mut state = host.state.lock().await;
        if host.is_shared() {
            self.end_if_outdated_and_idle(host).await;
            let adopted = self.start(host, &mut state).await?;
            return Ok(if adopted {
                host.client.sandboxes().await.unwrap_or_default()
            } else {
                Vec::new()
            });
        }
        let found = match host.client.info().await {
            Ok(_) => host.client.sandboxes().await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        state.known.extend(host.folders.pods());
        for sandbox in &found {
            state.known.insert(sandbox.spec.id.clone());
            state.tenants.insert(sandbox.spec.id.clone(), Tenant::of(&sandbox.spec));
        }
        for uid in &state.known {
            self.pods_mut().insert(uid.clone(), host.clone());
        }
        if state.tenants.is_empty() {
            // Asked to start, it could have nothing to do.
            host::end(&host.client).await;
            return Ok(found);
        }
        self.start(host, &mut state).await?;
        let addresses: Vec<Ipv4Addr> = state.tenants.values().filter_map(|t| t.address).collect();
        for address in addresses {
            self.join(host, address).await?;
        }
        Ok(found)
    }

    /// Removes what is left of hosts that are gone.
    async fn settle(&self) {
        let (mut addresses, mut attached) = (BTreeSet::new(), BTreeMap::new());
        let mut running = HashSet::from(
            [&self.inner.shared.name(), containers::ZYGOTE, INGRESS].map(str::to_owned),
        );
        for host in self.all().into_iter().filter(|host| !host.is_shared()) {
            let state = host.state.lock().await;
            if let Some(shim) = &host.shim
                && shim.client().is_some()
            {
                running.insert(shim.cgroup_name());
                attached.extend(shim.address().map(|address| (shim.uid().to_owned(), address)));
            }
            if state.running.is_some() {
                running.insert(host.name());
                addresses.extend(state.tenants.values().filter_map(|t| t.address));
            }
        }
        if let Err(error) = self.inner.network.settle_groups(addresses).await {
            tracing::warn!(%error, "networks of hosts that are gone were not removed");
        }
        if let Some(cgroups) = &self.inner.cgroups {
            for name in cgroups.existing().into_iter().filter(|name| !running.contains(name)) {
                if containers::is_pod(&name) {
                    self.destroy(name).await;
                } else {
                    let _ = cgroups.remove(&name);
                }
            }
        }
        if let Err(error) = self.inner.network.sweep(attached).await {
            tracing::warn!(%error, "networks of Pods that are gone were not removed");
        }
        self.sweep_shims().await;
    }

    /// Pods that have files here but are not among `pods`, as the API has them.
    pub fn strays(&self, pods: &HashSet<String>) -> Vec<String> {
        let mut uids: HashSet<String> = self.inner.shared.folders.pods().into_iter().collect();
        let known = self.inner.pods.read().unwrap_or_else(PoisonError::into_inner);
        uids.extend(known.keys().cloned());
        uids.into_iter().filter(|uid| !pods.contains(uid)).collect()
    }

    /// Where a Pod has its files.
    pub fn folders(&self, uid: &str) -> Arc<Folders> {
        self.host(uid).folders.clone()
    }

    /// Whether a Pod is in this host.
    pub fn is_in(&self, uid: &str, host: &Arc<Host>) -> bool {
        Arc::ptr_eq(&self.host(uid), host)
    }

    fn host(&self, uid: &str) -> Arc<Host> {
        let pods = self.inner.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(uid).unwrap_or(&self.inner.shared).clone()
    }

    /// Puts a Pod in the host of its group, which is started if need be. A Pod that was in one before comes back to it.
    pub async fn place(
        &self,
        group: Group,
        host_paths: Vec<PathBuf>,
        spec: &SandboxSpec,
    ) -> Result<Place, PlaceError> {
        let uid = spec.id.as_str();
        let before = self.host(uid);
        let group = if before.is_shared() { group } else { before.group.clone() };
        if before.is_shared() && group == Group::Shared && !before.is_outdated() {
            return Ok(before.place(self.inner.network.pod_netns().map(Into::into)));
        }
        let mut own = Some(before).filter(|before| !before.is_shared());
        let (host, mut state) = loop {
            let host = own.take().map_or_else(|| self.group(&group, &host_paths, false), Ok)?;
            let state = host.state.clone().lock_owned().await;
            if !state.retired {
                break (host, state);
            }
        };
        let tenant = Tenant::of(spec);
        let address = tenant.address;
        state.known.insert(uid.to_owned());
        state.tenants.insert(uid.to_owned(), tenant);
        self.pods_mut().insert(uid.to_owned(), host.clone());
        let placed = async {
            self.start(&host, &mut state).await?;
            self.limit(&host, &mut state);
            if let Some(address) = address {
                self.join(&host, address).await?;
            }
            self.netns(&host).await
        };
        match placed.await {
            Ok(netns) => Ok(host.place(netns)),
            Err(error) => {
                drop(state);
                self.leave(uid).await;
                Err(error)
            }
        }
    }

    /// A Pod's sandbox is gone; with the last one its host ends.
    pub async fn leave(&self, uid: &str) {
        let host = self.host(uid);
        if host.is_shared() {
            return self.replace_if_outdated_and_idle(&host).await;
        }
        let mut state = host.state.lock().await;
        if let Some(tenant) = state.tenants.remove(uid)
            && host.shim.is_none()
            && let Some(address) = tenant.address
            && let Err(error) = self.inner.network.leave_group(host.number, address).await
        {
            tracing::warn!(%error, pod = uid, "address not taken back from the Pod's namespace");
        }
        if state.tenants.is_empty() {
            self.end_host(&host, &mut state).await;
        } else {
            self.limit(&host, &mut state);
        }
    }

    /// A Pod's files are gone; with the last ones its group is forgotten.
    pub async fn forget(&self, uid: &str) {
        let host = self.host(uid);
        if host.is_shared() {
            return;
        }
        let mut state = host.state.lock().await;
        state.known.remove(uid);
        self.pods_mut().remove(uid);
        if !state.known.is_empty() || !state.tenants.is_empty() || state.retired {
            return;
        }
        state.retired = true;
        let config = &self.inner.config;
        for folder in [config.data.join(host.name()), host.base(config)] {
            crate::pod::volumes::unmount_below(&folder);
            if let Err(error) = std::fs::remove_dir_all(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, folder = %folder.display(), "folder of an ended host not removed");
            }
        }
        for ending in ["log", "json"] {
            let _ = std::fs::remove_file(config.data.join(format!("{}.{ending}", host.name())));
        }
        // Last: from then on its number, and so its folders, may be another group's.
        self.strike(&host);
    }

    /// Starts a host again whose process has ended, unless nobody needs it any more.
    pub async fn revive(&self, host: &Arc<Host>) -> Result<(), PlaceError> {
        let mut state = host.state.lock().await;
        if state.running.is_none() || self.inner.closed.is_cancelled() {
            return Ok(());
        }
        self.launch(host, &mut state).await.map(drop)
    }

    /// The hosts of all groups, the shared one first. One whose Pods have all ended does not answer.
    pub fn all(&self) -> Vec<Arc<Host>> {
        let (groups, older) = (self.groups(), self.older());
        let shared = std::iter::once(&self.inner.shared);
        shared.chain(groups.values()).chain(older.iter()).cloned().collect()
    }

    /// Waits until some host lacks the node's routes.
    pub async fn routes_wanted(&self) {
        self.inner.stale.notified().await;
    }

    /// A host came back, and knows no routes.
    pub fn want_routes(&self) {
        self.inner.stale.notify_one();
    }

    /// Gives every host the node's routes.
    pub async fn put_routes(&self, routes: &Routes) {
        put_routes(&self.inner.shared, routes).await;
        let others = for_groups(routes);
        for host in self.all().iter().filter(|host| !host.is_shared()) {
            put_routes(host, &others).await;
        }
    }

    /// Ends all hosts and what they run; none is started any more.
    pub async fn end(&self) {
        self.inner.closed.cancel();
        for host in self.all() {
            let mut state = host.state.lock().await;
            self.end_host(&host, &mut state).await;
        }
        self.end_zygote().await;
        if let Some(cgroups) = &self.inner.cgroups
            && let Err(error) = cgroups.remove_all()
        {
            tracing::warn!(%error, "the cluster's cgroups were not removed");
        }
        // Where sockets' paths had to be short, they have a folder elsewhere.
        if self.inner.config.sockets != self.inner.config.data {
            let _ = std::fs::remove_dir(&self.inner.config.sockets);
        }
    }

    /// Where a process enters the group of who serves Ingresses; nowhere, if there can be none.
    pub(crate) fn doors_of_ingress(&self) -> Vec<std::fs::File> {
        let Some(cgroups) = &self.inner.cgroups else { return Vec::new() };
        let (cpu, memory) = self.inner.allocatable;
        let cpu = u32::try_from(cpu).unwrap_or(u32::MAX);
        let opened = cgroups.ensure(INGRESS).and_then(|mut group| {
            group.limit(Limits { memory, cpu, tasks: TASKS })?;
            group.doors()
        });
        opened.unwrap_or_else(|error| {
            tracing::warn!(%error, "the proxy of Ingresses has no cgroup");
            Vec::new()
        })
    }

    /// The host of a group, which may have to be started.
    fn group(
        &self,
        group: &Group,
        host_paths: &[PathBuf],
        containers: bool,
    ) -> Result<Arc<Host>, PlaceError> {
        if self.inner.closed.is_cancelled() {
            return Err(PlaceError::Closed);
        }
        let mut groups = self.groups();
        if let Some(host) = groups.get(group) {
            return Ok(host.clone());
        }
        let older = self.older();
        let taken: HashSet<u16> = groups.values().chain(&*older).map(|host| host.number).collect();
        drop(older);
        let number = (1..PROXY).find(|number| !taken.contains(number));
        let number = number.ok_or(PlaceError::TooMany(taken.len()))?;
        let (group, host_paths) = (group.clone(), host_paths.to_vec());
        let record = Record { group: group.clone(), number, host_paths, containers };
        let path = self.inner.config.data.join(format!("{number:03x}.json"));
        let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|bytes| {
            let mut options = std::fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, &bytes)
        });
        written.map_err(|source| PlaceError::Folders { group: group.clone(), source })?;
        let host = Arc::new(Host::new(&self.inner.config, record));
        groups.insert(group, host.clone());
        Ok(host)
    }

    fn records(&self) -> Vec<Record> {
        let files = std::fs::read_dir(&self.inner.config.data).into_iter().flatten().flatten();
        let paths = files.map(|file| file.path());
        let records = paths.filter(|path| path.extension().is_some_and(|e| e == "json"));
        records
            .filter_map(|path| {
                let read =
                    std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
                read.inspect_err(|error| {
                    tracing::warn!(%error, file = %path.display(), "not a host's record");
                })
                .ok()
            })
            .collect()
    }

    /// Sees that a host runs, with everything it needs; true if it ran before.
    async fn start(&self, host: &Arc<Host>, state: &mut State) -> Result<bool, PlaceError> {
        if state.running.is_some() {
            return Ok(true);
        }
        // Somebody may have waited for the lock while all hosts were ended.
        if self.inner.closed.is_cancelled() {
            return Err(PlaceError::Closed);
        }
        let (info, adopted) = self.launch(host, state).await?;
        let other = (!host.is_shared()).then(|| host.clone());
        let ended = CancellationToken::new();
        state.running = Some(ended.clone());
        let (host, client) = (host.clone(), host.client.clone());
        let started = Started { host, client, is_shim: false, instance: info.instance, ended };
        // Nobody follows when the agent ends.
        let _ = self.inner.started.send(started);
        if let Some(host) = other {
            put_routes(&host, &for_groups(&services::table(&self.inner.network))).await;
        }
        Ok(adopted)
    }

    async fn launch(&self, host: &Host, state: &mut State) -> Result<(Info, bool), PlaceError> {
        let failed = |source| PlaceError::Folders { group: host.group.clone(), source };
        let config = &self.inner.config;
        host.make_folders(config).map_err(failed)?;
        let netns = self.netns(host).await?;
        if let (Some(cgroups), None) = (&self.inner.cgroups, &state.cgroup) {
            match cgroups.ensure(&host.name()) {
                Ok(cgroup) => state.cgroup = Some(cgroup),
                Err(error) => tracing::warn!(%error, group = %host.group, "the host has no cgroup"),
            }
        }
        self.limit(host, state);
        let doors = state.cgroup.as_ref().and_then(|c| c.doors().ok()).unwrap_or_default();
        let (info, adopted) =
            host::ensure(&host.client, &host.command(config, netns), doors).await?;
        host.outdated.store(adopted && host::is_other_program(info.pid).await, Relaxed);
        Ok((info, adopted))
    }

    /// Sizes a host's cgroup by its Pods. The shared one may use what the node has.
    fn limit(&self, host: &Host, state: &mut State) {
        let (cpu, memory) = self.inner.allocatable;
        let limits = if host.group == Group::Shared {
            Limits { memory, cpu: u32::try_from(cpu).unwrap_or(u32::MAX), tasks: TASKS }
        } else {
            let all: Option<u64> = state.tenants.values().map(|t| t.memory).sum();
            let sum = all.map_or(memory, |sum| sum.saturating_add(OVERHEAD).min(memory));
            let cpu = state.tenants.values().fold(0u32, |sum, t| sum.saturating_add(t.cpu));
            Limits { memory: sum, cpu, tasks: TASKS }
        };
        if let Some(cgroup) = &mut state.cgroup
            && let Err(error) = cgroup.limit(limits)
        {
            tracing::warn!(%error, group = %host.group, "the host's cgroup does not bound it");
        }
    }

    async fn netns(&self, host: &Host) -> Result<Option<PathBuf>, PlaceError> {
        if host.is_shared() {
            return Ok(self.inner.network.pod_netns().map(Into::into));
        }
        if let Some(shim) = &host.shim {
            return self.attach(host, shim).await;
        }
        let made = self.inner.network.ensure_group(host.number).await;
        made.map_err(|source| PlaceError::Network { group: host.group.clone(), source })
    }

    async fn join(&self, host: &Host, address: Ipv4Addr) -> Result<(), PlaceError> {
        let joined = self.inner.network.join_group(host.number, address).await;
        joined.map_err(|source| PlaceError::Network { group: host.group.clone(), source })
    }

    /// Ends a host and takes away what it had, also where starting or ending it was broken off before.
    async fn end_host(&self, host: &Host, state: &mut State) {
        if let Some(running) = state.running.take() {
            running.cancel();
        }
        // Most Pods with containers have no such process.
        if host.shim.is_none() || host.client.socket().exists() {
            host::end(&host.client).await;
        }
        if let Some(shim) = &host.shim {
            self.end_containers(shim).await;
        } else if !host.is_shared()
            && let Err(error) = self.inner.network.remove_group(host.number).await
        {
            tracing::warn!(%error, group = %host.group, "the group's network was not removed");
        }
        state.cgroup = None;
        if let Some(cgroups) = &self.inner.cgroups
            && let Err(error) = cgroups.remove(&host.name())
        {
            tracing::warn!(%error, group = %host.group, "the host's cgroup was not removed");
        }
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<Group, Arc<Host>>> {
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pods_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<Host>>> {
        self.inner.pods.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Services are served for others by the shared host; other hosts only call them.
fn for_groups(routes: &Routes) -> Routes {
    Routes { listen: Vec::new(), ..routes.clone() }
}

async fn put_routes(host: &Host, routes: &Routes) {
    match host.client.put_routes(routes).await {
        Ok(status) => {
            for failed in status.failed {
                tracing::warn!(address = %failed.address, "Service is not served there: {}", failed.message);
            }
        }
        // A host that comes back is handed the table again.
        Err(error) => tracing::debug!(%error, "a host's routes are not up to date"),
    }
}
