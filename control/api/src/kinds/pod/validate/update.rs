//! What may change of a Pod once it exists: very little of its spec (`ValidatePodUpdate` upstream).

use serde_json::Value;

use super::Errors;
use crate::json::{Fields, Json};
use crate::path::Path;
use crate::status::FieldError;

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a change of a Pod's spec.
pub(in crate::kinds) fn pod(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let empty = Value::Null;
    let (new, old) = (new.at(&["spec"]).unwrap_or(&empty), old.at(&["spec"]).unwrap_or(&empty));
    let at = Path::new("spec");
    for (list, what) in [("containers", "containers"), ("initContainers", "init containers")] {
        if new.list(&[list]).len() != old.list(&[list]).len() {
            errors.push(FieldError::forbidden(
                at.child(list),
                format!("pod updates may not add or remove {what}"),
            ));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    deadline(new, old, &at, &mut errors);
    tolerations(new, old, &at, &mut errors);
    gates(new, old, &at, &mut errors);

    let mut changed = Vec::new();
    differences(new, old, &at, &mut changed);
    changed.retain(|path| !is_allowed(path, new, old));
    if !changed.is_empty() {
        errors.push(FieldError::forbidden(at, format!("{ALLOWED}\nchanged: {}", changed.join(", "))));
    }
    errors
}

fn is_allowed(path: &str, new: &Value, old: &Value) -> bool {
    // Checked on their own.
    let apart = ["spec.tolerations", "spec.schedulingGates"];
    if path == "spec.activeDeadlineSeconds" || apart.iter().any(|start| path.starts_with(start)) {
        return true;
    }
    // Where it may run can be narrowed as long as nobody has looked for a node.
    if !old.list(&["schedulingGates"]).is_empty() {
        let selector = |spec: &Value| spec.map(&["nodeSelector"]).cloned().unwrap_or_default();
        let now = selector(new);
        if path.starts_with("spec.nodeSelector")
            && selector(old).iter().all(|(key, value)| now.get(key) == Some(value))
        {
            return true;
        }
        if path.starts_with("spec.affinity")
            && is_empty(old.at(&["affinity"]))
            && new.map(&["affinity"]).is_some_and(|new| new.keys().all(|key| key == "nodeAffinity"))
        {
            return true;
        }
    }
    if path == "spec.terminationGracePeriodSeconds" {
        let seconds = |spec: &Value| spec.int(&["terminationGracePeriodSeconds"]);
        return seconds(old).is_some_and(|s| s < 0) && seconds(new) == Some(1);
    }
    path.strip_suffix("].image").is_some_and(|rest| {
        ["spec.containers[", "spec.initContainers["].iter().any(|list| {
            rest.strip_prefix(list).is_some_and(|i| i.bytes().all(|b| b.is_ascii_digit()))
        })
    })
}

/// A deadline may be set or come earlier.
fn deadline(new: &Value, old: &Value, at: &Path<'_>, errors: &mut Errors) {
    let Some(was) = old.int(&["activeDeadlineSeconds"]) else { return };
    let at = at.child("activeDeadlineSeconds");
    match new.int(&["activeDeadlineSeconds"]) {
        None => errors.push(FieldError::invalid(
            at,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        Some(is) if is > was => errors.push(FieldError::invalid(
            at,
            is,
            "must be less than or equal to previous value",
        )),
        Some(_) => {}
    }
}

/// Tolerations may be added, and how long one holds may change; none goes.
fn tolerations(new: &Value, old: &Value, at: &Path<'_>, errors: &mut Errors) {
    let key = |t: &Value| ["key", "operator", "value", "effect"].map(|f| t.text(&[f]).to_owned());
    let now: Vec<_> = new.list(&["tolerations"]).iter().map(key).collect();
    if old.list(&["tolerations"]).iter().any(|t| !now.contains(&key(t))) {
        errors.push(FieldError::forbidden(
            at.child("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
}

/// Gates may be taken away.
fn gates(new: &Value, old: &Value, at: &Path<'_>, errors: &mut Errors) {
    let list = at.child("schedulingGates");
    let known = old.list(&["schedulingGates"]);
    for (i, gate) in new.list(&["schedulingGates"]).iter().enumerate() {
        let name = gate.text(&["name"]);
        if !known.iter().any(|gate| gate.text(&["name"]) == name) {
            errors.push(FieldError::forbidden(
                list.index(i).child("name"),
                format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            ));
        }
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(_) => false,
    }
}

/// The paths at which two trees differ, where absent and empty are the same.
fn differences(new: &Value, old: &Value, at: &Path<'_>, changed: &mut Vec<String>) {
    if new == old {
        return;
    }
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            let none = Value::Null;
            let get = |fields: &'_ Fields, name: &str| fields.get(name).cloned();
            for name in new.keys().chain(old.keys().filter(|k| !new.contains_key(*k))) {
                let (is, was) = (get(new, name), get(old, name));
                if is == was || (is_empty(is.as_ref()) && is_empty(was.as_ref())) {
                    continue;
                }
                differences(
                    is.as_ref().unwrap_or(&none),
                    was.as_ref().unwrap_or(&none),
                    &at.child(name),
                    changed,
                );
            }
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            for (i, (is, was)) in new.iter().zip(old).enumerate() {
                differences(is, was, &at.index(i), changed);
            }
        }
        _ => changed.push(at.to_string()),
    }
}
