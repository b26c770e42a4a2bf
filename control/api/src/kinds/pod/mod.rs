//! Pod. Its spec is also that of every Pod template: [`defaults`] and [`validate`] are shared with the workloads.

pub(super) mod defaults;
mod print;
pub(super) mod validate;

use serde_json::json;

use super::common::{status_and_labels, text, wide};
use super::*;
use crate::json::{Json, keep, object_or_new, set_default};
use crate::pod::qos_class;

/// `pods`.
pub static KIND: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    resource: "pods",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource::Status,
        Subresource::EphemeralContainers,
        Subresource::Resize,
        Subresource::Log,
        Subresource::Exec,
        Subresource::Attach,
        Subresource::PortForward,
        Subresource::Binding,
        Subresource::Eviction,
    ],
    generation: Generation::Spec,
    default: defaults::pod,
    prepare,
    validate: validate::pod,
    validate_create: validate::pod_create,
    validate_update: validate::pod_update,
    warnings: warnings::pod,
    columns: &[
        common::NAME,
        text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
        text("Status", "The aggregate status of the containers in this pod."),
        text("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
        common::AGE,
        wide("IP", "IP address allocated to the pod."),
        wide("Node", "The node that the pod is bound to."),
        wide("Nominated Node", "The node that the pod may be bound to once preemption has made room."),
        wide("Readiness Gates", "How many of the pod's readiness gates are met."),
    ],
    cells: print::cells,
    fields: FIELDS,
    ..Kind::BASE
};

pub(super) use validate::{ephemeral_update, resize_update, resized};

static FIELDS: &[SelectableField] = &[
    SelectableField { path: "spec.nodeName", read: |o| o.node_name.as_deref().unwrap_or("").into() },
    SelectableField { path: "spec.hostNetwork", read: |o| bool_text(o, "spec.hostNetwork") },
    SelectableField { path: "spec.restartPolicy", read: |o| peek(o, "spec.restartPolicy") },
    SelectableField { path: "spec.schedulerName", read: |o| peek(o, "spec.schedulerName") },
    SelectableField { path: "spec.serviceAccountName", read: |o| peek(o, "spec.serviceAccountName") },
    SelectableField { path: "status.phase", read: |o| peek(o, "status.phase") },
    SelectableField { path: "status.podIP", read: |o| peek(o, "status.podIP") },
    SelectableField { path: "status.nominatedNodeName", read: |o| peek(o, "status.nominatedNodeName") },
];

fn peek(object: &Object, path: &str) -> String {
    crate::json::peek(object.json(), path)
}

/// A boolean that is absent reads as `false`.
pub(super) fn bool_text(object: &Object, path: &str) -> String {
    let value = peek(object, path);
    if value.is_empty() { "false".into() } else { value }
}

fn prepare(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            let qos = qos_class(new.at(&["spec"]).unwrap_or(&Value::Null));
            let mut status = json!({"phase": "Pending", "qosClass": qos});
            if !new.list(&["spec", "schedulingGates"]).is_empty() {
                status["conditions"] = json!([{
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                    "lastTransitionTime": null,
                }]);
            }
            own_labels(new);
            let Some(new) = new.as_object_mut() else { return };
            new.insert("status".into(), status);
            if let Some(spec) = object_or_new(new, "spec") {
                service_account(spec, "default");
            }
        }
        Prepare::Update { new, old } => {
            let Some(new) = new.as_object_mut() else { return };
            keep(new, old, "status");
            let Some(spec) = object_or_new(new, "spec") else { return };
            // What the server filled in when the Pod was created: a client that replaces the Pod with the manifest it
            // started from means no change of these.
            for field in ["priority", "preemptionPolicy"] {
                if !spec.has(&[field])
                    && let Some(value) = old.at(&["spec", field])
                {
                    spec.insert(field.into(), value.clone());
                }
            }
            service_account(spec, old.text(&["spec", "serviceAccountName"]));
        }
        Prepare::Status { new, old } => {
            status_and_labels(new, old);
            // The quality of service is computed once and for all.
            if let Some(qos) = old.at(&["status", "qosClass"])
                && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
            {
                set_default(status, "qosClass", || qos.clone());
            }
        }
    }
}

/// Puts into selectors the Pod's own values of labels that they are to have in common with it, or not.
fn own_labels(pod: &mut Value) {
    let labels = pod.at(&["metadata", "labels"]).cloned().unwrap_or_default();
    let add = |term: &mut Value| {
        for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            for key in term.list(&[keys]).to_vec() {
                let value = key.as_str().and_then(|key| labels.get(key));
                let selector = term.get_mut("labelSelector").and_then(Value::as_object_mut);
                if let (Some(value), Some(selector)) = (value, selector) {
                    let all = selector.entry("matchExpressions").or_insert_with(|| json!([]));
                    let added = json!({"key": key, "operator": operator, "values": [value]});
                    if let Some(all) = all.as_array_mut()
                        && !all.contains(&added)
                    {
                        all.push(added);
                    }
                }
            }
        }
    };
    let Some(spec) = pod.get_mut("spec") else { return };
    terms(spec.get_mut("topologySpreadConstraints"), "").for_each(add);
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(kind) = spec.get_mut("affinity").and_then(|affinity| affinity.get_mut(kind))
        else {
            continue;
        };
        terms(kind.get_mut("requiredDuringSchedulingIgnoredDuringExecution"), "").for_each(add);
        let preferred = kind.get_mut("preferredDuringSchedulingIgnoredDuringExecution");
        terms(preferred, "podAffinityTerm").for_each(add);
    }
}

/// What lists of terms hold; `inner` is the field of each that the term is in, if any.
fn terms<'a>(
    list: Option<&'a mut Value>,
    inner: &'static str,
) -> impl Iterator<Item = &'a mut Value> {
    let list = list.and_then(Value::as_array_mut).into_iter().flatten();
    list.filter_map(move |term| if inner.is_empty() { Some(term) } else { term.get_mut(inner) })
}

/// Fills in the account, under its name of today and under its old one.
fn service_account(spec: &mut crate::json::Fields, name: &str) {
    if spec.text(&["serviceAccountName"]).is_empty() && !name.is_empty() {
        for field in ["serviceAccountName", "serviceAccount"] {
            spec.insert(field.into(), name.into());
        }
    }
}

#[cfg(test)]
mod tests;
