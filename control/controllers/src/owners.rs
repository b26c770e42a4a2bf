//! Which objects belong to a controller, by owner reference and selector; adopting and releasing them.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::object::OwnerRef;
use coracle_api::plan::Key;
use coracle_api::{Cluster, Kind, LabelSelector, Object, Plan, kinds};

use serde_json::json;

use crate::patch;

/// The objects of `kind` that `owner` manages: those it owns and selects, and matching orphans, whose adoption is
/// planned. Owned ones that the selector no longer selects are released. `eligible` leaves out what need not be managed;
/// `finalizer` is one that the owner's objects hold.
pub(crate) fn claim<'a>(
    cluster: &'a Cluster,
    kind: &Kind,
    owner: &Object,
    selector: &LabelSelector,
    eligible: impl Fn(&Object) -> bool,
    finalizer: Option<&str>,
    plan: &mut Plan,
) -> Vec<&'a Arc<Object>> {
    let mut claimed = Vec::new();
    for object in cluster.owned_of_kind(&owner.meta.uid, kind) {
        // An owner in another namespace is none at all.
        let ours = object.meta.namespace == owner.meta.namespace
            && object.controller().is_some_and(|o| o.uid == owner.meta.uid);
        if !ours || !eligible(object) {
            continue;
        }
        if selector.matches(&object.meta.labels) {
            claimed.push(object);
        } else if !owner.is_deleting() {
            let mut change = patch::owners(&without(object, &owner.meta.uid));
            if let Some(finalizer) = finalizer {
                let held = object.meta.finalizers.iter().filter(|held| *held != finalizer);
                change["metadata"]["finalizers"] = held.cloned().collect();
            }
            plan.patch(object, change);
        }
    }
    if owner.is_deleting() {
        return claimed;
    }
    for object in cluster.orphans_in(kind, &owner.meta.namespace) {
        if !object.is_deleting() && selector.matches(&object.meta.labels) && eligible(object) {
            let mut owners = object.meta.owner_references.clone();
            owners.retain(|o| o.uid != owner.meta.uid);
            owners.push(owner.owner_ref());
            let mut change = patch::owners(&owners);
            if let Some(finalizer) = finalizer {
                let held = object.meta.finalizers.iter().map(String::as_str);
                let held: BTreeSet<&str> = held.chain([finalizer]).collect();
                change["metadata"]["finalizers"] = json!(held);
            }
            plan.patch(object, change);
            claimed.push(object);
        }
    }
    claimed
}

/// The keys of the owners of `kind` that a changed object concerns: the one that it has or, of an orphan, all that select
/// it and may adopt it. No labels, nobody: no walk over them.
pub(crate) fn wakes(
    cluster: &Cluster,
    kind: &Kind,
    object: &Object,
    selector: impl Fn(&Object) -> Option<LabelSelector>,
) -> Vec<Key> {
    let namespace = object.meta.namespace.as_str();
    match object.controller() {
        Some(owner) if owner.kind == kind.kind => vec![Key::new(namespace, owner.name.as_str())],
        Some(_) => Vec::new(),
        None if object.meta.labels.is_empty() || object.is_deleting() => Vec::new(),
        None => cluster
            .list_in(kind, namespace)
            .filter(|owner| selector(owner).is_some_and(|s| s.matches(&object.meta.labels)))
            .map(|owner| Key::of(owner))
            .collect(),
    }
}

/// An object's owner references but for one owner.
pub(crate) fn without(object: &Object, uid: &str) -> Vec<OwnerRef> {
    object.meta.owner_references.iter().filter(|o| o.uid != uid).cloned().collect()
}

/// An object's owner references, none of which makes the owner's deletion wait.
pub(crate) fn unblocking(object: &Object) -> Vec<OwnerRef> {
    let mut owners = object.meta.owner_references.clone();
    for owner in owners.iter_mut().filter(|o| o.block_owner_deletion.is_some()) {
        owner.block_owner_deletion = Some(false);
    }
    owners
}

/// The live object of `kind` that controls `object`, if it is in the same namespace and still the same one.
pub(crate) fn controller_of<'a>(
    cluster: &'a Cluster,
    object: &Object,
    kind: &Kind,
) -> Option<&'a Arc<Object>> {
    let owner = object.controller().filter(|o| o.kind == kind.kind)?;
    cluster
        .get(kind, &object.meta.namespace, &owner.name)
        .filter(|found| found.meta.uid == owner.uid)
}

/// Nothing may be created in a namespace that is going away.
pub(crate) fn is_terminating(cluster: &Cluster, namespace: &str) -> bool {
    cluster.get(&kinds::NAMESPACE, "", namespace).is_some_and(|n| n.is_deleting())
}
