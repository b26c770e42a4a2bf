//! Volumes as folders on this machine, mounted into a container's view as preopened directories.
//!
//! ```text
//! DIR/UID/NAME/           a volume: made when the first container that mounts it starts
//! DIR/UID/.mounts/C/N/    what container C sees of a single file or a subPath, made at each of its starts
//! ```
//!
//! [`Volumes::set_up`] makes what a starting container needs; [`SetUp::mounts`] says where it sees it. What volumes
//! show of objects and of the Pod is kept up to date by one task for all Pods ([`update`]). A Pod without such volumes
//! costs nothing here. What a component cannot see, since it imports no files, is not made for it if nobody asked
//! for it by name: the ServiceAccount's token, which every Pod is given.

mod atomic;
mod claims;
mod empty_dir;
mod error;
mod host_path;
mod mounts;
mod owner;
mod payload;
mod tokens;
mod update;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use tokio::sync::{Notify, Semaphore};

use self::claims::Resolved;
pub use self::error::{MountError, SetUpError};
pub use self::host_path::{HostPaths, host_paths};
use self::mounts::Folder;
pub use self::mounts::SetUp;
pub use self::owner::Owner;
use self::payload::Inputs;
pub use self::update::Hooks;
use crate::events::Recorder;
use crate::hosts::Hosts;
use crate::node::allocatable_storage;
use crate::objects::{Objects, References};
use crate::pod::env::NodeFacts;
use crate::pod::kept::Kept;

/// How admission calls the volume of the ServiceAccount's token.
const TOKEN_VOLUME: &str = "kube-api-access-";
/// Pods whose volumes are written at once.
const WRITERS: usize = 8;

/// What volumes are made with.
pub struct Settings {
    /// The agent's folder, in which all volumes lie.
    pub data: PathBuf,
    /// Paths of the machine that Pods may mount.
    pub host_paths: HostPaths,
    /// Allocatable CPU in millicores and memory in bytes.
    pub allocatable: (u64, u64),
}

/// Volumes of this node's Pods; cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    objects: Objects,
    recorder: Recorder,
    hosts: Hosts,
    settings: Settings,
    table: Mutex<Table>,
    /// Something is due earlier than was thought.
    wake: Notify,
    writers: Semaphore,
}

#[derive(Default)]
struct Table {
    /// Pods whose volumes have to be looked after while they run.
    pods: HashMap<Arc<str>, Arc<Mounted>>,
    /// When which Pod's tokens are to be replaced.
    tokens: BinaryHeap<Reverse<(Timestamp, Arc<str>)>>,
    /// Pods whose metadata changed.
    stale: BTreeSet<Arc<str>>,
    /// Where the claims of Pods lie that have some.
    claims: HashMap<String, claims::Known>,
}

/// A Pod whose volumes are looked after.
struct Mounted {
    owner: Mutex<Owner>,
    /// Has limits on local storage.
    limited: bool,
    pod: Mutex<Kept<Pod>>,
    /// When its tokens are to be replaced.
    token_due: Mutex<Option<Timestamp>>,
    /// Names of volumes made of objects that were set up. Held while they are written.
    filled: tokio::sync::Mutex<BTreeSet<String>>,
}

/// ConfigMaps and Secrets are fetched by the volumes themselves; what an environment needs is asked for apart.
impl Volumes {
    /// None yet.
    pub fn new(
        client: kube::Client,
        objects: Objects,
        recorder: Recorder,
        hosts: Hosts,
        settings: Settings,
    ) -> Self {
        let inner = Inner {
            client,
            objects,
            recorder,
            hosts,
            settings,
            table: Mutex::default(),
            wake: Notify::new(),
            writers: Semaphore::new(WRITERS),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The folder of a Pod's volumes.
    pub fn dir(&self, uid: &str) -> PathBuf {
        self.inner.hosts.folders(uid).pod_volumes(uid)
    }

    /// The agent's folder.
    pub fn data(&self) -> &Path {
        &self.inner.settings.data
    }

    /// Bytes of the disk on which volumes lie.
    pub fn disk(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.inner.settings.data);
        found.map_or(0, |s| s.blocks() * s.fragment_size())
    }

    /// What of it Pods may ask for together.
    pub fn storage(&self) -> u64 {
        allocatable_storage(self.disk())
    }

    /// Makes the volumes that the container mounts. `uses_files` is false for a component that imports no files.
    pub(crate) async fn set_up(
        &self,
        uid: &str,
        kept: &Kept<Pod>,
        container: &Container,
        owner: Owner,
        uses_files: bool,
    ) -> Result<SetUp, MountError> {
        let pod = &kept.open();
        let wanted: Vec<&Volume> =
            mounted(pod, container).filter(|v| uses_files || !is_token(v)).collect();
        let limited = update::is_limited(pod);
        let folders = SetUp::new(self.dir(uid), &container.name, owner, uses_files);
        if wanted.is_empty() && !limited {
            return Ok(folders);
        }
        let names: BTreeSet<String> =
            wanted.iter().filter(|v| is_filled(v)).map(|v| v.name.clone()).collect();
        if limited || !names.is_empty() {
            let mounted = self.look_after(uid, kept, owner, limited);
            let mut filled = mounted.filled.lock().await;
            self.fill(uid, pod, owner, &names).await?;
            filled.extend(names);
        }
        let wanted = wanted_names(&wanted);
        let resolved = self.look_up(uid, pod, |volume| wanted.contains(&volume.name)).await?;
        let volumes = self.clone();
        self.blocking(move || volumes.make(&resolved, &wanted, folders)).await
    }

    /// The Pod with folders of this machine in the place of its claims, for who has to know of these before.
    pub(crate) async fn resolve(&self, uid: &str, pod: &Arc<Pod>) -> Result<Arc<Pod>, MountError> {
        Ok(self.look_up(uid, pod, |_| true).await?.pod)
    }

    async fn look_up(
        &self,
        uid: &str,
        pod: &Arc<Pod>,
        wanted: impl Fn(&Volume) -> bool,
    ) -> Result<Resolved, MountError> {
        let mut known = self.table().claims.get(uid).cloned().unwrap_or_default();
        let before = known.len();
        let resolved = claims::resolve(&self.inner.client, pod, wanted, &mut known).await;
        if known.len() > before {
            self.table().claims.insert(uid.to_owned(), known);
        }
        resolved
    }

    /// Mounts what is in memory, before the sandbox of a Pod with containers is made: what is mounted later would not reach its
    /// shim, which has mounts of its own, on machines where mounts are not shared.
    pub async fn mount_memory(
        &self,
        uid: &str,
        pod: &Arc<Pod>,
        owner: Owner,
    ) -> Result<(), MountError> {
        let in_memory = |v: &&Volume| v.empty_dir.as_ref().is_some_and(empty_dir::in_memory);
        let names: BTreeSet<String> = all(pod).filter(in_memory).map(|v| v.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let folders = SetUp::new(self.dir(uid), "", owner, true);
        let volumes = self.clone();
        let resolved = Resolved { pod: pod.clone(), read_only: BTreeSet::new() };
        self.blocking(move || volumes.make(&resolved, &names, folders)).await.map(drop)
    }

    /// What needs no object: folders of this machine.
    fn make(
        &self,
        Resolved { pod, read_only }: &Resolved,
        wanted: &BTreeSet<String>,
        mut folders: SetUp,
    ) -> Result<SetUp, MountError> {
        let settings = &self.inner.settings;
        let owner = folders.owner;
        atomic::folder(&folders.dir, owner)
            .map_err(|e| error::disk(&folders.dir)(e).of(".mounts"))?;
        for volume in all(pod).filter(|v| wanted.contains(&v.name)) {
            let path = folders.dir.join(&volume.name);
            let folder = if let Some(source) = &volume.empty_dir {
                empty_dir::set_up(source, pod, &path, owner, settings.allocatable.1)
                    .map(|()| Folder { path, read_only: false, frozen: false })
            } else if let Some(source) = &volume.host_path {
                host_path::set_up(source, &settings.host_paths).map(|path| Folder {
                    path,
                    read_only: read_only.contains(&volume.name),
                    frozen: false,
                })
            } else if is_filled(volume) {
                Ok(Folder { path, read_only: true, frozen: true })
            } else {
                Err(SetUpError::Unsupported(unsupported(volume)))
            };
            let folder = folder.map_err(|e| e.of(&volume.name))?;
            folders.by_name.insert(volume.name.clone(), folder);
        }
        Ok(folders)
    }

    /// Writes the volumes called `names`, which are made of objects; the caller holds the Pod's lock.
    async fn fill(
        &self,
        uid: &str,
        pod: &Arc<Pod>,
        owner: Owner,
        names: &BTreeSet<String>,
    ) -> Result<bool, MountError> {
        let inner = &self.inner;
        let wanted = || all(pod).filter(|v| names.contains(&v.name));
        let mut references = References::default();
        wanted().for_each(|v| references.extend(payload::references(v)));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let sources = inner.objects.sources(uid, namespace, &references).await;
        let first = || wanted().next().map(|v| v.name.clone()).unwrap_or_default();
        let sources = sources.map_err(|why| SetUpError::Sync(why).of(&first()))?;
        let tokens = self.tokens(uid, pod, wanted()).await?;
        let (volumes, pod, names) = (self.clone(), pod.clone(), names.clone());
        let dir = self.dir(uid);
        self.blocking(move || {
            let facts = volumes.facts();
            let token = |volume: &Volume, wanted: &_| tokens.get(volume, wanted);
            let inputs = Inputs { pod: &pod, sources: &sources, facts: &facts, tokens: &token };
            let mut changed = false;
            for volume in all(&pod).filter(|v| names.contains(&v.name)) {
                let write = || {
                    let Some(payload) = payload::payload(volume, &inputs)? else {
                        return Ok(false);
                    };
                    atomic::folder(&dir, owner).map_err(error::disk(&dir))?;
                    let path = dir.join(&volume.name);
                    atomic::write(&path, &payload, owner).map_err(error::disk(&path))
                };
                changed |= write().map_err(|e: SetUpError| e.of(&volume.name))?;
            }
            Ok(changed)
        })
        .await
    }

    /// Touches the disk, where nothing else waits for it.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.inner.writers.acquire().await;
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn facts(&self) -> NodeFacts {
        let (cpu_millis, memory_bytes) = self.inner.settings.allocatable;
        let storage_bytes = self.storage();
        NodeFacts { cpu_millis, memory_bytes, storage_bytes, ..NodeFacts::default() }
    }

    fn look_after(&self, uid: &str, pod: &Kept<Pod>, owner: Owner, limited: bool) -> Arc<Mounted> {
        let mut table = self.table();
        if let Some(known) = table.pods.get(uid) {
            // The first of its Wasm containers may be started after others.
            *known.owner.lock().unwrap_or_else(|e| e.into_inner()) = owner;
            return known.clone();
        }
        let mounted = Arc::new(Mounted {
            owner: Mutex::new(owner),
            limited,
            pod: Mutex::new(pod.clone()),
            token_due: Mutex::default(),
            filled: tokio::sync::Mutex::default(),
        });
        table.pods.insert(uid.into(), mounted.clone());
        mounted
    }

    /// The Pod as the API has it now.
    pub(crate) fn pod_changed(&self, uid: &str, kept: &Kept<Pod>) {
        let mut table = self.table();
        let Some((uid, mounted)) = table.pods.get_key_value(uid) else { return };
        let mut known = mounted.pod.lock().unwrap_or_else(|e| e.into_inner());
        let (old, pod) = (std::mem::replace(&mut *known, kept.clone()).peek(), kept.open());
        drop(known);
        let changed = old.metadata.labels != pod.metadata.labels
            || old.metadata.annotations != pod.metadata.annotations;
        if changed && all(&pod).any(payload::follows_metadata) {
            let uid = uid.clone();
            table.stale.insert(uid);
            self.inner.wake.notify_one();
        }
    }

    /// A Pod that ran before this agent did: looks after what was set up for it.
    pub(crate) async fn adopt(&self, uid: &str, kept: &Kept<Pod>, owner: Owner) {
        let pod = &kept.open();
        let dir = self.dir(uid);
        let there = |v: &&Volume| is_filled(v) && atomic::exists(&dir.join(&v.name));
        let names: BTreeSet<String> = all(pod).filter(there).map(|v| v.name.clone()).collect();
        let limited = update::is_limited(pod);
        if names.is_empty() && !limited {
            return;
        }
        let mounted = self.look_after(uid, kept, owner, limited);
        let mut filled = mounted.filled.lock().await;
        if let Err(error) = self.fill(uid, pod, owner, &names).await {
            tracing::debug!(%error, pod = uid, "volumes are not up to date yet");
        }
        filled.extend(names);
    }

    /// The Pod is over: its volumes go.
    pub async fn forget(&self, uid: &str) {
        {
            let mut table = self.table();
            table.pods.remove(uid);
            table.claims.remove(uid);
        }
        self.inner.objects.forget(uid);
        let dir = self.dir(uid);
        self.blocking(move || remove(&dir)).await;
    }

    /// Takes volumes in memory away when all workloads have ended.
    pub fn unmount_all(&self) {
        empty_dir::unmount_all(&self.inner.settings.data);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Takes volumes in memory below a folder away, which is to be removed.
pub fn unmount_below(dir: &Path) {
    empty_dir::unmount_all(dir);
}

fn remove(dir: &Path) {
    if !dir.exists() {
        return;
    }
    empty_dir::unmount_all(dir);
    if let Err(error) = empty_dir::remove(dir) {
        tracing::warn!(%error, folder = %dir.display(), "volumes of an ended Pod not removed");
    }
}

fn all(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

fn mounted<'a>(pod: &'a Pod, container: &'a Container) -> impl Iterator<Item = &'a Volume> {
    let mounts = || container.volume_mounts.iter().flatten();
    all(pod).filter(move |v| mounts().any(|m| m.name == v.name))
}

fn wanted_names(volumes: &[&Volume]) -> BTreeSet<String> {
    volumes.iter().map(|v| v.name.clone()).collect()
}

/// Made of objects or of the Pod itself.
fn is_filled(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The token that admission added.
fn is_token(volume: &Volume) -> bool {
    volume.name.starts_with(TOKEN_VOLUME) && volume.projected.is_some()
}

fn unsupported(volume: &Volume) -> &'static str {
    let kinds = [
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("csi", volume.csi.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("image", volume.image.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("fc", volume.fc.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
    ];
    let kind = kinds.into_iter().find(|(_, is)| *is);
    kind.map_or("such", |(kind, _)| kind)
}

#[cfg(test)]
mod tests;
