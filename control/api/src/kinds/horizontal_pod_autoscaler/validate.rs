//! What an autoscaler may say (`pkg/apis/autoscaling/validation`).

use serde_json::Value;

use super::super::workload::validate_selector;
use crate::json::Json;
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;
use crate::status::FieldError;

/// The longest period of a policy, in seconds.
const LONGEST_PERIOD: i64 = 1800;
/// The longest stabilization, in seconds.
const LONGEST_WINDOW: i64 = 3600;

pub(super) fn validate(autoscaler: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = autoscaler.at(&["spec"]).unwrap_or(&Value::Null);
    let (least, most) = (spec.int(&["minReplicas"]), spec.int(&["maxReplicas"]).unwrap_or(0));
    if most < 1 {
        errors.push(FieldError::invalid(at.child("maxReplicas"), most, "must be greater than 0"));
    }
    if least.is_some_and(|least| most < least) {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(at.child("maxReplicas"), most, why));
    }
    let target = spec.at(&["scaleTargetRef"]).unwrap_or(&Value::Null);
    reference(target, &at.child("scaleTargetRef"), &mut errors);
    metrics(spec, least, &at.child("metrics"), &mut errors);
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = spec.at(&["behavior", direction]) {
            let at = at.child("behavior");
            scaling_rules(rules, &at.child(direction), &mut errors);
        }
    }
    errors
}

pub(super) fn validate_create(autoscaler: &Value) -> Vec<FieldError> {
    least(autoscaler, 1)
}

/// Who scales to nothing already may go on.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    least(new, i64::from(old.int(&["spec", "minReplicas"]) != Some(0)))
}

fn least(autoscaler: &Value, bound: i64) -> Vec<FieldError> {
    match autoscaler.int(&["spec", "minReplicas"]) {
        Some(least) if least < bound => {
            let why = format!("must be greater than or equal to {bound}");
            vec![FieldError::invalid("spec.minReplicas", least, why)]
        }
        _ => Vec::new(),
    }
}

fn reference(reference: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    for field in ["kind", "name"] {
        path_segment(reference.text(&[field]), &at.child(field), "", errors);
    }
}

/// A name that may be part of a path, and must be there.
fn path_segment(name: &str, at: &Path<'_>, missing: &str, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(FieldError::required(*at, missing));
    } else if let Some(problem) = names::path_segment(name) {
        errors.push(FieldError::invalid(*at, name, problem));
    }
}

fn metrics(spec: &Value, least: Option<i64>, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let all = spec.list(&["metrics"]);
    for (n, metric) in all.iter().enumerate() {
        metric_spec(metric, &at.index(n), errors);
    }
    let wakes = |metric: &Value| matches!(metric.text(&["type"]), "Object" | "External");
    if least == Some(0) && !all.iter().any(wakes) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(*at, why));
    }
}

/// The field that holds what a metric of each type is about.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn metric_spec(metric: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let kind = metric.text(&["type"]);
    let expected = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if kind.is_empty() {
        let why = "must specify a metric source type";
        errors.push(FieldError::required(at.child("type"), why));
    }
    if expected.is_none() {
        let all = ["ContainerResource", "External", "Object", "Pods", "Resource"];
        errors.push(FieldError::not_supported(at.child("type"), kind, &all));
    }
    let mut present = SOURCES.iter().filter(|(_, field)| metric.has(&[field])).map(|(_, f)| *f);
    let first = present.next();
    if let Some(field) = first {
        source(field, &metric[field], &at.child(field), errors);
    }
    if let Some(field) = expected.filter(|field| !metric.has(&[field])) {
        let why = "must populate information for the given metric source";
        errors.push(FieldError::required(at.child(field), why));
    }
    let rest: Vec<&str> = first.into_iter().chain(present).collect();
    if rest.len() != 1 {
        for field in rest.into_iter().filter(|field| Some(*field) != expected) {
            let why = "must populate the given metric source only";
            errors.push(FieldError::forbidden(at.child(field), why));
        }
    }
}

fn source(field: &str, source: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let target = source.at(&["target"]).unwrap_or(&Value::Null);
    let at_target = at.child("target");
    let has = |field| target.has(&[field]);
    if field == "object" {
        let described = source.at(&["describedObject"]).unwrap_or(&Value::Null);
        reference(described, &at.child("describedObject"), errors);
    }
    match field {
        "object" | "external" | "pods" => {
            let at = at.child("metric");
            let name = source.text(&["metric", "name"]);
            path_segment(name, &at.child("name"), "must specify a metric name", errors);
            if let Some(selector) = source.at(&["metric", "selector"]) {
                validate_selector(selector, &at.child("selector"), errors);
            }
        }
        _ if source.text(&["name"]).is_empty() => {
            errors.push(FieldError::required(at.child("name"), "must specify a resource name"));
        }
        _ => {}
    }
    if field == "containerResource" {
        let container = source.text(&["container"]);
        if container.is_empty() {
            let why = "must specify a container";
            errors.push(FieldError::required(at.child("container"), why));
        } else if let Some(problem) = names::label_1123(container) {
            errors.push(FieldError::invalid(at.child("container"), container, problem));
        }
    }
    metric_target(target, &at_target, errors);
    let missing = |field: &'static str, why: &str| FieldError::required(at_target.child(field), why);
    let both = |field: &'static str, why: &str| FieldError::forbidden(at_target.child(field), why);
    match field {
        "object" if !has("value") && !has("averageValue") => {
            errors.push(missing("averageValue", "must set either a target value or averageValue"));
        }
        "external" if !has("value") && !has("averageValue") => errors.push(missing(
            "averageValue",
            "must set either a target value for metric or a per-pod target",
        )),
        "external" if has("value") && has("averageValue") => errors.push(both(
            "value",
            "may not set both a target value for metric and a per-pod target",
        )),
        "pods" if !has("averageValue") => {
            errors.push(missing("averageValue", "must specify a positive target averageValue"));
        }
        "resource" | "containerResource" => match (has("averageUtilization"), has("averageValue")) {
            (false, false) => errors.push(missing(
                "averageUtilization",
                "must set either a target raw value or a target utilization",
            )),
            (true, true) => errors.push(both(
                "averageValue",
                "may not set both a target raw value and a target utilization",
            )),
            _ => {}
        },
        _ => {}
    }
}

fn metric_target(target: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let kind = target.text(&["type"]);
    if kind.is_empty() {
        errors.push(FieldError::required(at.child("type"), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(at.child("type"), kind, why));
    }
    for field in ["value", "averageValue"] {
        let Some(value) = target.at(&[field]) else { continue };
        if Quantity::of(value).is_some_and(|quantity| quantity <= Quantity::ZERO) {
            errors.push(FieldError::invalid(at.child(field), value.clone(), "must be positive"));
        }
    }
    if let Some(percent) = target.int(&["averageUtilization"]).filter(|percent| *percent < 1) {
        let why = "must be greater than 0";
        errors.push(FieldError::invalid(at.child("averageUtilization"), percent, why));
    }
}

fn scaling_rules(rules: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let field = at.child("stabilizationWindowSeconds");
    match rules.int(&["stabilizationWindowSeconds"]) {
        Some(window) if window < 0 => {
            errors.push(FieldError::invalid(
                field,
                window,
                "must be greater than or equal to zero",
            ));
        }
        Some(window) if window > LONGEST_WINDOW => {
            let why = format!("must be less than or equal to {LONGEST_WINDOW}");
            errors.push(FieldError::invalid(field, window, why));
        }
        _ => {}
    }
    let select = rules.text(&["selectPolicy"]);
    if rules.has(&["selectPolicy"]) && !matches!(select, "Max" | "Min" | "Disabled") {
        let all = ["Disabled", "Max", "Min"];
        errors.push(FieldError::not_supported(at.child("selectPolicy"), select, &all));
    }
    if let Some(tolerance) = rules.at(&["tolerance"])
        && Quantity::of(tolerance).is_some_and(|quantity| quantity.is_negative())
    {
        let why = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(at.child("tolerance"), tolerance.clone(), why));
    }
    let at = at.child("policies");
    let policies = rules.list(&["policies"]);
    if policies.is_empty() {
        errors.push(FieldError::required(at, "must specify at least one Policy"));
    }
    for (n, policy) in policies.iter().enumerate() {
        scaling_policy(policy, &at.index(n), errors);
    }
}

fn scaling_policy(policy: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let kind = policy.text(&["type"]);
    if !matches!(kind, "Pods" | "Percent") {
        errors.push(FieldError::not_supported(at.child("type"), kind, &["Percent", "Pods"]));
    }
    for field in ["value", "periodSeconds"] {
        let number = policy.int(&[field]).unwrap_or(0);
        if number <= 0 {
            errors.push(FieldError::invalid(at.child(field), number, "must be greater than zero"));
        } else if field == "periodSeconds" && number > LONGEST_PERIOD {
            let why = format!("must be less than or equal to {LONGEST_PERIOD}");
            errors.push(FieldError::invalid(at.child(field), number, why));
        }
    }
}
