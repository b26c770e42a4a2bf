//! Pods with containers: a namespace of their own, and a shim that holds them, made by the node's zygote when the first is
//! needed.
//!
//! Such a Pod is an isolation group of its own, so that its files, its number and its Wasm containers' process are kept as
//! those of other groups are. That process starts with the Pod's first Wasm container, in the same namespace; a Pod without
//! has none. The shim is found again through the zygote, a new one if need be: shims outlive it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_network::Mode;
use coracle_network::linux::Make;
use coracle_sandbox::{
    Client, ClientError, ProblemCode, Resources, SandboxSpec, SandboxStatus, UserMapping,
};
use nix::sched::CloneFlags;
use tokio_util::sync::CancellationToken;

use super::member::{State, Tenant};
use super::{Host, Hosts, Place, PlaceError, Record, Started, users};
use crate::host::{self, HostCommand};
use crate::isolation::Group;

/// Name of the zygote's socket, folder, log and cgroup.
pub(super) const ZYGOTE: &str = "oci";
/// What the cgroups of Pods are called before their UIDs.
const POD: &str = "pod-";
/// How long processes that are killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// How soon a shim is asked again whether it is there.
const AGAIN: Duration = Duration::from_millis(20);

/// What runs a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// A Wasm host.
    Wasm,
    /// A Pod's shim.
    Oci,
}

/// A Pod's shim, as far as it is known.
pub(super) struct Shim {
    uid: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    client: Option<Client>,
    /// Cancelled when nobody is to follow it any more.
    followed: CancellationToken,
    address: Option<Ipv4Addr>,
    /// Its users, if it has some of its own.
    users: Option<UserMapping>,
    /// Containers that run in it; others are the Wasm host's.
    containers: HashSet<String>,
}

impl Shim {
    pub(super) fn new(uid: String) -> Self {
        Self { uid, known: Mutex::default() }
    }

    pub(super) fn uid(&self) -> &str {
        &self.uid
    }

    pub(super) fn client(&self) -> Option<Client> {
        self.known().client.clone()
    }

    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        self.known().address
    }

    fn users(&self) -> Option<UserMapping> {
        self.known().users
    }

    pub(super) fn cgroup_name(&self) -> String {
        format!("{POD}{}", self.uid)
    }

    /// Forgets the process: it is gone, or about to go.
    fn take(&self) -> Option<Client> {
        let mut known = self.known();
        known.followed.cancel();
        known.containers.clear();
        known.client.take()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a cgroup of that name is a Pod's.
pub(super) fn is_pod(name: &str) -> bool {
    name.starts_with(POD)
}

impl Hosts {
    /// Whether this node can run containers at all.
    pub fn runs_containers(&self) -> bool {
        self.inner.config.containers
            && self.inner.network.mode() == Mode::Root
            && self.inner.config.users.is_some()
            && self.inner.cgroups.is_some()
    }

    /// Whether a Pod was put where it can have containers.
    pub fn has_containers(&self, uid: &str) -> bool {
        self.host(uid).shim.is_some()
    }

    /// UIDs of the Pods with containers that have a shim.
    pub fn pods_with_containers(&self) -> Vec<String> {
        let groups = self.groups();
        let shims = groups.values().filter_map(|host| host.shim.as_ref());
        shims.filter(|shim| shim.known().client.is_some()).map(|s| s.uid.clone()).collect()
    }

    /// A Pod's cgroup, below the root of every hierarchy.
    pub fn pod_cgroup(&self, uid: &str) -> PathBuf {
        Path::new("/coracle").join(&self.inner.config.cluster).join(format!("{POD}{uid}"))
    }

    /// What runs that container of the Pod, as far as it was started; its Wasm host otherwise.
    pub fn of(&self, uid: &str, container: &str) -> Client {
        let host = self.host(uid);
        let shim = host.shim.as_ref().and_then(|shim| {
            let known = shim.known();
            known.client.clone().filter(|_| known.containers.contains(container))
        });
        shim.unwrap_or_else(|| host.client.clone())
    }

    /// The Pod's shim; none where it has no containers.
    pub fn shim(&self, uid: &str) -> Option<Client> {
        self.host(uid).shim.as_ref().and_then(Shim::client)
    }

    /// The host that the Pod's Wasm containers run in.
    pub fn wasm(&self, uid: &str) -> Client {
        self.host(uid).client.clone()
    }

    /// Notes what is to run a container.
    pub fn runs(&self, uid: &str, container: &str, runtime: Runtime) {
        if let Some(shim) = &self.host(uid).shim {
            let mut known = shim.known();
            match runtime {
                Runtime::Wasm => known.containers.remove(container),
                Runtime::Oci => known.containers.insert(container.to_owned()),
            };
        }
    }

    /// Whether that container was started in the Pod's shim.
    pub fn is_in_shim(&self, uid: &str, container: &str) -> bool {
        let host = self.host(uid);
        host.shim.as_ref().is_some_and(|shim| shim.known().containers.contains(container))
    }

    /// Whether a Pod with containers has Wasm containers, too.
    pub fn is_mixed(&self, uid: &str) -> bool {
        let host = self.host(uid);
        host.shim.is_some() && host.client.socket().exists()
    }

    /// Gives a Pod as a whole other limits, wherever it runs.
    ///
    /// # Errors
    /// What its host or its shim says to that.
    pub async fn resize(&self, uid: &str, resources: &Resources) -> Result<(), ClientError> {
        let host = self.host(uid);
        if !host.is_shared() {
            let mut state = host.state.lock().await;
            if let Some(tenant) = state.tenants.get_mut(uid) {
                tenant.memory = resources.memory_limit;
                tenant.cpu = resources.cpu_weight;
            }
            self.limit(&host, &mut state);
        }
        let shim = self.shim(uid);
        if let Some(shim) = &shim {
            shim.update_sandbox(uid, resources).await?;
        }
        if shim.is_some() && !self.is_mixed(uid) {
            return Ok(());
        }
        match host.client.update_sandbox(uid, resources).await {
            // Of a Pod with containers it need not know anything yet.
            Err(ClientError::Problem(p)) if shim.is_some() && p.code == ProblemCode::NotFound => {
                Ok(())
            }
            done => done,
        }
    }

    /// Everything that runs containers now: Wasm hosts that are there, and shims.
    pub fn clients(&self) -> Vec<Client> {
        let shims = |host: &Arc<Host>| host.shim.as_ref().and_then(Shim::client);
        let hosts = self.all();
        let own = |host: &Arc<Host>| host.client.socket().exists().then(|| host.client.clone());
        hosts.iter().filter_map(own).chain(hosts.iter().filter_map(shims)).collect()
    }

    /// Gives a Pod with containers its namespace, and users of its own if it is to have some; its sandbox is then asked of the
    /// zygote, which is what the place leads to.
    pub async fn place_containers(
        &self,
        host_paths: Vec<PathBuf>,
        spec: &SandboxSpec,
        own_users: bool,
    ) -> Result<Place, PlaceError> {
        if !self.runs_containers() {
            return Err(PlaceError::NoContainers);
        }
        let uid = spec.id.as_str();
        let group = Group::Pod(uid.to_owned());
        let mut own = Some(self.host(uid)).filter(|host| host.shim.is_some());
        let (host, mut state) = loop {
            let host = own.take().map_or_else(|| self.group(&group, &host_paths, true), Ok)?;
            let state = host.state.clone().lock_owned().await;
            if !state.retired {
                break (host, state);
            }
        };
        state.known.insert(uid.to_owned());
        let first = self.inner.config.users.filter(|_| own_users);
        let users = first.map(|first| users::of_group(first, host.number));
        self.take_tenant(&host, &mut state, spec, users);
        self.pods_mut().insert(uid.to_owned(), host.clone());
        let failed = |source| PlaceError::Folders { group: group.clone(), source };
        let placed = async {
            host.make_folders(&self.inner.config).map_err(failed)?;
            let netns = self.netns(&host).await?;
            Ok((self.zygote().await?, netns))
        };
        match placed.await {
            Ok((client, netns)) => {
                Ok(Place { client, netns, folders: host.folders.clone(), users })
            }
            Err(error) => {
                drop(state);
                self.leave(uid).await;
                Err(error)
            }
        }
    }

    fn take_tenant(
        &self,
        host: &Host,
        state: &mut State,
        spec: &SandboxSpec,
        users: Option<UserMapping>,
    ) {
        let tenant = Tenant::of(spec);
        if let Some(shim) = &host.shim {
            let mut known = shim.known();
            (known.address, known.users) = (tenant.address, users);
        }
        state.tenants.insert(spec.id.clone(), tenant);
    }

    /// The Pod has a shim, which is followed from now on.
    pub async fn made(&self, status: &SandboxStatus) {
        let host = self.host(&status.spec.id);
        self.follow(&host, status).await;
    }

    async fn follow(&self, host: &Arc<Host>, status: &SandboxStatus) {
        let (Some(shim), Some(socket)) = (&host.shim, &status.socket) else { return };
        let client = Client::new(socket);
        let Ok(info) = client.info().await else { return };
        let ended = CancellationToken::new();
        {
            let mut known = shim.known();
            known.followed.cancel();
            known.followed = ended.clone();
            known.client = Some(client.clone());
            known.containers = status.containers.iter().map(|c| c.name.clone()).collect();
        }
        let (host, instance) = (host.clone(), info.instance);
        // Nobody follows when the agent ends.
        let _ = self.inner.started.send(Started { host, client, is_shim: true, instance, ended });
    }

    /// The process of a Pod's Wasm containers, in the Pod's namespace, with a sandbox as the shim has it.
    pub async fn wasm_beside(&self, uid: &str) -> Result<Client, PlaceError> {
        let host = self.host(uid);
        if host.shim.is_some() {
            let mut state = host.state.lock().await;
            self.start(&host, &mut state).await?;
            self.limit(&host, &mut state);
        }
        Ok(host.client.clone())
    }

    /// Whether a shim that broke off is gone. What it left is ended then, and its Pod's Wasm containers with it: their Pod
    /// is to be made anew.
    pub async fn is_gone(&self, host: &Arc<Host>) -> bool {
        let Some(shim) = &host.shim else { return false };
        loop {
            let Some(client) = shim.client() else { return true };
            match client.info().await {
                Err(ClientError::Unreachable { .. }) => break,
                // One that is being killed may still be called, and break off; it is asked until it does neither.
                Err(ClientError::Interrupted { .. }) => tokio::time::sleep(AGAIN).await,
                Ok(_) | Err(ClientError::Problem(_)) => return false,
            }
        }
        shim.take();
        self.destroy(shim.cgroup_name()).await;
        let _ = host.client.delete_sandbox(&shim.uid).await;
        true
    }

    /// Removes a Pod's sandbox from whatever runs its containers; an error where that may be tried again.
    pub async fn delete_sandbox(&self, uid: &str) -> Result<(), ClientError> {
        let host = self.host(uid);
        if let Some(shim) = &host.shim
            && let Some(client) = shim.client()
        {
            // Its end is no surprise.
            shim.known().followed.cancel();
            gone(client.delete_sandbox(uid).await)?;
            shim.take();
        }
        gone(host.client.delete_sandbox(uid).await)
    }

    /// The namespace of a Pod with containers.
    pub(super) async fn attach(
        &self,
        host: &Host,
        shim: &Shim,
    ) -> Result<Option<PathBuf>, PlaceError> {
        let Some(address) = shim.address() else { return Ok(None) };
        let make = shim.users().map(|users| -> Make { Box::new(move || network_of(users)) });
        let made = self.inner.network.attach_pod(&shim.uid, address, make).await;
        made.map_err(|source| PlaceError::Network { group: host.group.clone(), source })
    }

    /// What a Pod with containers runs that an earlier agent started. One whose shim is gone is to be made anew.
    pub(super) async fn find_containers(
        &self,
        host: &Arc<Host>,
        shims: Option<SandboxStatus>,
    ) -> Result<Vec<SandboxStatus>, PlaceError> {
        let Some(shim) = &host.shim else { return Ok(Vec::new()) };
        let mut state = host.state.lock().await;
        state.known.extend(host.folders.pods());
        state.known.insert(shim.uid.clone());
        self.pods_mut().insert(shim.uid.clone(), host.clone());
        let Some(mut found) = shims else {
            self.end_host(host, &mut state).await;
            return Ok(Vec::new());
        };
        let users = found.spec.oci.as_ref().and_then(|oci| oci.users);
        self.take_tenant(host, &mut state, &found.spec, users);
        self.attach(host, shim).await?;
        self.follow(host, &found).await;
        if host.client.info().await.is_ok() {
            self.start(host, &mut state).await?;
            for other in host.client.sandboxes().await.unwrap_or_default() {
                let news = other.containers.into_iter();
                let news = news.filter(|c| !found.containers.iter().any(|f| f.name == c.name));
                let news: Vec<_> = news.collect();
                found.containers.extend(news);
            }
        }
        Ok(vec![found])
    }

    /// Shims that an earlier agent left, by UID.
    pub(super) async fn shims(&self, records: &[Record]) -> HashMap<String, SandboxStatus> {
        if !self.runs_containers() || !records.iter().any(|record| record.pod().is_some()) {
            return HashMap::new();
        }
        let asked = async {
            let zygote = self.zygote().await.map_err(|e| e.to_string())?;
            zygote.sandboxes().await.map_err(|e| e.to_string())
        };
        match asked.await {
            Ok(found) => found.into_iter().map(|s| (s.spec.id.clone(), s)).collect(),
            Err(error) => {
                tracing::error!(error, "Pods with containers are not taken over");
                HashMap::new()
            }
        }
    }

    /// Ends a shim that is nobody's.
    pub(super) async fn end_shim(&self, status: &SandboxStatus) {
        tracing::info!(sandbox = status.spec.id, "ending a shim whose Pod nobody knows");
        if let Some(socket) = &status.socket {
            let _ = Client::new(socket).delete_sandbox(&status.spec.id).await;
        }
    }

    /// Ends a Pod's shim and takes away what it had.
    pub(super) async fn end_containers(&self, shim: &Shim) {
        if let Some(client) = shim.take()
            && let Err(error) = gone(client.delete_sandbox(&shim.uid).await)
        {
            tracing::warn!(%error, pod = shim.uid, "a shim did not end");
        }
        self.destroy(shim.cgroup_name()).await;
        if let Err(error) = self.inner.network.detach_pod(&shim.uid).await {
            tracing::warn!(%error, pod = shim.uid, "the Pod's network was not removed");
        }
    }

    /// Ends everything in a Pod's cgroup, and removes it.
    pub(super) async fn destroy(&self, name: String) {
        let Some(cgroups) = self.inner.cgroups.clone() else { return };
        let done = tokio::task::spawn_blocking(move || cgroups.destroy(&name, PATIENCE)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(%error, "a Pod's cgroup was not removed");
        }
    }

    /// Removes what shims left that are gone: sockets and folders.
    pub(super) async fn sweep_shims(&self) {
        let config = &self.inner.config;
        let pods: HashSet<String> = {
            let hosts = self.all();
            let shims = hosts.iter().filter_map(|host| host.shim.as_ref());
            shims.filter(|shim| shim.client().is_some()).map(|shim| shim.uid.clone()).collect()
        };
        for folder in entries(&config.data.join(ZYGOTE)) {
            let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !pods.contains(name) {
                let _ = std::fs::remove_dir_all(&folder);
            }
        }
        for socket in entries(&config.sockets).filter(|path| is_shims(path)) {
            if matches!(Client::new(&socket).info().await, Err(ClientError::Unreachable { .. })) {
                let _ = std::fs::remove_file(&socket);
            }
        }
    }

    /// The process that makes shims.
    async fn zygote(&self) -> Result<Client, PlaceError> {
        let config = &self.inner.config;
        let client = Client::new(self.zygote_socket());
        let mut is_ours = self.inner.zygote.lock().await;
        if self.inner.closed.is_cancelled() {
            return Err(PlaceError::Closed);
        }
        let mut args: Vec<OsString> = vec!["host".into(), "oci".into()];
        args.extend(["--socket".into(), client.socket().into()]);
        args.extend(["--data".into(), config.data.join(ZYGOTE).into()]);
        let log = config.data.join(format!("{ZYGOTE}.log"));
        let command =
            HostCommand { program: config.program.clone(), args, log, shares: Default::default() };
        let cgroup = self.inner.cgroups.as_ref().and_then(|cgroups| cgroups.ensure(ZYGOTE).ok());
        let doors = cgroup.and_then(|cgroup| cgroup.doors().ok()).unwrap_or_default();
        if !*is_ours
            && let Ok(info) = client.info().await
            && host::is_other_program(info.pid).await
        {
            // Shims of the older program stay with their Pods: a zygote finds all that there are.
            tracing::info!("replacing the zygote, which is of another program");
            host::end(&client).await;
        }
        host::ensure(&client, &command, doors).await?;
        *is_ours = true;
        Ok(client)
    }

    /// Ends it; all shims must be gone.
    pub(super) async fn end_zygote(&self) {
        let client = Client::new(self.zygote_socket());
        let _one = self.inner.zygote.lock().await;
        if client.socket().exists() {
            host::end(&client).await;
        }
    }

    fn zygote_socket(&self) -> PathBuf {
        self.inner.config.sockets.join(format!("{ZYGOTE}.sock"))
    }
}

/// A network namespace that belongs to a user namespace of its own, of these users.
fn network_of(users: UserMapping) -> io::Result<File> {
    let flags = CloneFlags::CLONE_NEWNET.bits();
    let made = coracle_sandbox::users::make(&users.of_processes(), flags, ["net"]);
    made.map(|[network]| network).map_err(|error| {
        io::Error::other(format!(
            "hostUsers: false needs a user namespace, which this node's kernel does not make (see /proc/sys/user/max_user_namespaces): {error}"
        ))
    })
}

/// What is not there need not be removed.
fn gone(result: Result<(), ClientError>) -> Result<(), ClientError> {
    match result {
        Err(ClientError::Problem(problem)) if problem.code == ProblemCode::NotFound => Ok(()),
        Err(ClientError::Unreachable { .. }) => Ok(()),
        other => other,
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries: io::Result<_> = std::fs::read_dir(folder);
    entries.into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Whether the path is as those of shims' sockets.
fn is_shims(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    path.extension().is_some_and(|e| e == "sock")
        && stem.len() == 16
        && stem.bytes().all(|b| b.is_ascii_hexdigit())
}
