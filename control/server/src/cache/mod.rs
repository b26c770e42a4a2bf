//! The watch cache: the whole cluster in memory, kept current by one task that follows the store.
//!
//! Every read of the API and every decision of a controller is answered from here. One writer ([`follow`]) decodes each
//! change once and publishes it to the [`Cluster`], then to the [`Hub`] that wakes watchers, then as the new revision;
//! so whoever has waited for a revision sees it in the cluster and in the hub. The lock on the cluster is a plain one
//! and never held across an await. Next step of the apply trace: [`crate::driver`].

mod hub;
mod source;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::metrics::{OutOfStep, Report};
use coracle_api::{Change, Cluster, Kind, Object, kinds};
use coracle_store::{Range, ReadError, Store};
use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::custom::Definitions;
use crate::keys;
use hub::Hub;
pub(crate) use hub::Scope;
pub(crate) use source::{Source, SourceError};

/// Objects read from the store at a time while loading.
const PAGE: usize = 2000;
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
    definitions: Definitions,
    hub: Mutex<Hub>,
    changes: broadcast::Sender<Arc<Change>>,
    metrics: broadcast::Sender<Arc<BTreeSet<String>>>,
    revision: watch::Sender<u64>,
    failure: Mutex<Option<String>>,
}

/// The revision asked for has not come within the time given.
#[derive(Debug)]
pub(crate) struct NotYet {
    /// The newest revision there is.
    pub(crate) current: u64,
}

impl Cache {
    /// Loads every object at one revision.
    pub(crate) async fn load(store: &Store) -> Result<Self, ReadError> {
        let mut cluster = Cluster::new(Timestamp::now());
        let definitions = Definitions::default();
        let mut at = None;
        // What defines kinds comes before what is of these kinds.
        for (prefix, is_definition) in [
            (keys::of_kind(&kinds::CUSTOM_RESOURCE_DEFINITION), true),
            (keys::OBJECTS.into(), false),
        ] {
            let mut range = Range::prefix(prefix);
            loop {
                let page = store.range(range.clone(), at, Some(PAGE)).await?;
                at = Some(page.revision);
                for entry in &page.entries {
                    let read = decode(&definitions, &entry.key, &entry.value, entry.mod_revision);
                    let Some(object) = read else { continue };
                    if is_definition {
                        definitions.put(&object);
                    } else {
                        cluster.put(object);
                    }
                }
                match page.entries.last() {
                    Some(last) if page.more => range = range.after(&last.key),
                    _ => break,
                }
            }
        }
        let revision = at.unwrap_or_default();
        cluster.advance(revision);
        Ok(Self {
            shared: Arc::new(Shared {
                cluster: RwLock::new(cluster),
                definitions,
                hub: Mutex::new(Hub::new(revision)),
                changes: broadcast::Sender::new(FOLLOWER_BUFFER),
                metrics: broadcast::Sender::new(METRICS_BUFFER),
                revision: watch::Sender::new(revision),
                failure: Mutex::new(None),
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
            match watch.next().await {
                Some(Ok(change)) => {
                    lock(&self.shared.failure).take();
                    self.apply(change);
                }
                Some(Err(error)) => return error,
                None => return ReadError::Closed,
            }
        }
    }

    fn apply(&self, committed: coracle_store::Change) {
        let revision = committed.revision;
        let decoded: Vec<_> = committed
            .events
            .iter()
            .filter_map(|event| {
                let definitions = &self.shared.definitions;
                let place = keys::parse(definitions, &event.key)?;
                let read = |value| decode(definitions, &event.key, value, revision);
                let new = event.value.as_ref().map(read);
                if place.0.resource == kinds::CUSTOM_RESOURCE_DEFINITION.resource {
                    match &new {
                        Some(Some(object)) => definitions.put(object),
                        Some(None) => {}
                        None => definitions.remove(place.2),
                    }
                }
                Some((place, new))
            })
            .collect();
        let mut changes = Vec::with_capacity(decoded.len());
        {
            let mut cluster = self.shared.cluster.write().unwrap_or_else(PoisonError::into_inner);
            cluster.now = Timestamp::now();
            cluster.advance(revision);
            for ((kind, namespace, name), new) in decoded {
                let change = match new {
                    Some(Some(new)) => {
                        Change { revision, old: cluster.put(new.clone()), new: Some(new) }
                    }
                    // Unreadable: already reported, and as good as absent.
                    Some(None) | None => Change {
                        revision,
                        old: cluster.remove(kind, namespace, name, revision),
                        new: None,
                    },
                };
                if change.object().is_some() {
                    changes.push(Arc::new(change));
                }
            }
        }
        lock(&self.shared.hub).publish(revision, &changes);
        for change in changes {
            // Nobody listening is fine.
            let _ = self.shared.changes.send(change);
        }
        self.shared.revision.send_replace(revision);
    }

    /// The cluster as it is now. The guard must not be held across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Cluster> {
        self.shared.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The custom kinds.
    pub(crate) fn definitions(&self) -> &Definitions {
        &self.shared.definitions
    }

    /// Sets the time that controllers see.
    pub(crate) fn set_now(&self, now: Timestamp) {
        self.shared.cluster.write().unwrap_or_else(PoisonError::into_inner).now = now;
    }

    /// One object.
    pub(crate) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read().get(kind, namespace, name).cloned()
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

/// The object under a key; unreadable ones are reported and left out.
pub(crate) fn decode(
    definitions: &Definitions,
    key: &[u8],
    value: &Bytes,
    revision: u64,
) -> Option<Arc<Object>> {
    let (kind, ..) = keys::parse(definitions, key)?;
    match Object::from_stored(kind, value, revision) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            tracing::error!(key = %key.escape_ascii(), %error, "unreadable object in the store");
            None
        }
    }
}
