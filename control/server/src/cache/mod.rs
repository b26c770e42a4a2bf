//! The watch cache: the whole cluster in memory, kept current by one task that follows the store.
//!
//! Every read of the API and every decision of a controller is answered from here. One writer ([`follow`]) decodes each
//! change once and publishes it to the [`Cluster`], then to the [`Hub`] that wakes watchers, then as the new revision;
//! so whoever has waited for a revision sees it in the cluster and in the hub. The lock on the cluster is a plain one
//! and never held across an await. Next step of the apply trace: [`crate::driver`].

mod decode;
mod event;
mod hub;
mod initial;
mod source;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::extensions::Leftover;
use coracle_api::metrics::{OutOfStep, Report};
use coracle_api::{Change, Cluster, Kind, Object, kinds};
use coracle_store::{Range, ReadError, Store};
use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use crate::custom::Definitions;
use crate::encryption::Encryption;
use crate::keys;
pub(crate) use decode::{Decoder, Unreadable};
pub(crate) use event::{Event, Wire};
use hub::Hub;
pub(crate) use hub::Scope;
pub(crate) use initial::Initial;
use initial::Lists;
pub(crate) use source::{Source, SourceError};

/// Objects read from the store at a time while loading…
const PAGE: usize = 2000;
/// …and pages that are decoded or wait for it meanwhile.
const PAGES_AHEAD: usize = 4;
/// Changes that an in-process follower (the driver, the scheduler) may lag behind before it has to look at everything.
const FOLLOWER_BUFFER: usize = 8192;
/// Reports of nodes that it may lag behind; later ones tell the same anew.
const METRICS_BUFFER: usize = 64;
/// Pods of a node of which metrics are kept beyond those that the cache has of it, which may lag.
const METRICS_SLACK: usize = 1000;

/// A handle on the cache; clones share it.
#[derive(Clone)]
pub(crate) struct Cache {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: RwLock<Cluster>,
    decoder: Decoder,
    unreadable: Arc<Unreadable>,
    hub: Mutex<Hub>,
    changes: broadcast::Sender<Arc<Change>>,
    metrics: broadcast::Sender<Arc<BTreeSet<String>>>,
    revision: watch::Sender<u64>,
    failure: Mutex<Option<String>>,
    /// What watches begin with.
    lists: Lists,
}

/// Kind, namespace and name.
type Place<'c> = (&'static Kind, &'c str, &'c str);

/// The revision of a page, and its objects.
type Page = (u64, Vec<Arc<Object>>);

/// The revision asked for has not come within the time given.
#[derive(Debug)]
pub(crate) struct NotYet {
    /// The newest revision there is.
    pub(crate) current: u64,
}

impl Cache {
    /// Loads every object at one revision.
    pub(crate) async fn load(store: &Store, encryption: Encryption) -> Result<Self, ReadError> {
        let mut cluster = Cluster::new(Timestamp::now());
        let decoder = Decoder { definitions: Definitions::default(), encryption };
        let unreadable = Arc::new(Unreadable::default());
        // What defines kinds comes before what is of these kinds.
        let prefix = keys::of_kind(&kinds::CUSTOM_RESOURCE_DEFINITION);
        let mut pages = read_all(store, &decoder, &unreadable, prefix, None);
        let mut at = None;
        while let Some(page) = pages.recv().await {
            let (revision, objects) = page?.await.unwrap_or_else(resume);
            at = Some(revision);
            objects.iter().for_each(|object| decoder.definitions.put(object));
        }
        let mut pages = read_all(store, &decoder, &unreadable, keys::OBJECTS.into(), at);
        while let Some(page) = pages.recv().await {
            let (_, objects) = page?.await.unwrap_or_else(resume);
            for object in objects {
                cluster.put(object);
            }
        }
        let revision = at.unwrap_or_default();
        cluster.advance(revision);
        Ok(Self {
            shared: Arc::new(Shared {
                cluster: RwLock::new(cluster),
                decoder,
                unreadable,
                hub: Mutex::new(Hub::new(revision)),
                changes: broadcast::Sender::new(FOLLOWER_BUFFER),
                metrics: broadcast::Sender::new(METRICS_BUFFER),
                revision: watch::Sender::new(revision),
                failure: Mutex::new(None),
                lists: Lists::default(),
            }),
        })
    }

    /// Follows the store until it is closed.
    pub(crate) async fn follow(self, store: Store) {
        loop {
            let after = self.revision();
            let error = match store.watch(Range::prefix(keys::OBJECTS), after).await {
                Ok(watch) => self.follow_watch(watch).await,
                Err(error) => error,
            };
            match error {
                ReadError::Closed => return,
                error => {
                    tracing::error!(%error, "following the store failed; trying again");
                    *lock(&self.shared.failure) = Some(error.to_string());
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            }
        }
    }

    async fn follow_watch(&self, mut watch: coracle_store::Watch) -> ReadError {
        loop {
            match watch.next_group().await {
                Some(Ok(group)) => {
                    lock(&self.shared.failure).take();
                    self.apply(group);
                }
                Some(Err(error)) => return error,
                None => return ReadError::Closed,
            }
        }
    }

    /// Takes in changes that came together. Whoever waits for a revision is woken once for all of them.
    fn apply(&self, group: VecDeque<coracle_store::Change>) {
        let Some(newest) = group.back().map(|change| change.revision) else { return };
        let decoded: Vec<_> = group.iter().map(|change| self.decoded(change)).collect();
        let mut changes = Vec::with_capacity(decoded.len());
        {
            let mut cluster = self.shared.cluster.write().unwrap_or_else(PoisonError::into_inner);
            cluster.now = Timestamp::now();
            for (committed, decoded) in group.iter().zip(decoded) {
                changes.push((committed.revision, put(&mut cluster, committed.revision, decoded)));
            }
        }
        {
            let mut hub = lock(&self.shared.hub);
            for (revision, changes) in &changes {
                hub.publish(*revision, changes);
            }
        }
        for change in changes.into_iter().flat_map(|(_, changes)| changes) {
            // Nobody listening is fine.
            let _ = self.shared.changes.send(change);
        }
        self.shared.revision.send_replace(newest);
    }

    /// What a commit makes of which objects. Definitions count at once: what follows may be of their kinds.
    fn decoded<'c>(
        &self,
        committed: &'c coracle_store::Change,
    ) -> Vec<(Place<'c>, Option<Arc<Object>>)> {
        let read = |event: &'c coracle_store::Event| {
            let Shared { decoder, unreadable, .. } = &*self.shared;
            let definitions = &decoder.definitions;
            let place = keys::parse(definitions, &event.key)?;
            let read = |value: &Bytes| {
                unreadable.note(&event.key, decoder.decode(&event.key, value, committed.revision))
            };
            let new = event.value.as_ref().map(read);
            if new.is_none() {
                unreadable.forget(&event.key);
            }
            if place.0.resource == kinds::CUSTOM_RESOURCE_DEFINITION.resource {
                match &new {
                    Some(Some(object)) => definitions.put(object),
                    Some(None) => {}
                    None => definitions.remove(place.2),
                }
            }
            // Unreadable: already reported, and as good as absent.
            Some((place, new.flatten()))
        };
        committed.events.iter().filter_map(read).collect()
    }

    /// The cluster as it is now. The guard must not be held across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Cluster> {
        self.shared.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The custom kinds.
    pub(crate) fn definitions(&self) -> &Definitions {
        &self.shared.decoder.definitions
    }

    /// What reads the store's values.
    pub(crate) fn decoder(&self) -> &Decoder {
        &self.shared.decoder
    }

    /// How the store's values are encrypted.
    pub(crate) fn encryption(&self) -> &Encryption {
        &self.shared.decoder.encryption
    }

    /// Objects that lie in the store and cannot be read.
    pub(crate) fn unreadable(&self) -> &Unreadable {
        &self.shared.unreadable
    }

    /// Sets the time that controllers see.
    pub(crate) fn set_now(&self, now: Timestamp) {
        self.shared.cluster.write().unwrap_or_else(PoisonError::into_inner).now = now;
    }

    /// One object.
    pub(crate) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read().get(kind, namespace, name).cloned()
    }

    /// What a watch of a kind, in a namespace or everywhere, begins with.
    pub(crate) fn begin(&self, kind: &Kind, namespace: &str, objects: Vec<Arc<Object>>) -> Initial {
        self.shared.lists.begin(kind.resource, namespace, objects)
    }

    /// The newest revision that has been published.
    pub(crate) fn revision(&self) -> u64 {
        *self.shared.revision.borrow()
    }

    /// Why the cache cannot follow the store at the moment, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.shared.failure).clone()
    }

    /// Returns once `revision` has been published, or fails after `limit`.
    pub(crate) async fn wait_for(&self, revision: u64, limit: Duration) -> Result<(), NotYet> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut published = self.shared.revision.subscribe();
        let wait = published.wait_for(|now| *now >= revision);
        match tokio::time::timeout(limit, wait).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotYet { current: self.revision() }),
        }
    }

    /// Every change from now on, for parts of this process; lags with an error when not read fast enough.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.shared.changes.subscribe()
    }

    /// Takes in what a node tells of its Pods.
    pub(crate) fn tell(&self, node: &str, report: Report) -> Result<(), OutOfStep> {
        let changed = {
            let mut cluster = self.shared.cluster.write().unwrap_or_else(PoisonError::into_inner);
            let most = cluster.pods_on(node).count() + METRICS_SLACK;
            cluster.metrics.apply(node, report, most, Timestamp::now())?
        };
        if !changed.is_empty() {
            // Nobody listening is fine.
            let _ = self.shared.metrics.send(Arc::new(changed));
        }
        Ok(())
    }

    /// Takes in what is left of a namespace's content in other API servers.
    pub(crate) fn tell_extensions(&self, uid: &str, left: Leftover) {
        let mut cluster = self.shared.cluster.write().unwrap_or_else(PoisonError::into_inner);
        cluster.extensions.tell(uid, left);
    }

    /// The namespaces of Pods whose metrics change, from now on.
    pub(crate) fn metrics(&self) -> broadcast::Receiver<Arc<BTreeSet<String>>> {
        self.shared.metrics.subscribe()
    }

    /// Whether nothing of this kind changed after `revision`.
    pub(crate) fn unchanged_since(&self, kind: &Kind, revision: u64) -> bool {
        lock(&self.shared.hub).unchanged_since(kind, revision)
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        lock(&self.shared.hub)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts what a commit wrote into the cluster.
fn put(
    cluster: &mut Cluster,
    revision: u64,
    decoded: Vec<(Place<'_>, Option<Arc<Object>>)>,
) -> Vec<Arc<Change>> {
    cluster.advance(revision);
    let changes = decoded.into_iter().map(|((kind, namespace, name), new)| match new {
        Some(new) => Change { revision, old: cluster.put(new.clone()), new: Some(new) },
        None => {
            Change { revision, old: cluster.remove(kind, namespace, name, revision), new: None }
        }
    });
    changes.filter(|change| change.object().is_some()).map(Arc::new).collect()
}

/// Reads all under a prefix page by page; while one is read, those before it are decoded on other threads.
fn read_all(
    store: &Store,
    decoder: &Decoder,
    unreadable: &Arc<Unreadable>,
    prefix: String,
    mut at: Option<u64>,
) -> mpsc::Receiver<Result<JoinHandle<Page>, ReadError>> {
    let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
    let (store, decoder, unreadable) = (store.clone(), decoder.clone(), unreadable.clone());
    let mut range = Range::prefix(prefix);
    tokio::spawn(async move {
        loop {
            let read = store.range(range.clone(), at, Some(PAGE)).await;
            let (page, next) = match read {
                Ok(read) => {
                    let revision = read.revision;
                    at = Some(revision);
                    let last = read.entries.last().filter(|_| read.more);
                    let next = last.map(|last| range.after(&last.key));
                    let (decoder, unreadable) = (decoder.clone(), unreadable.clone());
                    let decode = move || {
                        let entries = read.entries.iter();
                        let objects = entries.filter_map(|entry| {
                            let read = decoder.decode(&entry.key, &entry.value, entry.mod_revision);
                            unreadable.note(&entry.key, read)
                        });
                        (revision, objects.collect())
                    };
                    (Ok(tokio::task::spawn_blocking(decode)), next)
                }
                Err(error) => (Err(error), None),
            };
            // Nobody listens any more where loading has failed.
            let sent = sender.send(page).await;
            match next {
                Some(next) if sent.is_ok() => range = next,
                _ => break,
            }
        }
    });
    receiver
}

/// Goes on with the panic of a thread that decoded; none is ever cancelled.
fn resume(error: tokio::task::JoinError) -> Page {
    std::panic::resume_unwind(error.into_panic())
}
