//! What workloads (Deployment, ReplicaSet) share: a selector, a Pod template, replicas.

use serde_json::Value;

use super::Column;
use super::common::{container_cells, format_selector, wide};
use super::pod::{defaults, validate as pods};
use crate::json::{Fields, Json, object, set_default};
use crate::meta::validate_labels;
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::selector::label_selector_matches;
use crate::status::FieldError;

/// The columns that `-o wide` adds.
pub(super) const WIDE: [Column; 3] = [
    wide("Containers", "Names of each container in the template."),
    wide("Images", "Images referenced by each container in the template."),
    wide("Selector", "Label selector for pods."),
];

/// The cells of [`WIDE`].
pub(super) fn wide_cells(workload: &Value) -> [Value; 3] {
    let [names, images] = container_cells(workload.at(&["spec", "template", "spec"]));
    [names, images, format_selector(workload.at(&["spec", "selector"])).into()]
}

/// Defaults of replicas and template.
pub(super) fn default_spec(workload: &mut Value) -> Option<&mut Fields> {
    let spec = default_template(workload)?;
    set_default(spec, "replicas", || 1);
    Some(spec)
}

/// Defaults of the template alone.
pub(super) fn default_template(workload: &mut Value) -> Option<&mut Fields> {
    let spec = object(workload.as_object_mut()?, "spec")?;
    if let Some(template) = object(spec, "template") {
        defaults::template(template);
    }
    Some(spec)
}

/// A count in `status`, absent reads as none.
pub(super) fn count(workload: &Value, field: &str) -> i64 {
    workload.int(&["status", field]).unwrap_or(0)
}

/// The tree of a workload and the replicas it wants.
pub(super) fn read(object: &Object) -> (Value, i64) {
    let workload = object.value();
    let desired = workload.int(&["spec", "replicas"]).unwrap_or(0);
    (workload, desired)
}

/// Checks replicas, selector and template; `kind` is for messages.
pub(super) fn validate(workload: &Value, kind: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = workload.at(&["spec"]).unwrap_or(&Value::Null);
    for field in ["replicas", "minReadySeconds"] {
        not_negative(spec, field, &at, &mut errors);
    }
    let labels = spec.at(&["template", "metadata", "labels"]);
    match spec.at(&["selector"]) {
        None => {
            errors.push(FieldError::required(at.child("selector"), ""));
            errors.push(mismatch(labels));
        }
        Some(selector) => {
            let before = errors.len();
            validate_selector(selector, &at.child("selector"), &mut errors);
            if errors.len() > before {
                // No use in matching with it.
            } else if selector.map(&["matchLabels"]).is_none_or(|l| l.is_empty())
                && selector.list(&["matchExpressions"]).is_empty()
            {
                errors.push(FieldError::invalid(
                    at.child("selector"),
                    selector.clone(),
                    format!("empty selector is invalid for {kind}"),
                ));
            } else if !label_selector_matches(Some(selector), labels) {
                errors.push(mismatch(labels));
            }
        }
    }
    match spec.at(&["template"]) {
        Some(template) => pods::template(template, &at.child("template"), &mut errors),
        None => errors.push(FieldError::required(at.child("template"), "")),
    }
    errors
}

/// Pods made from the template would not be the workload's own.
pub(super) fn mismatch(labels: Option<&Value>) -> FieldError {
    FieldError::invalid(
        "spec.template.metadata.labels",
        labels.cloned().unwrap_or_else(|| serde_json::json!({})),
        "`selector` does not match template `labels`",
    )
}

/// Which Pods belong to a workload never changes.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let of = |workload: &Value| workload.at(&["spec", "selector"]).cloned().unwrap_or_default();
    if of(new) == of(old) {
        return Vec::new();
    }
    vec![FieldError::immutable("spec.selector", of(new))]
}

/// Checks a `metav1.LabelSelector`.
pub(super) fn validate_selector(selector: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(validate_labels(selector.at(&["matchLabels"]), &at.child("matchLabels")));
    let at = at.child("matchExpressions");
    for (i, expression) in selector.list(&["matchExpressions"]).iter().enumerate() {
        let at = at.index(i);
        let key = expression.text(&["key"]);
        if let Some(problem) = names::qualified(key) {
            errors.push(FieldError::invalid(at.child("key"), key, problem));
        }
        let none = expression.list(&["values"]).is_empty();
        match expression.text(&["operator"]) {
            "In" | "NotIn" if none => errors.push(FieldError::required(
                at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !none => errors.push(FieldError::forbidden(
                at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                at.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
    }
}

/// Checks a number or a percentage, none of it below zero and, `of_all`, not more than all; what it says, if it says
/// something.
pub(super) fn int_or_percent(
    value: &Value,
    of_all: bool,
    at: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> Option<i64> {
    let number = match value {
        Value::String(text) => {
            match text.strip_suffix('%').filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
                Some(digits) if !digits.is_empty() => digits.parse().unwrap_or(i64::MAX),
                _ => {
                    errors.push(FieldError::invalid(
                        at,
                        value.clone(),
                        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                    ));
                    return None;
                }
            }
        }
        number => number.as_i64().unwrap_or(0),
    };
    if number < 0 {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(at, value.clone(), why));
    } else if value.is_string() && number > 100 && of_all {
        errors.push(FieldError::invalid(at, value.clone(), "must not be greater than 100%"));
    }
    Some(number)
}

/// A number that may be absent, but not below zero.
pub(super) fn not_negative(spec: &Value, field: &str, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(number) = spec.int(&[field])
        && number < 0
    {
        errors.push(FieldError::invalid(
            at.child(field),
            number,
            "must be greater than or equal to 0",
        ));
    }
}
