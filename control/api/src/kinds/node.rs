//! Node.

use std::collections::BTreeSet;

use super::common::{AGE, NAME, object_age, or, prepare_status, text, wide};
use super::*;
use crate::json::{Json, object};
use crate::names;
use crate::path::Path;

/// `nodes`.
pub static KIND: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    resource: "nodes",
    short_names: &["no"],
    namespaced: false,
    subresources: &[Subresource::Status],
    default,
    // Unlike most: an agent registers its node with a status.
    prepare: |prepare| {
        if !matches!(prepare, Prepare::Create(_)) {
            prepare_status(prepare);
        }
    },
    validate,
    validate_update,
    columns: &[
        NAME,
        text("Status", "The status of the node."),
        text("Roles", "The roles of the node."),
        AGE,
        text("Version", "Version that the node's agent reports."),
        wide("Internal-IP", "Address of the node within the cluster."),
        wide("External-IP", "Address of the node from outside."),
        wide("OS-Image", "Operating system that the node reports."),
        wide("Kernel-Version", "Kernel that the node reports."),
        wide("Container-Runtime", "Runtime and version that the node reports."),
    ],
    cells,
    fields: &[SelectableField {
        path: "spec.unschedulable",
        read: |o| pod::bool_text(o, "spec.unschedulable"),
    }],
    ..Kind::BASE
};

fn default(node: &mut Value) {
    let Some(status) = node.as_object_mut().and_then(|n| object(n, "status")) else { return };
    if !status.has(&["allocatable"])
        && let Some(capacity) = status.at(&["capacity"]).cloned()
    {
        status.insert("allocatable".into(), capacity);
    }
    for list in ["capacity", "allocatable"] {
        if let Some(list) = object(status, list) {
            pod::defaults::quantities(list);
        }
    }
}

fn validate(node: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let list = Path::new("spec.taints");
    let mut seen = BTreeSet::new();
    for (i, taint) in node.list(&["spec", "taints"]).iter().enumerate() {
        let at = list.index(i);
        let of = |field| taint.text(&[field]);
        if let Some(problem) = names::qualified(of("key")) {
            errors.push(FieldError::invalid(at.child("key"), of("key"), problem));
        }
        if let Some(problem) = names::label_value(of("value")) {
            errors.push(FieldError::invalid(at.child("value"), of("value"), problem));
        }
        if of("effect").is_empty() {
            errors.push(FieldError::required(at.child("effect"), ""));
        } else if !matches!(of("effect"), "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            errors.push(FieldError::not_supported(
                at.child("effect"),
                of("effect"),
                &["NoExecute", "NoSchedule", "PreferNoSchedule"],
            ));
        }
        if !seen.insert((of("key"), of("effect"))) {
            errors.push(FieldError::duplicate(at, taint.clone()));
        }
    }
    errors
}

/// A node's address range and its provider's identity are given once.
fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, what) in [
        ("podCIDR", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        let (is, was) = (new.text(&["spec", field]), old.text(&["spec", field]));
        if !was.is_empty() && is != was {
            errors.push(FieldError::forbidden(Path::new("spec").child(field), what));
        }
    }
    errors
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let node = object.value();
    let ready = node.list(&["status", "conditions"]).iter().find(|c| c.text(&["type"]) == "Ready");
    let mut status = match ready.map(|c| c.text(&["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.flag(&["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    let roles: BTreeSet<&str> = object
        .meta
        .labels
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => (key == "kubernetes.io/role").then_some(value.as_str()),
        })
        .filter(|role| !role.is_empty())
        .collect();
    let roles = roles.into_iter().collect::<Vec<_>>().join(",");
    let address = |kind: &str| {
        let addresses = node.list(&["status", "addresses"]);
        let found = addresses.iter().find(|a| a.text(&["type"]) == kind);
        Value::from(found.map_or("<none>", |a| a.text(&["address"])))
    };
    let info = |field| node.text(&["status", "nodeInfo", field]);
    vec![
        object.meta.name.as_str().into(),
        status.into(),
        or(&roles, "<none>").into(),
        object_age(object, now),
        info("kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        or(info("osImage"), "<unknown>").into(),
        or(info("kernelVersion"), "<unknown>").into(),
        or(info("containerRuntimeVersion"), "<unknown>").into(),
    ]
}
