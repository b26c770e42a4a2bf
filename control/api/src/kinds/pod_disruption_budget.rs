//! PodDisruptionBudget.

use super::common::{AGE, NAME, integer, object_age, prepare_with_labels, text};
use super::*;
use crate::json::Json;
use crate::path::Path;

/// `poddisruptionbudgets.policy`.
pub static KIND: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    resource: "poddisruptionbudgets.policy",
    short_names: &["pdb"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    prepare: prepare_with_labels,
    validate,
    columns: &[
        NAME,
        text("Min Available", "The minimum number of pods that must be available."),
        text("Max Unavailable", "The maximum number of pods that may be unavailable."),
        integer("Allowed Disruptions", "How many pods may be evicted now."),
        AGE,
    ],
    cells: |object, now| {
        let budget = object.value();
        let number = |field| match budget.at(&["spec", field]) {
            Some(Value::String(percent)) => percent.clone(),
            Some(number) => number.to_string(),
            None => "N/A".to_owned(),
        };
        vec![
            object.meta.name.as_str().into(),
            number("minAvailable").into(),
            number("maxUnavailable").into(),
            workload::count(&budget, "disruptionsAllowed").into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

fn validate(budget: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = budget.at(&["spec"]).unwrap_or(&Value::Null);
    if spec.has(&["minAvailable"]) && spec.has(&["maxUnavailable"]) {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(at, spec.clone(), why));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if let Some(value) = spec.at(&[field]) {
            workload::int_or_percent(value, true, &at.child(field), &mut errors);
        }
    }
    if let Some(selector) = spec.at(&["selector"]) {
        workload::validate_selector(selector, &at.child("selector"), &mut errors);
    }
    let policy = spec.text(&["unhealthyPodEvictionPolicy"]);
    if !matches!(policy, "" | "AlwaysAllow" | "IfHealthyBudget") {
        errors.push(FieldError::not_supported(
            at.child("unhealthyPodEvictionPolicy"),
            policy,
            &["AlwaysAllow", "IfHealthyBudget"],
        ));
    }
    errors
}
