//! CustomResourceDefinition: which names it gets, whether it is served, and the end of its objects with it
//! (`apiextensions-apiserver/pkg/controller/{status,establish,finalizer}`).

use std::collections::BTreeSet;

use coracle_api::custom::CLEANUP_FINALIZER;
use coracle_api::json::Json;
use coracle_api::kinds::CUSTOM_RESOURCE_DEFINITION as CRD;
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{BURST, patch};

/// Plans the status of CustomResourceDefinitions, and the deletion of what they define.
#[derive(Debug, Clone, Copy)]
pub struct CustomResourceDefinitionController;

impl Controller for CustomResourceDefinitionController {
    fn name(&self) -> &'static str {
        "custom-resource-definition"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.custom {
            let definition = cluster.get(&CRD, "", object.kind.resource);
            let going = definition.is_some_and(|definition| definition.is_deleting());
            return if going { vec![Key::new("", object.kind.resource)] } else { Vec::new() };
        }
        if object.kind.resource != CRD.resource {
            return Vec::new();
        }
        // A name that one lets go, others of its group may have been waiting for.
        let group = object.meta.name.split_once('.').map_or("", |(_, group)| group);
        let neighbours = cluster.list(&CRD).filter(|other| {
            other.meta.name != object.meta.name
                && other.meta.name.split_once('.').is_some_and(|(_, theirs)| theirs == group)
        });
        std::iter::once(Key::of(object)).chain(neighbours.map(|other| Key::of(other))).collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(definition) = cluster.get(&CRD, "", &key.name) else { return plan };
        let is_held = definition.meta.finalizers.iter().any(|f| f == CLEANUP_FINALIZER);
        if definition.is_deleting() && is_held {
            finalize(cluster, definition, &mut plan);
        } else if !definition.is_deleting() {
            name(cluster, definition, &mut plan);
        }
        plan
    }
}

/// Deletes what is of the kind; once nothing is, lets the definition go.
fn finalize(cluster: &Cluster, definition: &Object, plan: &mut Plan) {
    let kind = cluster.kinds().find(|kind| kind.custom && kind.resource == definition.meta.name);
    let mut left = 0;
    for object in kind.into_iter().flat_map(|kind| cluster.list(kind)) {
        left += 1;
        if !object.is_deleting() && plan.writes.len() < BURST {
            plan.delete(object, Propagation::Background);
        }
    }
    let tree = definition.value();
    if left == 0 {
        let finalizers = definition.meta.finalizers.iter().filter(|f| *f != CLEANUP_FINALIZER);
        let finalizers: Vec<_> = finalizers.collect();
        plan.patch(definition, json!({"metadata": {"finalizers": finalizers}}));
        return;
    }
    let told = Condition {
        kind: "Terminating",
        status: true,
        reason: "InstanceDeletionInProgress",
        message: "CustomResource deletion is in progress".to_owned(),
    };
    let conditions = with(cluster.now, tree.list(&["status", "conditions"]), vec![told]);
    if tree.list(&["status", "conditions"]) != conditions {
        plan.patch_status(definition, json!({"status": {"conditions": conditions}}));
    }
}

/// Accepts what names nobody else of the group has.
fn name(cluster: &Cluster, definition: &Object, plan: &mut Plan) {
    let tree = definition.value();
    let none = Value::Null;
    let asked = tree.at(&["spec", "names"]).unwrap_or(&none);
    let had = tree.at(&["status", "acceptedNames"]).unwrap_or(&none);
    let taken = Taken::of(cluster, definition);
    let mut accepted = json!({});
    let mut refused = None;
    let mut take = |field: &str, conflict: Option<(&'static str, String)>| {
        let from = if conflict.is_some() { had } else { asked };
        if let Some(value) = from.at(&[field]) {
            accepted[field] = value.clone();
        }
        if conflict.is_some() {
            refused = conflict;
        }
    };
    let clash = |name: &str, among: &BTreeSet<String>, reason| {
        among.contains(name).then(|| (reason, format!("\"{name}\" is already in use")))
    };
    for (field, among, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        take(field, clash(asked.text(&[field]), among, reason));
        if field == "singular" {
            let names = asked.list(&["shortNames"]).iter().filter_map(Value::as_str);
            let clashes = names.filter_map(|n| clash(n, &taken.resources, "ShortNamesConflict"));
            let messages: Vec<_> = clashes.map(|(_, message)| message).collect();
            let conflict = match &messages[..] {
                [] => None,
                [one] => Some(("ShortNamesConflict", one.clone())),
                many => Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
            };
            take("shortNames", conflict);
        }
    }
    take("categories", None);

    let names = match refused {
        None => ("NamesAccepted", true, "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => ("NamesAccepted", false, reason, message),
    };
    let known = tree.list(&["status", "conditions"]);
    let is_established =
        known.iter().any(|c| c.text(&["type"]) == "Established" && c.text(&["status"]) == "True");
    let mut told = vec![Condition::from(names)];
    if told[0].status || is_established {
        let message = "the initial names have been accepted".to_owned();
        told.push(Condition::from(("Established", true, "InitialNamesAccepted", message)));
    } else {
        let message = "not all names are accepted".to_owned();
        told.push(Condition::from(("Established", false, "NotAccepted", message)));
    }
    let conditions = with(cluster.now, known, told);
    if known != conditions || *had != accepted {
        let mut names = accepted;
        // A merge patch takes away only what it names.
        for (field, _) in had.pairs(&[]) {
            if names.get(field).is_none() {
                names[field] = Value::Null;
            }
        }
        let status = json!({"conditions": conditions, "acceptedNames": names});
        plan.patch_status(definition, json!({"status": status}));
    }
}

/// Names that others of the group have been given.
struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    fn of(cluster: &Cluster, definition: &Object) -> Self {
        let mut taken = Self { resources: BTreeSet::new(), kinds: BTreeSet::new() };
        let group = definition.meta.name.split_once('.').map_or("", |(_, group)| group);
        for other in cluster.list(&CRD) {
            let theirs = other.meta.name.split_once('.').map_or("", |(_, group)| group);
            if theirs != group || other.meta.name == definition.meta.name {
                continue;
            }
            let tree = other.value();
            let text = |name| tree.text(&["status", "acceptedNames", name]).to_owned();
            taken.resources.extend(["plural", "singular"].map(text));
            taken.kinds.extend(["kind", "listKind"].map(text));
            let short = tree.list(&["status", "acceptedNames", "shortNames"]).iter();
            taken.resources.extend(short.filter_map(Value::as_str).map(str::to_owned));
        }
        // What is not given yet.
        taken.resources.remove("");
        taken.kinds.remove("");
        taken
    }
}

struct Condition {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

impl From<(&'static str, bool, &'static str, String)> for Condition {
    fn from((kind, status, reason, message): (&'static str, bool, &'static str, String)) -> Self {
        Self { kind, status, reason, message }
    }
}

/// The conditions with these in place of those of their types; what has not changed keeps its time.
fn with(now: Timestamp, known: &[Value], told: Vec<Condition>) -> Vec<Value> {
    let mut all = known.to_vec();
    for condition in told {
        let status = if condition.status { "True" } else { "False" };
        let place = all.iter().position(|c| c.text(&["type"]) == condition.kind);
        let since = place.filter(|i| all[*i].text(&["status"]) == status);
        let since = since.map(|i| all[i]["lastTransitionTime"].clone());
        let new = json!({
            "type": condition.kind,
            "status": status,
            "lastTransitionTime": since.unwrap_or_else(|| patch::time(now).into()),
            "reason": condition.reason,
            "message": condition.message,
        });
        match place {
            Some(i) => all[i] = new,
            None => all.push(new),
        }
    }
    all
}
