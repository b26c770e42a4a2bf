//! What the two kinds of webhook configurations share (`pkg/apis/admissionregistration` upstream).

use super::common::{AGE, NAME, integer, object_age};
use super::*;
use crate::json::{Fields, Json, default_text, object, object_or_new, objects, set_default};
use crate::names;
use crate::path::Path;

pub(super) const BASE: Kind = Kind {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    generation: Generation::Spec,
    default: |configuration| {
        let Some(configuration) = configuration.as_object_mut() else { return };
        // Only the one kind calls again.
        let again = configuration.text(&["kind"]) == "MutatingWebhookConfiguration";
        for webhook in objects(configuration, "webhooks") {
            fill_in(webhook, again);
        }
    },
    validate,
    columns: &[
        NAME,
        integer(
            "Webhooks",
            "Webhooks indicates the number of webhooks registered in this configuration",
        ),
        AGE,
    ],
    cells: |object, now| {
        vec![
            object.meta.name.as_str().into(),
            object.value().list(&["webhooks"]).len().into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

fn fill_in(webhook: &mut Fields, again: bool) {
    default_text(webhook, "failurePolicy", "Fail");
    default_text(webhook, "matchPolicy", "Equivalent");
    set_default(webhook, "timeoutSeconds", || 10);
    object_or_new(webhook, "namespaceSelector");
    object_or_new(webhook, "objectSelector");
    if again {
        default_text(webhook, "reinvocationPolicy", "Never");
    }
    if let Some(service) = object(webhook, "clientConfig").and_then(|c| object(c, "service")) {
        set_default(service, "port", || 443);
    }
    for rule in objects(webhook, "rules") {
        default_text(rule, "scope", "*");
    }
}

fn validate(configuration: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("webhooks");
    let mut seen = Vec::new();
    for (i, webhook) in configuration.list(&["webhooks"]).iter().enumerate() {
        let at = at.index(i);
        validate_webhook(webhook, &at, &mut errors);
        let name = webhook.text(&["name"]);
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(at.child("name"), name));
        }
        seen.push(name);
    }
    errors
}

fn validate_webhook(webhook: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let name = webhook.text(&["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(at.child("name"), ""));
    } else if let Some(problem) = names::subdomain(name) {
        errors.push(FieldError::invalid(at.child("name"), name, problem));
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(at.child("name"), name, why));
    }
    for (i, rule) in webhook.list(&["rules"]).iter().enumerate() {
        validate_rule(rule, &at.child("rules").index(i), errors);
    }
    let mut one_of = |field: &str, supported: &[&str]| {
        let value = webhook.text(&[field]);
        if !value.is_empty() && !supported.contains(&value) {
            errors.push(FieldError::not_supported(at.child(field), value, supported));
        }
    };
    one_of("failurePolicy", &["Fail", "Ignore"]);
    one_of("matchPolicy", &["Equivalent", "Exact"]);
    one_of("reinvocationPolicy", &["IfNeeded", "Never"]);
    one_of("sideEffects", &["None", "NoneOnDryRun"]);
    if webhook.text(&["sideEffects"]).is_empty() {
        let why = "must specify one of None, NoneOnDryRun";
        errors.push(FieldError::required(at.child("sideEffects"), why));
    }
    if let Some(seconds) = webhook.int(&["timeoutSeconds"])
        && !(1..=30).contains(&seconds)
    {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(at.child("timeoutSeconds"), seconds, why));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = webhook.at(&[field]) {
            workload::validate_selector(selector, &at.child(field), errors);
        }
    }
    let config = webhook.at(&["clientConfig"]).cloned().unwrap_or_default();
    validate_client(&config, &at.child("clientConfig"), errors);
    validate_reviews(webhook, &at.child("admissionReviewVersions"), errors);
    policy::validate_conditions(webhook, &at.child("matchConditions"), errors);
}

fn validate_reviews(webhook: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let versions = webhook.list(&["admissionReviewVersions"]);
    if versions.is_empty() {
        let why = format!("must specify one of {}", REVIEWS.join(", "));
        errors.push(FieldError::required(at, why));
        return;
    }
    let mut seen = Vec::new();
    for (i, version) in versions.iter().filter_map(Value::as_str).enumerate() {
        if let Some(problem) = names::label_1035(version) {
            errors.push(FieldError::invalid(at.index(i), version, problem));
        }
        if seen.contains(&version) {
            errors.push(FieldError::invalid(at.index(i), version, "duplicate version"));
        }
        seen.push(version);
    }
    if !seen.iter().any(|version| REVIEWS.contains(version)) {
        let why = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(FieldError::invalid(at, Value::from(versions.to_vec()), why));
    }
}

/// A client of a webhook.
fn validate_client(config: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let (url, service) = (config.at(&["url"]), config.at(&["service"]));
    if url.is_some() == service.is_some() {
        errors.push(FieldError::required(at, "exactly one of url or service is required"));
        return;
    }
    if url.is_some() {
        validate_url(config.text(&["url"]), &at.child("url"), errors);
    }
    let Some(service) = service else { return };
    let at = at.child("service");
    for (field, what) in
        [("name", "service name is required"), ("namespace", "service namespace is required")]
    {
        if service.text(&[field]).is_empty() {
            errors.push(FieldError::required(at.child(field), what));
        }
    }
    if let Some(problem) = names::port_number(service.int(&["port"]).unwrap_or(0)) {
        let why = format!("port is not valid: {problem}");
        errors.push(FieldError::invalid(
            at.child("port"),
            service.int(&["port"]).unwrap_or(0),
            why,
        ));
    }
    let path = service.text(&["path"]);
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        let why = "segment[0] may not be empty";
        errors.push(FieldError::invalid(at.child("path"), path, why));
    } else if !path.starts_with('/') {
        let why = "must start with a '/'";
        errors.push(FieldError::invalid(at.child("path"), path, why));
    } else {
        let path_given = path;
        let steps = path[1..].strip_suffix('/').unwrap_or(&path[1..]);
        for (i, step) in steps.split('/').enumerate() {
            if step.is_empty() {
                let why = format!("segment[{i}] may not be empty");
                errors.push(FieldError::invalid(at.child("path"), path_given, why));
            } else if let Some(problem) = names::subdomain(step) {
                let why = format!("segment[{i}]: {problem}");
                errors.push(FieldError::invalid(at.child("path"), path_given, why));
            }
        }
    }
}

fn validate_url(url: &str, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut wrong = |value: &str, why: &str| {
        errors.push(FieldError::invalid(at, value, format!("{why}{FORM}")));
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        wrong(scheme, "'https' is the only allowed URL scheme");
    }
    let (host, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |end| rest.split_at(end));
    let (user, host) = host.split_once('@').map_or((None, host), |(user, host)| (Some(user), host));
    if host.is_empty() || scheme.is_empty() {
        wrong("", "host must be specified");
    }
    if let Some(user) = user {
        wrong(user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = path.split_once('#') {
        wrong(fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = path.split('#').next().unwrap_or_default().split_once('?') {
        wrong(query, "query parameters are not permitted in the URL");
    }
}

/// Checks `admissionregistration/v1 RuleWithOperations`.
pub(super) fn validate_rule(rule: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (field, what) in
        [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
    {
        let values = rule.list(&[field]);
        if values.is_empty() {
            errors.push(FieldError::required(at.child(field), ""));
        }
        if values.len() > 1 && values.iter().any(|value| value == "*") {
            let why = format!("if '*' is present, must not specify other {what}");
            errors.push(FieldError::invalid(at.child(field), values.to_vec(), why));
        }
    }
    for (i, operation) in rule.list(&["operations"]).iter().enumerate() {
        if !OPERATIONS.iter().any(|known| operation == known) {
            let at = at.child("operations");
            errors.push(FieldError::not_supported(at.index(i), operation.clone(), &OPERATIONS));
        }
    }
    for (i, version) in rule.list(&["apiVersions"]).iter().enumerate() {
        if version == "" {
            errors.push(FieldError::required(at.child("apiVersions").index(i), ""));
        }
    }
    validate_resources(rule.list(&["resources"]), &at.child("resources"), errors);
    let scope = rule.text(&["scope"]);
    let scopes = ["*", "Cluster", "Namespaced"];
    if !scope.is_empty() && !scopes.contains(&scope) {
        errors.push(FieldError::not_supported(at.child("scope"), scope, &scopes));
    }
}

fn validate_resources(resources: &[Value], at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if resources.is_empty() {
        errors.push(FieldError::required(at, ""));
    }
    let (mut all_subresources, mut of_all_resources) = (Vec::new(), Vec::new());
    let mut plain = false;
    let texts = || resources.iter().filter_map(Value::as_str);
    for (i, resource) in texts().enumerate() {
        if resource.is_empty() {
            errors.push(FieldError::required(at.index(i), ""));
            continue;
        }
        let Some((of, sub)) = resource.split_once('/') else {
            plain |= resource != "*";
            continue;
        };
        if all_subresources.contains(&of) {
            let why = format!("if '{of}/*' is present, must not specify {resource}");
            errors.push(FieldError::invalid(at.index(i), resource, why));
        }
        if of_all_resources.contains(&sub) {
            let why = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.push(FieldError::invalid(at.index(i), resource, why));
        }
        if sub == "*" {
            all_subresources.push(of);
        }
        if of == "*" {
            of_all_resources.push(sub);
        }
    }
    if resources.len() > 1 && texts().any(|resource| resource == "*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(at, resources.to_vec(), why));
    }
    if plain && texts().any(|resource| resource == "*") {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(at, resources.to_vec(), why));
    }
}
