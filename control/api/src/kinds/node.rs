//! Node.

use std::collections::BTreeSet;

use super::common::{AGE, NAME, object_age, or, prepare_status, text, wide};
use super::*;
use crate::json::{Json, object};

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
