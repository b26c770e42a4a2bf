//! Namespace.

use serde_json::json;

use super::common::{NAME, AGE, fields, object_age, prepare_with_labels, text};
use super::*;
use crate::json::{Json, keep, object_or_new};

/// `namespaces`.
pub static KIND: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    resource: "namespaces",
    short_names: &["ns"],
    namespaced: false,
    subresources: &[Subresource::Status, Subresource::Finalize],
    name_rule: NameRule::Label,
    default,
    prepare,
    columns: &[NAME, text("Status", "The status of the namespace."), AGE],
    cells: |object, now| {
        let namespace = object.value();
        vec![
            object.meta.name.as_str().into(),
            namespace.text(&["status", "phase"]).into(),
            object_age(object, now),
        ]
    },
    fields: fields!["status.phase"],
    ..Kind::BASE
};

/// Every namespace carries its name as a label, so that selectors can name it.
fn default(namespace: &mut Value) {
    let name = namespace.text(&["metadata", "name"]).to_owned();
    if !name.is_empty()
        && let Some(labels) = namespace
            .as_object_mut()
            .and_then(|n| object_or_new(n, "metadata"))
            .and_then(|m| object_or_new(m, "labels"))
    {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

fn prepare(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            // A name made of generateName is known only now.
            default(new);
            let Some(new) = new.as_object_mut() else { return };
            new.insert("status".into(), json!({"phase": "Active"}));
            if let Some(spec) = object_or_new(new, "spec") {
                let mut finalizers = spec.list(&["finalizers"]).to_vec();
                if !finalizers.iter().any(|f| f == "kubernetes") {
                    finalizers.push("kubernetes".into());
                }
                spec.insert("finalizers".into(), finalizers.into());
            }
        }
        Prepare::Update { new, old } => {
            // Finalizers of a namespace change through `/finalize` only.
            if let Some(new) = new.as_object_mut() {
                keep(new, old, "spec");
                keep(new, old, "status");
            }
        }
        status @ Prepare::Status { .. } => prepare_with_labels(status),
    }
}
