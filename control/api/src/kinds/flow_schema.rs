//! FlowSchema.

use std::collections::BTreeSet;

use super::common::{AGE, NAME, integer, object_age, prepare_status, text};
use super::*;
use crate::json::{Json, default_number, object_or_new};
use crate::names;
use crate::path::Path;

/// `flowschemas.flowcontrol.apiserver.k8s.io`.
pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    resource: "flowschemas.flowcontrol.apiserver.k8s.io",
    namespaced: false,
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default: |schema| {
        if let Some(spec) = schema.as_object_mut().and_then(|s| object_or_new(s, "spec")) {
            default_number(spec, "matchingPrecedence", 1000);
        }
    },
    prepare: prepare_status,
    validate,
    columns: &[
        NAME,
        text("PriorityLevel", "The priority level of what it matches."),
        integer("MatchingPrecedence", "The lower, the earlier it is tried."),
        text("DistinguisherMethod", "What tells flows apart."),
        AGE,
        text("MissingPL", "Whether its priority level is missing."),
    ],
    cells: |object, now| {
        let schema = object.value();
        let conditions = schema.list(&["status", "conditions"]);
        let dangling = conditions.iter().find(|c| c.text(&["type"]) == "Dangling");
        let method = schema.text(&["spec", "distinguisherMethod", "type"]);
        vec![
            object.meta.name.as_str().into(),
            schema.text(&["spec", "priorityLevelConfiguration", "name"]).into(),
            schema.int(&["spec", "matchingPrecedence"]).unwrap_or(0).into(),
            common::or(method, "<none>").into(),
            object_age(object, now),
            dangling.map_or("?", |c| c.text(&["status"])).into(),
        ]
    },
    ..Kind::BASE
};

/// The last in line.
const MAX_PRECEDENCE: i64 = 10_000;
/// Verbs that rules may name, in the order of their names.
const VERBS: [&str; 9] = [
    "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch",
];

fn validate(schema: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = schema.at(&["spec"]).unwrap_or(&Value::Null);
    let name = schema.text(&["metadata", "name"]);
    let precedence = spec.int(&["matchingPrecedence"]).unwrap_or(0);
    let problem = match precedence {
        ..=0 => "must be a positive value".to_owned(),
        1 if name != "exempt" => {
            "only the schema named 'exempt' may have matchingPrecedence 1".to_owned()
        }
        n if n > MAX_PRECEDENCE => format!("must not be greater than {MAX_PRECEDENCE}"),
        _ => String::new(),
    };
    if !problem.is_empty() {
        let at = at.child("matchingPrecedence");
        errors.push(FieldError::invalid(at, precedence, problem));
    }
    if let Some(method) = spec.at(&["distinguisherMethod"])
        && !matches!(method.text(&["type"]), "ByNamespace" | "ByUser")
    {
        errors.push(FieldError::not_supported(
            at.child("distinguisherMethod").child("type"),
            method.clone(),
            &["ByNamespace", "ByUser"],
        ));
    }
    let level = spec.text(&["priorityLevelConfiguration", "name"]);
    let reference = at.child("priorityLevelConfiguration");
    let named = reference.child("name");
    if level.is_empty() {
        errors.push(FieldError::required(named, "must reference a priority level"));
    } else if let Some(problem) = names::subdomain(level) {
        errors.push(FieldError::invalid(named, level, problem));
    }
    let list = at.child("rules");
    for (i, item) in spec.list(&["rules"]).iter().enumerate() {
        rule(item, &list.index(i), &mut errors);
    }
    if let Some((_, fixed)) = flow_control::MANDATORY_SCHEMAS.iter().find(|(n, _)| *n == name)
        && *spec != fixed()
    {
        let why = format!("spec of '{name}' must equal the fixed value");
        errors.push(FieldError::invalid(at, spec.clone(), why));
    }
    conditions(schema, &mut errors);
    errors
}

/// Checks the conditions of a schema's or level's status.
pub(super) fn conditions(object: &Value, errors: &mut Vec<FieldError>) {
    let list = Path::new("status.conditions");
    let mut seen = BTreeSet::new();
    for (i, condition) in object.list(&["status", "conditions"]).iter().enumerate() {
        let at = list.index(i);
        let kind = condition.text(&["type"]);
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(at.child("type"), kind));
        }
        if kind.is_empty() {
            errors.push(FieldError::required(at.child("type"), "must not be empty"));
        }
    }
}

fn rule(rule: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let subjects = rule.list(&["subjects"]);
    let list = at.child("subjects");
    if subjects.is_empty() {
        errors.push(FieldError::required(list, "subjects must contain at least one value"));
    }
    for (i, item) in subjects.iter().enumerate() {
        subject(item, &list.index(i), errors);
    }
    let (resources, others) = (rule.list(&["resourceRules"]), rule.list(&["nonResourceRules"]));
    if resources.is_empty() && others.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(at, why));
    }
    let list = at.child("resourceRules");
    for (i, item) in resources.iter().enumerate() {
        resource_rule(item, &list.index(i), errors);
    }
    let list = at.child("nonResourceRules");
    for (i, item) in others.iter().enumerate() {
        let at = list.index(i);
        verbs(item, &at, errors);
        let what = "nonResourceURLs must contain at least one value";
        let all = some(item, "nonResourceURLs", (what, "non-resource URLs"), &at, errors);
        let list = at.child("nonResourceURLs");
        for (i, url) in all.into_iter().enumerate() {
            if let Some(problem) = url_problem(url) {
                errors.push(FieldError::invalid(list.index(i), url, problem));
            }
        }
    }
}

/// Subjects by their kinds, and the field in which each kind says more.
const SUBJECTS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(subject: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let kind = subject.text(&["kind"]);
    let Some((_, own)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        let all = ["Group", "ServiceAccount", "User"];
        errors.push(FieldError::not_supported(at.child("kind"), kind, &all));
        return;
    };
    let at_own = at.child(own);
    match subject.at(&[own]) {
        None => {
            let why = format!("{own} is required when subject kind is '{kind}'");
            errors.push(FieldError::required(at_own, why));
        }
        Some(who) => {
            let (name, named) = (who.text(&["name"]), at_own.child("name"));
            if name.is_empty() {
                errors.push(FieldError::required(named, ""));
            } else if kind == "ServiceAccount"
                && name != "*"
                && let Some(problem) = names::subdomain(name)
            {
                errors.push(FieldError::invalid(named, name, problem));
            }
            if kind == "ServiceAccount" {
                let (namespace, at) = (who.text(&["namespace"]), at_own.child("namespace"));
                if namespace.is_empty() {
                    let why = "must specify namespace for service account";
                    errors.push(FieldError::required(at, why));
                } else if let Some(problem) = names::label_1123(namespace) {
                    errors.push(FieldError::invalid(at, namespace, problem));
                }
            }
        }
    }
    for (other, field) in SUBJECTS {
        if other != kind && subject.has(&[field]) {
            let why = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.push(FieldError::forbidden(at.child(field), why));
        }
    }
}

fn resource_rule(rule: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    verbs(rule, at, errors);
    for (field, what, others) in [
        ("apiGroups", "resource rules must supply at least one api group", "api groups"),
        ("resources", "resource rules must supply at least one resource", "resources"),
    ] {
        some(rule, field, (what, others), at, errors);
    }
    if rule.flag(&["clusterScope"]) && rule.list(&["namespaces"]).is_empty() {
        return;
    }
    let what = "resource rules that are not cluster scoped must supply at least one namespace";
    let all = some(rule, "namespaces", (what, "namespaces"), at, errors);
    let list = at.child("namespaces");
    for (i, namespace) in all.into_iter().enumerate() {
        if let Some(problem) = names::label_1123(namespace) {
            let problem =
                format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
            errors.push(FieldError::invalid(list.index(i), namespace, problem));
        }
    }
}

fn verbs(rule: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let what = "verbs must contain at least one value";
    let all = some(rule, "verbs", (what, "verbs"), at, errors);
    if all.iter().any(|verb| !VERBS.contains(verb)) {
        let given = rule.list(&["verbs"]).to_vec();
        errors.push(FieldError::not_supported(at.child("verbs"), given, &VERBS));
    }
}

/// The texts of a list that must have some, and if `*` is one of them, no others; none then.
fn some<'a>(
    rule: &'a Value,
    field: &str,
    (missing, others): (&str, &str),
    at: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> Vec<&'a str> {
    let given = rule.list(&[field]);
    let all: Vec<_> = given.iter().filter_map(Value::as_str).collect();
    let at = at.child(field);
    if all.is_empty() {
        errors.push(FieldError::required(at, missing));
    }
    if !all.contains(&"*") {
        return all;
    }
    if all.len() > 1 {
        let why = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(at, given.to_vec(), why));
    }
    Vec::new()
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    if url.is_empty() {
        Some("must not be empty")
    } else if !url.starts_with('/') {
        Some("must start with slash")
    } else if url.contains(' ') {
        Some("must not contain white-space")
    } else if url.contains("//") {
        Some("must not contain double slash")
    } else if stars > 1 || (stars == 1 && !url.ends_with("/*")) {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}
