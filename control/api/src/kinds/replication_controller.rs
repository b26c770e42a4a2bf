//! ReplicationController: a ReplicaSet whose selector is a map of labels.

use super::common::{
    AGE, NAME, container_cells, fields, format_labels, integer, object_age, prepare_with_labels,
};
use super::workload::{self, WIDE};
use super::*;
use crate::json::{Json, object_or_new};
use crate::path::Path;

/// `replicationcontrollers`.
pub static KIND: Kind = Kind {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    resource: "replicationcontrollers",
    short_names: &["rc"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    generation: Generation::Spec,
    orphans_dependents: true,
    default,
    prepare: prepare_with_labels,
    validate,
    warnings: warnings::workload,
    columns: &[
        NAME,
        integer("Desired", "Number of desired pods."),
        integer("Current", "Number of pods there are."),
        integer("Ready", "Number of pods that are ready."),
        AGE,
        WIDE[0],
        WIDE[1],
        WIDE[2],
    ],
    cells: |object, now| {
        let (controller, desired) = workload::read(object);
        let [names, images] = container_cells(controller.at(&["spec", "template", "spec"]));
        vec![
            object.meta.name.as_str().into(),
            desired.into(),
            workload::count(&controller, "replicas").into(),
            workload::count(&controller, "readyReplicas").into(),
            object_age(object, now),
            names,
            images,
            format_labels(controller.at(&["spec", "selector"])).into(),
        ]
    },
    fields: fields!["status.replicas"],
    ..Kind::BASE
};

/// Labels and selector, where there are none, are those of the template.
fn default(controller: &mut Value) {
    let labels = controller.at(&["spec", "template", "metadata", "labels"]).cloned();
    let none =
        |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(|m| m.is_empty());
    let unlabelled = none(controller.at(&["metadata", "labels"]));
    let Some(spec) = workload::default_spec(controller) else { return };
    let Some(labels) = labels else { return };
    if none(spec.at(&["selector"])) {
        spec.insert("selector".into(), labels.clone());
    }
    if unlabelled
        && let Some(metadata) =
            controller.as_object_mut().and_then(|c| object_or_new(c, "metadata"))
    {
        metadata.insert("labels".into(), labels);
    }
}

fn validate(controller: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = controller.at(&["spec"]).unwrap_or(&Value::Null);
    workload::not_negative(spec, "minReadySeconds", &at, &mut errors);
    let selector = spec.map(&["selector"]).filter(|selector| !selector.is_empty());
    if selector.is_none() {
        errors.push(FieldError::required(at.child("selector"), ""));
    }
    workload::not_negative(spec, "replicas", &at, &mut errors);
    match spec.at(&["template"]) {
        None => errors.push(FieldError::required(at.child("template"), "")),
        Some(template) => {
            let labels = template.at(&["metadata", "labels"]);
            let has = |(key, value): (&String, &Value)| {
                labels.and_then(|labels| labels.get(key)) == Some(value)
            };
            if selector.is_some_and(|selector| !selector.iter().all(has)) {
                errors.push(workload::mismatch(labels));
            }
            pod::validate::template(template, &at.child("template"), &mut errors);
        }
    }
    errors
}
