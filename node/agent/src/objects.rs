//! ConfigMaps and Secrets that Pods of this node refer to: fetched once, shared, kept fresh by a watch each.
//!
//! As the kubelet does: an object is watched by name as long as a Pod here refers to it (which is all that the Node
//! authorizer lets a node see), and a little longer, so that ten thousand Pods with one ConfigMap cost one watch and
//! no reads. There is a bound on watches; what goes beyond it is read again from time to time. What is immutable is not
//! watched any more once it was seen. [`Objects::changed`] hands out what is different since, each object once,
//! however often it changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::pod::env::Sources;

/// Most objects that are watched at once.
const WATCHES: usize = 256;
/// How long an object is kept that no Pod refers to any more.
const LINGER: Duration = Duration::from_secs(30);
/// How old an object beyond the watches may be.
const STALE: Duration = Duration::from_secs(60);
/// The same while it does not exist, and somebody waits for it.
const STALE_MISSING: Duration = Duration::from_secs(5);
/// Objects beyond the watches that are read again in one [`Objects::sweep`].
const READS: usize = 64;
/// How long a starting Pod waits for the first answer.
const FIRST: Duration = Duration::from_secs(10);

/// ConfigMap or Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1 ConfigMap`.
    ConfigMap,
    /// `v1 Secret`.
    Secret,
}

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Names of the ConfigMaps and Secrets that something refers to, all of one namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

impl References {
    /// Adds those of `other`.
    pub fn extend(&mut self, other: References) {
        self.config_maps.extend(other.config_maps);
        self.secrets.extend(other.secrets);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.config_maps.is_empty() && self.secrets.is_empty()
    }
}

/// The objects; cheap to clone.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    table: Mutex<Table>,
    news: Notify,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    /// What each Pod refers to, to find its entries when it goes.
    by_pod: HashMap<Arc<str>, Vec<Key>>,
    changed: HashSet<Key>,
    watches: usize,
}

struct Entry {
    state: watch::Sender<State>,
    watched: Option<AbortHandle>,
    /// When it was read last; only where it is not watched.
    read: Option<Instant>,
    pods: HashSet<Arc<str>>,
    /// Since when no Pod refers to it.
    unused: Option<Instant>,
}

#[derive(Clone, Default)]
enum State {
    #[default]
    Unknown,
    Missing,
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    Failed(String),
}

impl State {
    fn version(&self) -> Option<&str> {
        match self {
            State::ConfigMap(map) => map.metadata.resource_version.as_deref(),
            State::Secret(secret) => secret.metadata.resource_version.as_deref(),
            _ => None,
        }
    }

    fn is_immutable(&self) -> bool {
        match self {
            State::ConfigMap(map) => map.immutable == Some(true),
            State::Secret(secret) => secret.immutable == Some(true),
            _ => false,
        }
    }

    fn is_known(&self) -> bool {
        matches!(self, State::Missing | State::ConfigMap(_) | State::Secret(_))
    }
}

impl Objects {
    /// None yet.
    pub fn new(client: kube::Client) -> Self {
        let inner = Inner { client, table: Mutex::default(), news: Notify::new() };
        Self { inner: Arc::new(inner) }
    }

    /// What exists of `wanted`, which the Pod refers to from now on (until [`Objects::forget`]).
    pub async fn sources(
        &self,
        uid: &str,
        namespace: &str,
        wanted: &References,
    ) -> Result<Sources, String> {
        let mut sources = Sources::default();
        let names = wanted.config_maps.iter().map(|name| (Kind::ConfigMap, name));
        let names = names.chain(wanted.secrets.iter().map(|name| (Kind::Secret, name)));
        for (kind, name) in names {
            let key = Key { kind, namespace: namespace.to_owned(), name: name.clone() };
            match self.get(uid, &key).await? {
                State::ConfigMap(map) => drop(sources.config_maps.insert(name.clone(), map)),
                State::Secret(secret) => drop(sources.secrets.insert(name.clone(), secret)),
                _ => {}
            }
        }
        Ok(sources)
    }

    /// The Pod is gone, and with it what it refers to.
    pub fn forget(&self, uid: &str) {
        let mut table = self.table();
        let table = &mut *table;
        for key in table.by_pod.remove(uid).into_iter().flatten() {
            if let Some(entry) = table.entries.get_mut(&key) {
                entry.pods.remove(uid);
                if entry.pods.is_empty() {
                    entry.unused = Some(Instant::now());
                }
            }
        }
    }

    /// Waits until objects changed, appeared or went, and hands them out with the Pods that refer to them.
    pub async fn changed(&self) -> Vec<(Key, Vec<Arc<str>>)> {
        loop {
            {
                let mut table = self.table();
                let table = &mut *table;
                if !table.changed.is_empty() {
                    let entries = &table.entries;
                    let pods = |key: &Key| {
                        let pods = entries.get(key).into_iter().flat_map(|e| e.pods.iter());
                        pods.cloned().collect::<Vec<_>>()
                    };
                    return table.changed.drain().map(|key| (key.clone(), pods(&key))).collect();
                }
            }
            self.inner.news.notified().await;
        }
    }

    /// To be called every few seconds: lets go of what nobody refers to, and reads anew what is not watched.
    pub async fn sweep(&self) {
        let now = Instant::now();
        let mut due = Vec::new();
        {
            let mut table = self.table();
            let table = &mut *table;
            let mut freed = 0;
            table.entries.retain(|_, entry| {
                let keep = entry.unused.is_none_or(|since| now.duration_since(since) < LINGER);
                if !keep && let Some(watch) = &entry.watched {
                    watch.abort();
                    freed += 1;
                }
                keep
            });
            table.watches -= freed;
            for (key, entry) in &mut table.entries {
                let state = entry.state.borrow();
                if entry.watched.is_some() || state.is_immutable() {
                    continue;
                }
                let stale = if state.version().is_some() { STALE } else { STALE_MISSING };
                drop(state);
                if table.watches < WATCHES {
                    table.watches += 1;
                    entry.watched = Some(self.watch(key.clone()));
                } else if entry.read.is_none_or(|at| now.duration_since(at) >= stale) {
                    due.push((entry.read, key.clone()));
                }
            }
        }
        due.sort_by_key(|(read, _)| *read);
        for (_, key) in due.into_iter().take(READS) {
            let state = self.read(&key).await;
            self.put(&key, state);
        }
    }

    async fn get(&self, uid: &str, key: &Key) -> Result<State, String> {
        let (mut state, read) = {
            let mut table = self.table();
            let table = &mut *table;
            let room = table.watches < WATCHES;
            let entry = table.entries.entry(key.clone()).or_insert_with(|| {
                table.watches += usize::from(room);
                Entry {
                    state: watch::Sender::default(),
                    watched: room.then(|| self.watch(key.clone())),
                    read: None,
                    pods: HashSet::new(),
                    unused: None,
                }
            });
            if !entry.pods.contains(uid) {
                let uid: Arc<str> = uid.into();
                entry.pods.insert(uid.clone());
                entry.unused = None;
                table.by_pod.entry(uid).or_default().push(key.clone());
            }
            let fresh = entry.read.is_some_and(|at| at.elapsed() < STALE_MISSING);
            let watched = entry.watched.is_some() || entry.state.borrow().is_immutable();
            (entry.state.subscribe(), !watched && !fresh)
        };
        if read {
            let found = self.read(key).await;
            self.put(key, found);
        }
        let first = state.wait_for(|state| !matches!(state, State::Unknown));
        let state = match tokio::time::timeout(FIRST, first).await {
            Ok(Ok(state)) => state.clone(),
            _ => State::Failed("timed out waiting for the API server".to_owned()),
        };
        match state {
            State::Failed(why) => {
                let kind = kind_name(key.kind);
                Err(format!("failed to sync {kind} cache: {kind} \"{}\": {why}", key.name))
            }
            state => Ok(state),
        }
    }

    async fn read(&self, key: &Key) -> State {
        let (client, namespace) = (self.inner.client.clone(), &key.namespace);
        let found = match key.kind {
            Kind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(client, namespace);
                api.get_opt(&key.name).await.map(|o| o.map(|o| State::ConfigMap(Arc::new(o))))
            }
            Kind::Secret => {
                let api: Api<Secret> = Api::namespaced(client, namespace);
                api.get_opt(&key.name).await.map(|o| o.map(|o| State::Secret(Arc::new(o))))
            }
        };
        match found {
            Ok(found) => found.unwrap_or(State::Missing),
            Err(error) => State::Failed(error.to_string()),
        }
    }

    fn watch(&self, key: Key) -> AbortHandle {
        let (objects, client) = (self.clone(), self.inner.client.clone());
        let task = tokio::spawn(async move {
            match key.kind {
                Kind::ConfigMap => {
                    let api = Api::namespaced(client, &key.namespace);
                    objects.follow(&key, api, |map| State::ConfigMap(Arc::new(map))).await;
                }
                Kind::Secret => {
                    let api = Api::namespaced(client, &key.namespace);
                    objects.follow(&key, api, |secret| State::Secret(Arc::new(secret))).await;
                }
            }
        });
        task.abort_handle()
    }

    /// Follows one object until it is immutable, or nobody wants it.
    async fn follow<K>(&self, key: &Key, api: Api<K>, found: impl Fn(K) -> State)
    where
        K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
        K::DynamicType: Default,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.name));
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut listed = false;
        while let Some(event) = events.next().await {
            let state = match event {
                Ok(watcher::Event::Init) => {
                    listed = false;
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed = true;
                    found(object)
                }
                Ok(watcher::Event::Apply(object)) => found(object),
                Ok(watcher::Event::InitDone) if listed => continue,
                Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => State::Missing,
                Err(error) => State::Failed(error.to_string()),
            };
            let over = state.is_immutable();
            self.put(key, state);
            if over {
                let mut table = self.table();
                if let Some(entry) = table.entries.get_mut(key)
                    && entry.watched.take().is_some()
                {
                    table.watches -= 1;
                }
                return;
            }
        }
    }

    /// Takes a state in, and tells if it is another.
    fn put(&self, key: &Key, state: State) {
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(key) else { return };
        entry.read = Some(Instant::now());
        let changed = entry.state.send_if_modified(|old| {
            // An interruption takes nothing back.
            if matches!(state, State::Failed(_)) && old.is_known() {
                return false;
            }
            let first = matches!(old, State::Unknown);
            let same = old.is_known() == state.is_known() && old.version() == state.version();
            *old = state;
            first || !same
        });
        if changed {
            table.changed.insert(key.clone());
            self.inner.news.notify_one();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ConfigMap => "configmap",
        Kind::Secret => "secret",
    }
}
