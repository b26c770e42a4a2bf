//! Garbage collection: objects go when all their owners are gone, by UID.
//!
//! Two kinds of keys. `dependent`: an object some of whose owners are gone. `owner`: an owner that waits for its
//! dependents (`foregroundDeletion`) or lets them be (`orphan`), or the UID of one that is gone. Objects whose owners all
//! live wake nothing, so that the usual change costs one look-up.

use std::time::Duration;

use coracle_api::object::OwnerRef;
use coracle_api::plan::{Controller, Key, Propagation, Write};
use coracle_api::{Cluster, Object, Plan};
use serde_json::json;

use crate::{BURST, owners, patch};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Plans deletions of what nobody owns any more.
#[derive(Debug, Clone, Copy)]
pub struct GarbageCollector;

/// What an owner reference leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It lives, or is of a kind that is not known here.
    Solid,
    /// There is none of that UID.
    Dangling,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let mut keys = Vec::new();
        let gone = live(cluster, object).is_none();
        if gone {
            if cluster.owned_by(&object.meta.uid).next().is_some() {
                keys.push(Key::new(object.meta.uid.as_str(), "owner"));
            }
        } else {
            if awaits_dependents(object) {
                keys.push(dependent(object));
            }
            // One that waits for its dependents sees to them itself.
            let gone = |o: &OwnerRef| look_up(cluster, object, o).0 == Owner::Dangling;
            if object.meta.owner_references.iter().any(gone) {
                keys.push(dependent(object));
            }
        }
        for owner in &object.meta.owner_references {
            if let (_, Some(owner)) = look_up(cluster, object, owner)
                && awaits_dependents(owner)
            {
                keys.push(dependent(owner));
            }
        }
        keys
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        if key.name == "owner" {
            for object in cluster.owned_by(&key.namespace) {
                collect(cluster, object, &mut plan);
                if plan.writes.len() >= BURST {
                    // Those that are marked by then are passed over.
                    plan.requeue(Duration::ZERO);
                    break;
                }
            }
        } else if let Some((resource, name)) = key.name.split_once('|')
            && let Some(kind) = cluster.kinds().find(|kind| kind.resource == resource)
            && let Some(object) = cluster.get(kind, &key.namespace, name)
        {
            if object.is_deleting() {
                let has = |finalizer| object.meta.finalizers.iter().any(|f| f == finalizer);
                if has(ORPHAN) {
                    orphan_dependents(cluster, object, &mut plan);
                } else if has(FOREGROUND) {
                    await_dependents(cluster, object, &mut plan);
                }
            } else {
                collect(cluster, object, &mut plan);
            }
        }
        plan
    }
}

fn dependent(object: &Object) -> Key {
    let name = format!("{}|{}", object.kind.resource, object.meta.name);
    Key::new(object.meta.namespace.as_str(), name)
}

/// Its deletion waits for what becomes of its dependents.
fn awaits_dependents(object: &Object) -> bool {
    object.is_deleting() && object.meta.finalizers.iter().any(|f| f == FOREGROUND || f == ORPHAN)
}

/// The object as the view has it, if it is still the same one.
fn live<'a>(cluster: &'a Cluster, object: &Object) -> Option<&'a Object> {
    cluster
        .get(object.kind, &object.meta.namespace, &object.meta.name)
        .map(|found| &**found)
        .filter(|found| found.meta.uid == object.meta.uid)
}

/// Finds an owner: of its kind and name, in the dependent's own namespace or in none, and of that very UID.
fn look_up<'a>(
    cluster: &'a Cluster,
    dependent: &Object,
    owner: &OwnerRef,
) -> (Owner, Option<&'a Object>) {
    // The group decides: a reference may name another version of it.
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let Some(kind) = cluster.kind(group, &owner.kind) else { return (Owner::Solid, None) };
    let namespace = &dependent.meta.namespace;
    if kind.namespaced && namespace.is_empty() {
        // A mistake that no deletion should follow from.
        return (Owner::Solid, None);
    }
    let namespace = if kind.namespaced { namespace.as_str() } else { "" };
    match cluster.get(kind, namespace, &owner.name).filter(|found| found.meta.uid == owner.uid) {
        None => (Owner::Dangling, None),
        Some(found) => {
            let waits =
                found.is_deleting() && found.meta.finalizers.iter().any(|f| f == FOREGROUND);
            (if waits { Owner::Waiting } else { Owner::Solid }, Some(found))
        }
    }
}

/// Deletes an object without living owners, or drops its references to the others.
fn collect(cluster: &Cluster, object: &Object, plan: &mut Plan) {
    if object.is_deleting() || object.meta.owner_references.is_empty() {
        return;
    }
    let owners = &object.meta.owner_references;
    let found: Vec<Owner> = owners.iter().map(|o| look_up(cluster, object, o).0).collect();
    if found.contains(&Owner::Solid) {
        let solid = owners.iter().zip(&found).filter(|(_, f)| **f == Owner::Solid);
        let solid: Vec<OwnerRef> = solid.map(|(owner, _)| owner.clone()).collect();
        if solid.len() < owners.len() {
            plan.patch(object, patch::owners(&solid));
        }
        return;
    }
    // In a circle of owners each would wait for the next one: who waits for this object stops waiting for it.
    let blocks = owners.iter().any(|o| o.block_owner_deletion == Some(true));
    let waits = |found: &Object| found.meta.finalizers.iter().any(|f| f == FOREGROUND);
    let is_circle = || cluster.owned_by(&object.meta.uid).any(|d| d.is_deleting() && waits(d));
    if blocks && found.contains(&Owner::Waiting) && is_circle() {
        plan.patch(object, patch::owners(&owners::unblocking(object)));
        return;
    }
    let has = |finalizer: &str| object.meta.finalizers.iter().any(|f| f == finalizer);
    let has_dependents = || cluster.owned_by(&object.meta.uid).next().is_some();
    let propagation = if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) || (found.contains(&Owner::Waiting) && has_dependents()) {
        // Whoever waits for this object waits for what it owns, too.
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    plan.delete(object, propagation);
    // It may be given another owner meanwhile.
    if let Some(Write::Delete { revision, .. }) = plan.writes.last_mut() {
        *revision = Some(object.meta.resource_version);
    }
}

/// Deletes the dependents of an owner that waits for them; without blocking ones left, lets it go.
fn await_dependents(cluster: &Cluster, owner: &Object, plan: &mut Plan) {
    let mut blocked = false;
    for object in dependents(cluster, owner) {
        let blocks = |o: &OwnerRef| o.uid == owner.meta.uid && o.block_owner_deletion == Some(true);
        blocked |= object.meta.owner_references.iter().any(blocks);
        if plan.writes.len() < BURST {
            collect(cluster, object, plan);
        }
    }
    if !blocked {
        plan.writes.clear();
        drop_finalizer(owner, FOREGROUND, plan);
    }
}

/// Takes the owner off its dependents; without any left, lets it go.
fn orphan_dependents(cluster: &Cluster, owner: &Object, plan: &mut Plan) {
    for object in dependents(cluster, owner).take(BURST) {
        plan.patch(object, patch::owners(&owners::without(object, &owner.meta.uid)));
    }
    if plan.writes.is_empty() {
        drop_finalizer(owner, ORPHAN, plan);
    }
}

fn dependents<'a>(
    cluster: &'a Cluster,
    owner: &'a Object,
) -> impl Iterator<Item = &'a std::sync::Arc<Object>> {
    let namespace = &owner.meta.namespace;
    cluster
        .owned_by(&owner.meta.uid)
        .filter(move |object| namespace.is_empty() || object.meta.namespace == *namespace)
}

fn drop_finalizer(object: &Object, finalizer: &str, plan: &mut Plan) {
    let left: Vec<_> = object.meta.finalizers.iter().filter(|f| *f != finalizer).collect();
    plan.patch(object, json!({"metadata": {"finalizers": left}}));
}
