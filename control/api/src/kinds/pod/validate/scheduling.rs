//! What a Pod says about the nodes it may run on: selectors, affinity, tolerations, spreading.

use std::collections::HashSet;

use serde_json::Value;

use super::Errors;
use crate::json::Json;
use crate::meta::validate_labels;
use crate::names;
use crate::path::Path;
use crate::status::FieldError;

pub(super) fn scheduling(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    errors.extend(validate_labels(spec.at(&["nodeSelector"]), &at.child("nodeSelector")));
    let list = at.child("tolerations");
    for (i, item) in spec.list(&["tolerations"]).iter().enumerate() {
        toleration(item, &list.index(i), errors);
    }
    if let Some(affinity) = spec.at(&["affinity"]) {
        let at = at.child("affinity");
        node_affinity(affinity, &at, errors);
        for kind in ["podAffinity", "podAntiAffinity"] {
            if let Some(terms) = affinity.at(&[kind]) {
                pod_affinity(terms, &at.child(kind), errors);
            }
        }
    }
    let list = at.child("topologySpreadConstraints");
    let mut seen = HashSet::new();
    for (i, item) in spec.list(&["topologySpreadConstraints"]).iter().enumerate() {
        let at = list.index(i);
        let skew = item.int(&["maxSkew"]).unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(at.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, when) = (item.text(&["topologyKey"]), item.text(&["whenUnsatisfiable"]));
        if key.is_empty() {
            errors.push(FieldError::required(at.child("topologyKey"), "can not be empty"));
        }
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            errors.push(FieldError::not_supported(
                at.child("whenUnsatisfiable"),
                when,
                &["DoNotSchedule", "ScheduleAnyway"],
            ));
        }
        if !seen.insert((key, when)) {
            errors.push(FieldError::duplicate(at, format!("{{{key}, {when}}}")));
        }
    }
}

fn toleration(toleration: &Value, at: &Path<'_>, errors: &mut Errors) {
    let of = |field| toleration.text(&[field]);
    if !of("key").is_empty()
        && let Some(problem) = names::qualified(of("key"))
    {
        errors.push(FieldError::invalid(at.child("key"), of("key"), problem));
    }
    if of("key").is_empty() && of("operator") != "Exists" {
        errors.push(FieldError::invalid(
            at.child("operator"),
            of("operator"),
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ));
    }
    if toleration.has(&["tolerationSeconds"]) && of("effect") != "NoExecute" {
        errors.push(FieldError::invalid(
            at.child("effect"),
            of("effect"),
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        ));
    }
    match of("operator") {
        "" | "Equal" => {
            if let Some(problem) = names::label_value(of("value")) {
                errors.push(FieldError::invalid(at.child("operator"), of("value"), problem));
            }
        }
        "Exists" => {
            if !of("value").is_empty() {
                errors.push(FieldError::invalid(
                    at.child("operator"),
                    toleration.clone(),
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
        }
        "Gt" | "Lt" => {
            if of("value").parse::<i64>().is_err() {
                errors.push(FieldError::invalid(
                    at.child("value"),
                    of("value"),
                    "must be an integer when `operator` is 'Gt' or 'Lt'",
                ));
            }
        }
        other => errors.push(FieldError::not_supported(
            at.child("operator"),
            other,
            &["Equal", "Exists", "Gt", "Lt"],
        )),
    }
    if !matches!(of("effect"), "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        errors.push(FieldError::not_supported(
            at.child("effect"),
            of("effect"),
            &["NoExecute", "NoSchedule", "PreferNoSchedule"],
        ));
    }
}

fn node_affinity(affinity: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("nodeAffinity");
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    if let Some(selector) = affinity.at(&["nodeAffinity", required]) {
        node_selector(selector, &at.child(required), errors);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let at = at.child(preferred);
    for (i, item) in affinity.list(&["nodeAffinity", preferred]).iter().enumerate() {
        let at = at.index(i);
        weight(item, &at, errors);
        if let Some(preference) = item.at(&["preference"]) {
            term(preference, &at.child("preference"), errors);
        }
    }
}

/// Checks a `NodeSelector`.
pub(in crate::kinds) fn node_selector(selector: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("nodeSelectorTerms");
    let terms = selector.list(&["nodeSelectorTerms"]);
    if terms.is_empty() {
        errors.push(FieldError::required(at, "must have at least one node selector term"));
    }
    for (i, item) in terms.iter().enumerate() {
        term(item, &at.index(i), errors);
    }
}

/// Which other Pods to be near to, or far from, and by which label of nodes distance is told.
fn pod_affinity(affinity: &Value, at: &Path<'_>, errors: &mut Errors) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let list = at.child(required);
    for (i, item) in affinity.list(&[required]).iter().enumerate() {
        topology_key(item, &list.index(i), errors);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let list = at.child(preferred);
    for (i, item) in affinity.list(&[preferred]).iter().enumerate() {
        let at = list.index(i);
        weight(item, &at, errors);
        let term = item.at(&["podAffinityTerm"]).unwrap_or(&Value::Null);
        topology_key(term, &at.child("podAffinityTerm"), errors);
    }
}

fn topology_key(term: &Value, at: &Path<'_>, errors: &mut Errors) {
    let key = term.text(&["topologyKey"]);
    if key.is_empty() {
        errors.push(FieldError::required(at.child("topologyKey"), "can not be empty"));
    } else if let Some(problem) = names::qualified(key) {
        errors.push(FieldError::invalid(at.child("topologyKey"), key, problem));
    }
}

fn weight(preferred: &Value, at: &Path<'_>, errors: &mut Errors) {
    let weight = preferred.int(&["weight"]).unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(at.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn term(term: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("matchExpressions");
    for (i, expression) in term.list(&["matchExpressions"]).iter().enumerate() {
        let at = at.index(i);
        let values = expression.list(&["values"]).len();
        let key = expression.text(&["key"]);
        if let Some(problem) = names::qualified(key) {
            errors.push(FieldError::invalid(at.child("key"), key, problem));
        }
        match expression.text(&["operator"]) {
            "In" | "NotIn" if values == 0 => errors.push(FieldError::required(
                at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if values > 0 => errors.push(FieldError::forbidden(
                at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Gt" | "Lt" if values != 1 => errors.push(FieldError::required(
                at.child("values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.push(FieldError::invalid(
                at.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
    }
}
