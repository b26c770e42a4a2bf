//! What a controller wants done: a list of writes, each with its precondition, and events to record.
//!
//! Controllers only return plans; the server's driver (and the simulator) performs them. A write whose precondition
//! no longer holds is dropped and the key runs again on the newer view, so a plan may always be made from a stale one.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::kinds::Kind;
use crate::object::Object;

/// Which object a controller works on: `namespace/name` of its kind (the controller defines which kind).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace; empty for cluster-scoped.
    pub namespace: String,
    /// Name. Controllers that work on things of other kinds may encode what they need.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(object: &Object) -> Self {
        Self::new(object.meta.namespace.as_str(), object.meta.name.as_str())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A level-triggered reconciler, pure and synchronous: all it knows is the cluster it is handed, all it does is in
/// the plan it returns. Never told which event woke it.
pub trait Controller: Send + Sync {
    /// Its name, as in `deployment`; events carry `deployment-controller`.
    fn name(&self) -> &'static str;
    /// Which keys a changed object concerns. Called for the old and for the new object of every change.
    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key>;
    /// What to write so that the declared state of `key` comes nearer.
    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan;
    /// The same for a controller that decides by what it saw before: `memory` is what the key's last plan asked to have kept.
    fn reconcile_with(&self, cluster: &Cluster, key: &Key, _memory: Option<&Memory>) -> Plan {
        self.reconcile(cluster, key)
    }
    /// For a controller that decides by [`Cluster::metrics`]: which keys the metrics of a namespace's Pods concern.
    fn wakes_by_metrics(&self) -> Option<fn(&Cluster, &str) -> Vec<Key>> {
        None
    }
}

/// What a controller asks whoever runs it to keep for a key until it looks at it again. It is gone when that process ends: what
/// a controller remembers may make it wait, but must not make it err.
pub type Memory = Arc<dyn Any + Send + Sync>;

/// Writes, events, and when to look again.
#[derive(Debug, Default)]
pub struct Plan {
    /// Performed in order; the first that fails its precondition ends the plan and the key runs again.
    pub writes: Vec<Write>,
    /// Recorded after the writes succeeded.
    pub events: Vec<EventRecord>,
    /// Run the key again after this time even if nothing changes.
    pub requeue_after: Option<Duration>,
    /// To be kept for the key, instead of what is kept now.
    pub memory: Option<Memory>,
}

/// One write, with the precondition it was planned on.
#[derive(Debug, Clone)]
pub enum Write {
    /// Creates an object (complete, `metadata.name` or `generateName` set). Fails if it exists.
    Create {
        /// Kind to create.
        kind: &'static Kind,
        /// The whole object.
        object: Value,
    },
    /// Applies an RFC 7386 merge patch to an object or to one of its subresources.
    Patch {
        /// Kind of the object.
        kind: &'static Kind,
        /// Namespace; empty for cluster-scoped.
        namespace: String,
        /// Name.
        name: String,
        /// The object must still be at this revision.
        revision: u64,
        /// `None`: the object itself; `Some("status")`: its status only, and so on.
        subresource: Option<&'static str>,
        /// The merge patch.
        patch: Value,
    },
    /// Asks for deletion, as a client would (grace periods and finalizers apply).
    Delete {
        /// Kind of the object.
        kind: &'static Kind,
        /// Namespace; empty for cluster-scoped.
        namespace: String,
        /// Name.
        name: String,
        /// The object must still be this one.
        uid: String,
        /// The object must still be at this revision, where that matters.
        revision: Option<u64>,
        /// What happens to its dependents.
        propagation: Propagation,
        /// Overrides the object's own grace period, in seconds.
        grace_seconds: Option<i64>,
    },
}

/// `DeleteOptions.propagationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// Dependents are collected afterwards.
    #[default]
    Background,
    /// Dependents go first.
    Foreground,
    /// Dependents stay, without the owner reference.
    Orphan,
}

/// An event to record about an object (`Normal` or `Warning`), as `kubectl describe` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Group and version of the object.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for cluster-scoped.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// A warning rather than a normal event.
    pub warning: bool,
    /// `CamelCase` reason.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
}

impl Plan {
    /// Nothing to do.
    pub fn none() -> Self {
        Self::default()
    }

    /// Nothing planned at all.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.events.is_empty() && self.requeue_after.is_none()
    }

    /// Adds a creation.
    pub fn create(&mut self, kind: &'static Kind, object: Value) {
        self.writes.push(Write::Create { kind, object });
    }

    /// Adds a merge patch on what was seen.
    pub fn patch(&mut self, seen: &Object, patch: Value) {
        self.push_patch(seen, None, patch);
    }

    /// Adds a merge patch on the status of what was seen.
    pub fn patch_status(&mut self, seen: &Object, patch: Value) {
        self.push_patch(seen, Some("status"), patch);
    }

    /// Adds a merge patch on what was decided of a certificate request.
    pub fn patch_approval(&mut self, seen: &Object, patch: Value) {
        self.push_patch(seen, Some("approval"), patch);
    }

    fn push_patch(&mut self, seen: &Object, subresource: Option<&'static str>, patch: Value) {
        self.writes.push(Write::Patch {
            kind: seen.kind,
            namespace: seen.meta.namespace.clone(),
            name: seen.meta.name.clone(),
            revision: seen.meta.resource_version,
            subresource,
            patch,
        });
    }

    /// Adds a deletion of what was seen, with its own grace period.
    pub fn delete(&mut self, seen: &Object, propagation: Propagation) {
        self.writes.push(Write::Delete {
            kind: seen.kind,
            namespace: seen.meta.namespace.clone(),
            name: seen.meta.name.clone(),
            uid: seen.meta.uid.clone(),
            revision: None,
            propagation,
            grace_seconds: None,
        });
    }

    /// Adds a normal event about an object.
    pub fn event(&mut self, about: &Object, reason: &str, message: impl Into<String>) {
        self.events.push(EventRecord::about(about, false, reason, message));
    }

    /// Adds a warning about an object.
    pub fn warning(&mut self, about: &Object, reason: &str, message: impl Into<String>) {
        self.events.push(EventRecord::about(about, true, reason, message));
    }

    /// Runs the key again after `delay`, or sooner if already asked for.
    pub fn requeue(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |known| known.min(delay)));
    }
}

impl EventRecord {
    /// An event about an object.
    pub fn about(about: &Object, warning: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            api_version: about.kind.api_version(),
            kind: about.kind.kind.to_owned(),
            namespace: about.meta.namespace.clone(),
            name: about.meta.name.clone(),
            uid: about.meta.uid.clone(),
            warning,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}
