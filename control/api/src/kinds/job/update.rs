//! What of a Job may change: little, for its Pods are alike; and what its status may not go back on.

use serde_json::Value;

use super::is;
use crate::json::Json;
use crate::status::FieldError;

/// Checks a change of a Job or of its status.
pub(super) fn job(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let of = |job: &Value, field: &str| job.at(&["spec", field]).cloned().unwrap_or_default();
    let mut fields = vec![
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    if new.text(&["spec", "completionMode"]) == "Indexed" {
        // Elastic: as many as run at a time.
        let (completions, parallelism) = (of(new, "completions"), of(new, "parallelism"));
        if completions != of(old, "completions")
            && !completions.is_null()
            && completions != parallelism
        {
            errors.push(FieldError::invalid(
                "spec.completions",
                completions,
                "can only be modified in tandem with spec.parallelism",
            ));
        }
    } else {
        fields.insert(0, "completions");
    }
    let mut template = of(old, "template");
    if old.flag(&["spec", "suspend"]) && !old.has(&["status", "startTime"]) {
        adopt_scheduling(&mut template, &of(new, "template"));
    }
    if of(new, "template") != template {
        errors.push(FieldError::immutable("spec.template", of(new, "template")));
    }
    for field in fields {
        if of(new, field) != of(old, field) {
            errors.push(FieldError::immutable(format!("spec.{field}"), of(new, field)));
        }
    }
    if new.at(&["status"]) != old.at(&["status"]) {
        status(new, old, &mut errors);
    }
    errors
}

/// Where the Pods of a Job that never started will run may still be decided by whoever queues Jobs.
fn adopt_scheduling(template: &mut Value, new: &Value) {
    for path in [
        &["metadata", "annotations"][..],
        &["metadata", "labels"],
        &["spec", "nodeSelector"],
        &["spec", "tolerations"],
        &["spec", "schedulingGates"],
    ] {
        let [parent, field] = path else { continue };
        put(&mut template[*parent], field, new.at(path));
    }
    let affinity = new.at(&["spec", "affinity"]);
    let node = new.at(&["spec", "affinity", "nodeAffinity"]);
    let mut known = template["spec"]["affinity"].take();
    if affinity.is_some() && known.is_null() {
        known = Value::Object(serde_json::Map::new());
    }
    put(&mut known, "nodeAffinity", node);
    let nothing = affinity.is_none() && known.as_object().is_none_or(|known| known.is_empty());
    put(&mut template["spec"], "affinity", Some(&known).filter(|k| !nothing && !k.is_null()));
}

fn put(parent: &mut Value, field: &str, value: Option<&Value>) {
    let Some(parent) = parent.as_object_mut() else { return };
    match value {
        Some(value) => parent.insert(field.to_owned(), value.clone()),
        None => parent.remove(field),
    };
}

/// How a Job ended, and what it counted, is final.
fn status(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let conditions = "status.conditions";
    for (one, other) in [
        ("Complete", "Failed"),
        ("Complete", "FailureTarget"),
        ("SuccessCriteriaMet", "Failed"),
        ("SuccessCriteriaMet", "FailureTarget"),
    ] {
        if is(new, one) && is(new, other) {
            let why = format!("cannot set {one}=True and {other}=true conditions");
            errors.push(FieldError::invalid_as_such(conditions, why));
        }
    }
    for (end, before) in [("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")] {
        if is(new, end) && !is(new, before) {
            let why =
                format!("cannot set {end}=True condition without the {before}=true condition");
            errors.push(FieldError::invalid_as_such(conditions, why));
        }
    }
    for kind in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if is(old, kind) && !is(new, kind) {
            let why = format!("cannot disable the terminal {kind}=True condition");
            errors.push(FieldError::invalid_as_such(conditions, why));
        }
    }
    let finished = is(new, "Complete") || is(new, "Failed");
    let count = |job: &Value, field: &str| job.int(&["status", field]).unwrap_or(0);
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        if count(new, field) < 0 {
            errors.push(FieldError::invalid(
                format!("status.{field}"),
                count(new, field),
                "must be greater than or equal to 0",
            ));
        }
    }
    if count(new, "failed") < count(old, "failed") {
        let why = "cannot decrease the failed counter";
        errors.push(FieldError::invalid("status.failed", count(new, "failed"), why));
    }
    if count(new, "succeeded") < count(old, "succeeded")
        && new.text(&["spec", "completionMode"]) != "Indexed"
    {
        let why = "cannot decrease the succeeded counter";
        errors.push(FieldError::invalid("status.succeeded", count(new, "succeeded"), why));
    }
    for field in ["active", "terminating"] {
        if finished && count(new, field) > 0 {
            errors.push(FieldError::invalid(
                format!("status.{field}"),
                count(new, field),
                format!("{field}>0 is invalid for finished job"),
            ));
        }
    }
    if count(new, "ready") > count(new, "active") {
        errors.push(FieldError::invalid(
            "status.ready",
            count(new, "ready"),
            "cannot set more ready pods than active",
        ));
    }
    if finished && !new.has(&["status", "startTime"]) {
        errors
            .push(FieldError::required("status.startTime", "startTime is required for finished job"));
    }
    match new.at(&["status", "completionTime"]) {
        None if is(new, "Complete") => errors.push(FieldError::required(
            "status.completionTime",
            "completionTime is required for Complete jobs",
        )),
        Some(time) if !is(new, "Complete") => errors.push(FieldError::invalid(
            "status.completionTime",
            time.clone(),
            "cannot set completionTime when there is no Complete=True condition",
        )),
        _ => {}
    }
}
