//! Deployment.

use serde_json::{Map, json};

use super::common::{AGE, NAME, object_age, prepare_with_labels, text};
use super::workload::{self, WIDE};
use super::*;
use crate::json::{Json, default_text, object, object_or_new, set_default};
use crate::path::Path;

/// `deployments.apps`.
pub static KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    resource: "deployments.apps",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    generation: Generation::Spec,
    default,
    prepare,
    validate,
    validate_update: workload::validate_update,
    warnings: warnings::workload,
    columns: &[
        NAME,
        text("Ready", "Number of the pod with ready state."),
        text("Up-to-date", "Number of pods that have the desired template."),
        text("Available", "Number of pods ready for at least minReadySeconds."),
        AGE,
        WIDE[0],
        WIDE[1],
        WIDE[2],
    ],
    cells,
    ..Kind::BASE
};

/// Who writes the status may annotate the Deployment, too, but not label it.
fn prepare(prepare: Prepare<'_>) {
    let Prepare::Status { new, old } = prepare else { return prepare_with_labels(prepare) };
    prepare_with_labels(Prepare::Status { new: &mut *new, old });
    let labels = old.at(&["metadata", "labels"]).cloned();
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        match labels {
            Some(labels) => metadata.insert("labels".into(), labels),
            None => metadata.remove("labels"),
        };
    }
}

fn default(deployment: &mut Value) {
    let Some(spec) = workload::default_spec(deployment) else { return };
    set_default(spec, "revisionHistoryLimit", || 10);
    set_default(spec, "progressDeadlineSeconds", || 600);
    let Some(strategy) = object_or_new(spec, "strategy") else { return };
    default_text(strategy, "type", "RollingUpdate");
    if strategy.text(&["type"]) == "RollingUpdate" {
        set_default(strategy, "rollingUpdate", Map::new);
        if let Some(rolling) = object(strategy, "rollingUpdate") {
            for field in ["maxSurge", "maxUnavailable"] {
                set_default(rolling, field, || json!("25%"));
            }
        }
    }
}

fn validate(deployment: &Value) -> Vec<FieldError> {
    let mut errors = workload::validate(deployment, "deployment");
    let spec = deployment.at(&["spec"]).unwrap_or(&Value::Null);
    let at = Path::new("spec");
    for field in ["revisionHistoryLimit", "progressDeadlineSeconds"] {
        workload::not_negative(spec, field, &at, &mut errors);
    }
    let deadline = spec.int(&["progressDeadlineSeconds"]).unwrap_or(0);
    if deadline <= spec.int(&["minReadySeconds"]).unwrap_or(0) {
        errors.push(FieldError::invalid(
            at.child("progressDeadlineSeconds"),
            deadline,
            "must be greater than minReadySeconds",
        ));
    }
    let at = at.child("strategy");
    match spec.text(&["strategy", "type"]) {
        "Recreate" => {
            if spec.has(&["strategy", "rollingUpdate"]) {
                errors.push(FieldError::forbidden(
                    at.child("rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                ));
            }
        }
        "RollingUpdate" => {
            let rolling = spec.at(&["strategy", "rollingUpdate"]).unwrap_or(&Value::Null);
            rolling_update(rolling, &at.child("rollingUpdate"), &mut errors);
        }
        other => errors.push(FieldError::not_supported(
            at.child("type"),
            other,
            &["Recreate", "RollingUpdate"],
        )),
    }
    errors
}

/// A number of Pods or a percentage of them, and not a standstill.
fn rolling_update(rolling: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut zero = 0;
    for field in ["maxUnavailable", "maxSurge"] {
        let value = rolling.at(&[field]).cloned().unwrap_or(json!(0));
        let of_all = field == "maxUnavailable";
        let number = workload::int_or_percent(&value, of_all, &at.child(field), errors);
        zero += usize::from(number == Some(0));
    }
    if zero == 2 {
        let value = rolling.at(&["maxUnavailable"]).cloned().unwrap_or(json!(0));
        errors.push(FieldError::invalid(
            at.child("maxUnavailable"),
            value,
            "may not be 0 when `maxSurge` is 0",
        ));
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let (deployment, desired) = workload::read(object);
    let count = |field| workload::count(&deployment, field);
    let mut cells = vec![
        object.meta.name.as_str().into(),
        format!("{}/{desired}", count("readyReplicas")).into(),
        count("updatedReplicas").into(),
        count("availableReplicas").into(),
        object_age(object, now),
    ];
    cells.extend(workload::wide_cells(&deployment));
    cells
}

#[cfg(test)]
mod tests;
