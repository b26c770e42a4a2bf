//! Ephemeral containers: they come later, and only through a subresource of their own; none goes or changes again
//! (`validateEphemeralContainers`, `ValidatePodEphemeralContainersUpdate` upstream).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Errors, container};
use crate::json::Json;
use crate::path::Path;
use crate::status::{FieldError, FieldProblem};

const CANNOT: &str = "cannot be set for an Ephemeral Container";
/// What belongs to containers that the Pod is about.
const DISALLOWED: &[&str] = &[
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
];

/// Checks those of a Pod. `seen` are the names of all its other containers.
pub(super) fn containers<'a>(
    spec: &'a Value,
    seen: &mut HashSet<&'a str>,
    context: &container::Context<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let targets: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| spec.list(&[list]))
        .map(|container| container.text(&["name"]))
        .collect();
    let at = at.child("ephemeralContainers");
    for (i, item) in spec.list(&["ephemeralContainers"]).iter().enumerate() {
        let at = at.index(i);
        container::container(item, false, context, &at, errors);
        let name = item.text(&["name"]);
        if !name.is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(at.child("name"), name));
        }
        let target = item.text(&["targetContainerName"]);
        if !target.is_empty() && !targets.contains(&target) {
            errors.push(FieldError {
                problem: FieldProblem::NotFound(target.into()),
                path: at.child("targetContainerName").into(),
                detail: String::new(),
            });
        }
        for field in DISALLOWED {
            if item.get(*field).is_some_and(is_set) {
                errors.push(FieldError::forbidden(at.child(field), CANNOT));
            }
        }
        for (n, mount) in item.list(&["volumeMounts"]).iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.text(&[field]).is_empty() {
                    let at = at.child("volumeMounts");
                    let at = at.index(n);
                    errors.push(FieldError::forbidden(at.child(field), CANNOT));
                }
            }
        }
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => fields.values().any(is_set),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Checks a new Pod.
pub(in crate::kinds) fn on_create(pod: &Value) -> Errors {
    if pod.list(&["spec", "ephemeralContainers"]).is_empty() {
        return Vec::new();
    }
    let at = Path::new("spec");
    vec![FieldError::forbidden(at.child("ephemeralContainers"), "cannot be set on create")]
}

/// Checks a change through the subresource, which changes nothing else.
pub(in crate::kinds) fn update(new: &Value, old: &Value) -> Errors {
    let of = |pod: &'_ Value| -> HashMap<String, Value> {
        let list = pod.list(&["spec", "ephemeralContainers"]).iter();
        list.map(|c| (c.text(&["name"]).to_owned(), c.clone())).collect()
    };
    let (now, mut errors) = (of(new), Vec::new());
    let at = Path::new("spec");
    for before in old.list(&["spec", "ephemeralContainers"]) {
        let name = before.text(&["name"]);
        let what = match now.get(name) {
            None => "removed",
            Some(after) if after != before => "changed",
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(
            at.child("ephemeralContainers"),
            format!("existing ephemeral containers \"{name}\" may not be {what}\n"),
        ));
    }
    errors
}
