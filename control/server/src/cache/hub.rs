//! Recent changes per kind, and who waits for which.
//!
//! Watchers are found by what they watch, never by asking each: with 5,000 agents each watching the Pods of its own node,
//! a changed Pod costs two lookups; what thousands watch reaches them as one [`Event`]. A watcher that reads too slowly is dropped from its list; its [`Source`](super::Source)
//! notices and reads on from the ring, or from the store's history, so slowness costs nobody memory.

use std::cell::LazyCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use coracle_api::{Change, Kind, Object};
use tokio::sync::mpsc;

use super::event::Event;

/// Changes kept per kind…
const RING_CHANGES: usize = 2048;
/// …for kinds with short history…
const RING_CHANGES_SHORT: usize = 256;
/// …and their bytes.
const RING_BYTES: usize = 4 << 20;
/// Changes that wait in memory for one watcher.
const WATCHER_BUFFER: usize = 256;

/// Which objects of a kind a watcher is woken for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// All.
    All,
    /// One namespace.
    Namespace(Box<str>),
    /// Pods of one node.
    Node(Box<str>),
    /// One object, by [`Object::key`].
    Name(Box<str>),
}

impl Scope {
    /// Whether an object lies in it.
    pub(crate) fn contains(&self, object: &Object) -> bool {
        match self {
            Scope::All => true,
            Scope::Namespace(namespace) => *object.meta.namespace == **namespace,
            Scope::Node(node) => object.node_name.as_deref() == Some(node),
            Scope::Name(key) => object.key() == **key,
        }
    }

    pub(super) fn touches(&self, change: &Change) -> bool {
        [&change.old, &change.new].into_iter().flatten().any(|object| self.contains(object))
    }
}

/// The rings and the watchers of every kind.
pub(super) struct Hub {
    revision: u64,
    loaded: u64,
    next_id: u64,
    rings: HashMap<&'static str, Ring>,
    watchers: HashMap<&'static str, Watchers>,
}

/// The newest changes of one kind.
struct Ring {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// Every change after this revision is here.
    floor: u64,
}

#[derive(Default)]
struct Watchers {
    all: Vec<Watcher>,
    namespaces: HashMap<Box<str>, Vec<Watcher>>,
    nodes: HashMap<Box<str>, Vec<Watcher>>,
    names: HashMap<Box<str>, Vec<Watcher>>,
}

struct Watcher {
    id: u64,
    sender: mpsc::Sender<Arc<Event>>,
}

/// A registered watcher: what it missed, then what comes. Closed by the hub when it lags.
pub(super) struct Registration {
    pub(super) id: u64,
    pub(super) backlog: VecDeque<Arc<Change>>,
    pub(super) receiver: mpsc::Receiver<Arc<Event>>,
}

impl Hub {
    pub(super) fn new(revision: u64) -> Self {
        Self {
            revision,
            loaded: revision,
            next_id: 0,
            rings: HashMap::new(),
            watchers: HashMap::new(),
        }
    }

    /// The revision up to which every watcher has been sent everything.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn unchanged_since(&self, kind: &Kind, revision: u64) -> bool {
        match self.rings.get(kind.resource) {
            None => revision >= self.loaded,
            Some(ring) => ring.changes.back().map_or(ring.floor, |last| last.revision) <= revision,
        }
    }

    pub(super) fn publish(&mut self, revision: u64, changes: &[Arc<Change>]) {
        self.revision = revision;
        for change in changes {
            let Some(object) = change.object() else { continue };
            let kind = object.kind;
            let loaded = self.loaded;
            let ring = self.rings.entry(kind.resource).or_insert_with(|| Ring {
                changes: VecDeque::new(),
                bytes: 0,
                floor: loaded,
            });
            ring.push(change.clone(), kind);
            if let Some(watchers) = self.watchers.get_mut(kind.resource) {
                watchers.send(change, object);
            }
        }
    }

    /// Registers a watcher for what comes after `after`; `None` if the ring no longer reaches back so far.
    pub(super) fn register(
        &mut self,
        kind: &'static Kind,
        scope: &Scope,
        after: u64,
    ) -> Option<Registration> {
        let backlog = match self.rings.get(kind.resource) {
            Some(ring) if after < ring.floor => return None,
            Some(ring) => {
                let from = ring.changes.partition_point(|change| change.revision <= after);
                ring.changes.range(from..).filter(|c| scope.touches(c)).cloned().collect()
            }
            None if after < self.loaded => return None,
            None => VecDeque::new(),
        };
        let (sender, receiver) = mpsc::channel(WATCHER_BUFFER);
        self.next_id += 1;
        let id = self.next_id;
        let watchers = self.watchers.entry(kind.resource).or_default();
        watchers.list(scope).push(Watcher { id, sender });
        Some(Registration { id, backlog, receiver })
    }

    pub(super) fn unregister(&mut self, kind: &Kind, scope: &Scope, id: u64) {
        if let Some(watchers) = self.watchers.get_mut(kind.resource) {
            watchers.list(scope).retain(|watcher| watcher.id != id);
            watchers.drop_if_empty(scope);
        }
    }
}

impl Ring {
    fn push(&mut self, change: Arc<Change>, kind: &Kind) {
        let most = if kind.short_history { RING_CHANGES_SHORT } else { RING_CHANGES };
        self.bytes += weight(&change);
        self.changes.push_back(change);
        while self.changes.len() > most || (self.bytes > RING_BYTES && self.changes.len() > 1) {
            if let Some(oldest) = self.changes.pop_front() {
                self.bytes -= weight(&oldest);
                self.floor = oldest.revision;
            }
        }
    }
}

/// What a change keeps alive beyond the cluster: the old object.
fn weight(change: &Change) -> usize {
    change.old.as_ref().map_or(0, |old| old.json().len()) + 256
}

impl Watchers {
    fn list(&mut self, scope: &Scope) -> &mut Vec<Watcher> {
        match scope {
            Scope::All => &mut self.all,
            Scope::Namespace(key) => self.namespaces.entry(key.clone()).or_default(),
            Scope::Node(key) => self.nodes.entry(key.clone()).or_default(),
            Scope::Name(key) => self.names.entry(key.clone()).or_default(),
        }
    }

    fn drop_if_empty(&mut self, scope: &Scope) {
        let (lists, key) = match scope {
            Scope::All => return,
            Scope::Namespace(key) => (&mut self.namespaces, key),
            Scope::Node(key) => (&mut self.nodes, key),
            Scope::Name(key) => (&mut self.names, key),
        };
        if lists.get(key).is_some_and(Vec::is_empty) {
            lists.remove(key);
        }
    }

    fn send(&mut self, change: &Arc<Change>, object: &Object) {
        // One for all of them, made for the first.
        let event = LazyCell::new(|| Event::of(change.clone()));
        let send = |list: &mut Vec<Watcher>| {
            list.retain(|watcher| watcher.sender.try_send(event.clone()).is_ok());
        };
        send(&mut self.all);
        if let Some(list) = self.namespaces.get_mut(object.meta.namespace.as_str()) {
            send(list);
        }
        if !self.names.is_empty()
            && let Some(list) = self.names.get_mut(object.key().as_str())
        {
            send(list);
        }
        if !self.nodes.is_empty() {
            let node = |object: &Option<Arc<Object>>| object.as_ref()?.node_name.clone();
            let (old, new) = (node(&change.old), node(&change.new));
            if let Some(list) = new.as_ref().and_then(|node| self.nodes.get_mut(node)) {
                send(list);
            }
            if old != new
                && let Some(list) = old.as_ref().and_then(|node| self.nodes.get_mut(node))
            {
                send(list);
            }
        }
    }
}
