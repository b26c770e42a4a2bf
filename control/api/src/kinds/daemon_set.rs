//! DaemonSet.

use serde_json::{Map, json};

use super::common::{
    AGE, NAME, format_labels, integer, object_age, prepare_with_labels, text,
};
use super::workload::{self, WIDE};
use super::*;
use crate::json::{Json, default_text, object, object_or_new, set_default};
use crate::path::Path;

/// `daemonsets.apps`.
pub static KIND: Kind = Kind {
    group: "apps",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    resource: "daemonsets.apps",
    short_names: &["ds"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default,
    prepare,
    validate,
    validate_update: workload::validate_update,
    warnings: warnings::workload,
    columns: &[
        NAME,
        integer("Desired", "How many nodes should run its pod."),
        integer("Current", "How many nodes that should run its pod have one."),
        integer("Ready", "How many of these pods are ready."),
        integer("Up-to-date", "How many of these pods have the current template."),
        integer("Available", "How many of these pods have been ready for minReadySeconds."),
        text("Node Selector", "Labels of the nodes that run its pod."),
        AGE,
        WIDE[0],
        WIDE[1],
        WIDE[2],
    ],
    cells,
    ..Kind::BASE
};

/// Counts the templates that there were, as old clients knew them.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn default(daemon_set: &mut Value) {
    let Some(spec) = workload::default_template(daemon_set) else { return };
    set_default(spec, "revisionHistoryLimit", || 10);
    let Some(strategy) = object_or_new(spec, "updateStrategy") else { return };
    default_text(strategy, "type", "RollingUpdate");
    if strategy.text(&["type"]) == "RollingUpdate" {
        set_default(strategy, "rollingUpdate", Map::new);
        if let Some(rolling) = object(strategy, "rollingUpdate") {
            set_default(rolling, "maxUnavailable", || 1);
            set_default(rolling, "maxSurge", || 0);
        }
    }
}

fn prepare(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            prepare_with_labels(Prepare::Create(new));
            set_generation(new, 1);
        }
        Prepare::Update { new, old } => {
            prepare_with_labels(Prepare::Update { new, old });
            let annotation = old.text(&["metadata", "annotations", TEMPLATE_GENERATION]);
            let known = annotation.parse().unwrap_or(1);
            let template = |d: &Value| d.at(&["spec", "template"]).cloned();
            set_generation(new, known + i64::from(template(new) != template(old)));
        }
        status => prepare_with_labels(status),
    }
}

fn set_generation(daemon_set: &mut Value, generation: i64) {
    let annotations = daemon_set
        .as_object_mut()
        .and_then(|d| object_or_new(d, "metadata"))
        .and_then(|m| object_or_new(m, "annotations"));
    if let Some(annotations) = annotations {
        annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
    }
}

fn validate(daemon_set: &Value) -> Vec<FieldError> {
    let mut errors = workload::validate(daemon_set, "daemonset");
    let spec = daemon_set.at(&["spec"]).unwrap_or(&Value::Null);
    let at = Path::new("spec");
    workload::not_negative(spec, "revisionHistoryLimit", &at, &mut errors);
    let at = at.child("updateStrategy");
    match spec.text(&["updateStrategy", "type"]) {
        "OnDelete" => {}
        "RollingUpdate" => match spec.at(&["updateStrategy", "rollingUpdate"]) {
            Some(rolling) => rolling_update(rolling, &at.child("rollingUpdate"), &mut errors),
            None => errors.push(FieldError::required(at.child("rollingUpdate"), "")),
        },
        other => errors.push(FieldError::not_supported(
            at.child("type"),
            other,
            &["RollingUpdate", "OnDelete"],
        )),
    }
    errors
}

/// Either fewer Pods or more of them while they are updated: exactly one.
fn rolling_update(rolling: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut number = |field: &str| {
        let value = rolling.at(&[field]).cloned().unwrap_or(json!(0));
        workload::int_or_percent(&value, true, &at.child(field), errors)
    };
    let (unavailable, surge) = (number("maxUnavailable"), number("maxSurge"));
    match (unavailable, surge) {
        (Some(0), Some(0)) => errors.push(FieldError::required(
            at.child("maxUnavailable"),
            "cannot be 0 when maxSurge is 0",
        )),
        (Some(unavailable), Some(surge)) if unavailable != 0 && surge != 0 => {
            errors.push(FieldError::invalid(
                at.child("maxSurge"),
                rolling["maxSurge"].clone(),
                "may not be set when maxUnavailable is non-zero",
            ));
        }
        _ => {}
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let daemon_set = object.value();
    let count = |field| workload::count(&daemon_set, field).into();
    let selector = daemon_set.at(&["spec", "template", "spec", "nodeSelector"]);
    let mut cells = vec![
        object.meta.name.as_str().into(),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        format_labels(selector).into(),
        object_age(object, now),
    ];
    cells.extend(workload::wide_cells(&daemon_set));
    cells
}
