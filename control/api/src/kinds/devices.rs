//! What claims for devices, their templates and the classes of devices share (`pkg/apis/resource/validation`).
//!
//! Expressions of selectors are only checked for their length: nothing in this cluster hands out devices yet.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::csi_driver::driver_name;
use crate::json::{Fields, Json, default_number, default_text, object, objects};
use crate::names;
use crate::path::Path;
use crate::status::{FieldError, FieldProblem};

type Errors = Vec<FieldError>;

/// Most requests of a claim, constraints, configurations, selectors of a request.
const MAX_ITEMS: usize = 32;
/// Most alternatives in a request.
const MAX_ALTERNATIVES: usize = 8;
/// Most bytes of an expression, and of a driver's parameters.
const MAX_EXPRESSION: usize = 10 * 1024;

/// Defaults of a `ResourceClaimSpec`.
pub(super) fn default_claim(spec: &mut Fields) {
    let Some(devices) = object(spec, "devices") else { return };
    for request in objects(devices, "requests") {
        if let Some(exactly) = object(request, "exactly") {
            default_request(exactly);
        }
        objects(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Fields) {
    default_text(request, "allocationMode", "ExactCount");
    if request.text(&["allocationMode"]) == "ExactCount" {
        default_number(request, "count", 1);
    }
    for toleration in objects(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

/// Checks a `ResourceClaimSpec`.
pub(super) fn claim(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("devices");
    let devices = spec.at(&["devices"]).unwrap_or(&Value::Null);
    let list = at.child("requests");
    let mut requests = BTreeMap::new();
    for (i, request) in limited(devices, "requests", MAX_ITEMS, &at, errors) {
        let at = list.index(i);
        let name = request.text(&["name"]);
        label(name, &at.child("name"), errors);
        let alternatives = request.list(&["firstAvailable"]);
        let names = alternatives.iter().map(|a| a.text(&["name"])).collect::<BTreeSet<_>>();
        if requests.insert(name, names).is_some() {
            errors.push(FieldError::duplicate(at, name));
        }
        let one = "exactly one of `exactly` or `firstAvailable` is required";
        match (request.at(&["exactly"]), alternatives) {
            (None, []) => errors.push(FieldError::required(at, one)),
            (Some(exactly), []) => device_request(exactly, &at.child("exactly"), errors),
            (Some(_), _) => {
                let why = format!("{one}, but multiple fields are set");
                errors.push(FieldError::invalid(at, Value::Null, why));
            }
            (None, _) => {
                let list = at.child("firstAvailable");
                let mut seen = BTreeSet::new();
                let all = limited(request, "firstAvailable", MAX_ALTERNATIVES, &at, errors);
                for (i, alternative) in all {
                    let at = list.index(i);
                    let name = alternative.text(&["name"]);
                    label(name, &at.child("name"), errors);
                    if !seen.insert(name) {
                        errors.push(FieldError::duplicate(at, name));
                    }
                    device_request(alternative, &at, errors);
                }
            }
        }
    }
    let list = at.child("constraints");
    for (i, constraint) in limited(devices, "constraints", MAX_ITEMS, &at, errors) {
        let at = list.index(i);
        references(constraint, &requests, &at, errors);
        let attribute = |field| (field, constraint.text(&[field]));
        match [attribute("matchAttribute"), attribute("distinctAttribute")] {
            [(_, ""), (_, "")] => {
                errors.push(FieldError::required(at.child("matchAttribute"), ""));
            }
            all => {
                let given = all.iter().find(|(_, text)| !text.is_empty());
                if let Some((field, text)) = given {
                    qualified(text, &at.child(field), errors);
                }
            }
        }
    }
    let list = at.child("config");
    for (i, config) in limited(devices, "config", MAX_ITEMS, &at, errors) {
        let at = list.index(i);
        references(config, &requests, &at, errors);
        configuration(config, &at, errors);
    }
}

/// The first items of a list, as many as it may have.
fn limited<'a>(
    parent: &'a Value,
    field: &str,
    most: usize,
    at: &Path<'_>,
    errors: &mut Errors,
) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    let items = parent.list(&[field]);
    if items.len() > most {
        errors.push(FieldError {
            problem: FieldProblem::TooMany(items.len()),
            path: at.child(field).into(),
            detail: format!("must have at most {most} items"),
        });
    }
    items.iter().take(most).enumerate()
}

fn label(name: &str, at: &Path<'_>, errors: &mut Errors) {
    if let Some(problem) = names::label_1123(name) {
        errors.push(FieldError::invalid(at, name, problem));
    }
}

/// `domain/identifier`.
fn qualified(name: &str, at: &Path<'_>, errors: &mut Errors) {
    let Some((domain, id)) = name.split_once('/') else {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(at, name, why));
        return;
    };
    if let Some(problem) = names::subdomain(domain) {
        errors.push(FieldError::invalid(at, domain, problem));
    }
    let is_identifier = !id.starts_with(|c: char| c.is_ascii_digit())
        && !id.is_empty()
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_identifier {
        let why = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.push(FieldError::invalid(at, id, why));
    }
}

/// What is asked of devices, as the one choice or as one of several.
fn device_request(request: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (class, named) = (request.text(&["deviceClassName"]), at.child("deviceClassName"));
    if class.is_empty() {
        errors.push(FieldError::required(named, ""));
    } else if let Some(problem) = names::subdomain(class) {
        errors.push(FieldError::invalid(named, class, problem));
    }
    selectors(request, at, errors);
    let count = request.int(&["count"]).unwrap_or(0);
    let counted = at.child("count");
    match request.text(&["allocationMode"]) {
        "All" => {
            if count != 0 {
                let why = "must not be specified when allocationMode is 'All'";
                errors.push(FieldError::invalid(counted, count, why));
            }
        }
        "ExactCount" => {
            if count <= 0 {
                errors.push(FieldError::invalid(counted, count, "must be greater than zero"));
            }
        }
        other => {
            let all = ["All", "ExactCount"];
            errors.push(FieldError::not_supported(at.child("allocationMode"), other, &all));
        }
    }
}

/// Checks the selectors of a request or class.
pub(super) fn selectors(parent: &Value, at: &Path<'_>, errors: &mut Errors) {
    let list = at.child("selectors");
    for (i, selector) in limited(parent, "selectors", MAX_ITEMS, at, errors) {
        let at = list.index(i);
        let at = at.child("cel");
        match selector.at(&["cel"]) {
            None => errors.push(FieldError::required(at, "")),
            Some(cel) if cel.text(&["expression"]).len() > MAX_EXPRESSION => {
                errors.push(FieldError {
                    problem: FieldProblem::TooLong,
                    path: at.child("expression").into(),
                    detail: format!("may not be more than {MAX_EXPRESSION} bytes"),
                });
            }
            Some(_) => {}
        }
    }
}

/// Checks the configurations of a class.
pub(super) fn configurations(parent: &Value, at: &Path<'_>, errors: &mut Errors) {
    let list = at.child("config");
    for (i, config) in limited(parent, "config", MAX_ITEMS, at, errors) {
        configuration(config, &list.index(i), errors);
    }
}

fn configuration(config: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("opaque");
    let Some(opaque) = config.at(&["opaque"]) else {
        errors.push(FieldError::required(at, ""));
        return;
    };
    driver_name(opaque.text(&["driver"]), at.child("driver"), true, errors);
    match opaque.at(&["parameters"]) {
        None => errors.push(FieldError::required(at.child("parameters"), "")),
        Some(parameters) if !parameters.is_object() => {
            let why = "must be a valid JSON object";
            errors.push(FieldError::invalid(at.child("parameters"), "<value omitted>", why));
        }
        Some(_) => {}
    }
}

/// Requests of the claim that a part of it is about.
fn references(
    part: &Value,
    requests: &BTreeMap<&str, BTreeSet<&str>>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let list = at.child("requests");
    let mut seen = BTreeSet::new();
    for (i, name) in part.list(&["requests"]).iter().enumerate() {
        let name = name.as_str().unwrap_or("");
        let known = match name.split_once('/') {
            None => requests.contains_key(name),
            Some((request, sub)) => requests.get(request).is_some_and(|subs| subs.contains(sub)),
        };
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(list.index(i), name));
        }
        if !known {
            let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            errors.push(FieldError::invalid(list.index(i), name, why));
        }
    }
}
