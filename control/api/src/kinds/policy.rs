//! What policies in CEL and their bindings share (`pkg/apis/admissionregistration` upstream). Whether expressions compile
//! is not checked here but by the server, which has the compiler.

use super::common::{AGE, NAME, integer, object_age, text};
use super::*;
use crate::json::{Fields, Json, default_text, object, object_or_new, objects};
use crate::names;
use crate::path::Path;
use crate::status::FieldProblem;

/// Words of CEL that are no names in it.
pub const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
/// Conditions that one policy may have.
const MOST_CONDITIONS: usize = 64;

/// What the kinds of policies have in common.
pub(super) const POLICY: Kind = Kind {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    generation: Generation::Spec,
    default: |policy| {
        let Some(spec) = policy.as_object_mut().and_then(|p| object(p, "spec")) else { return };
        default_text(spec, "failurePolicy", "Fail");
        if let Some(constraints) = object(spec, "matchConstraints") {
            fill_in_match(constraints);
        }
    },
    cells: |object, now| {
        let policy = object.value();
        let spec = |field: &str| policy.list(&["spec", field]).len();
        let kind = match policy.at(&["spec", "paramKind"]) {
            Some(kind) => format!("{}/{}", kind.text(&["apiVersion"]), kind.text(&["kind"])),
            None => "<unset>".into(),
        };
        // A policy has one or the other.
        let parts = spec("validations") + spec("mutations");
        let name = object.meta.name.as_str().into();
        vec![name, parts.into(), kind.into(), object_age(object, now)]
    },
    ..Kind::BASE
};

/// What their bindings have in common.
pub(super) const BINDING: Kind = Kind {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    generation: Generation::Spec,
    default: |binding| {
        let Some(spec) = binding.as_object_mut().and_then(|b| object(b, "spec")) else { return };
        if let Some(resources) = object(spec, "matchResources") {
            fill_in_match(resources);
        }
    },
    columns: &[
        NAME,
        text("PolicyName", "The policy definition which the policy binding binds to"),
        text("ParamRef", "The param resource which sets the configration param"),
        AGE,
    ],
    cells: |object, now| {
        let binding = object.value();
        let param = match binding.at(&["spec", "paramRef"]) {
            None => "<unset>".to_owned(),
            Some(param) if !param.text(&["name"]).is_empty() => match param.text(&["namespace"]) {
                "" => format!("*/{}", param.text(&["name"])),
                namespace => format!("{namespace}/{}", param.text(&["name"])),
            },
            Some(_) => "<selector>".to_owned(),
        };
        vec![
            object.meta.name.as_str().into(),
            binding.text(&["spec", "policyName"]).into(),
            param.into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

pub(super) const fn columns(parts: &'static str, about: &'static str) -> [Column; 4] {
    [
        NAME,
        integer(parts, about),
        text(
            "ParamKind",
            "ParamKind specifies the kind of resources used to parameterize this policy",
        ),
        AGE,
    ]
}

fn fill_in_match(resources: &mut Fields) {
    default_text(resources, "matchPolicy", "Equivalent");
    object_or_new(resources, "namespaceSelector");
    object_or_new(resources, "objectSelector");
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in objects(resources, list) {
            default_text(rule, "scope", "*");
        }
    }
}

/// What both kinds of policies must have; `spec` is the policy's.
pub(super) fn validate_spec(spec: &Value, errors: &mut Vec<FieldError>) {
    let at = Path::new("spec");
    let at = &at;
    let failure = spec.text(&["failurePolicy"]);
    let known = ["Fail", "Ignore"];
    if failure.is_empty() {
        errors.push(FieldError::required(at.child("failurePolicy"), ""));
    } else if !known.contains(&failure) {
        errors.push(FieldError::not_supported(at.child("failurePolicy"), failure, &known));
    }
    if let Some(kind) = spec.at(&["paramKind"]) {
        validate_param_kind(kind, &at.child("paramKind"), errors);
    }
    let match_at = at.child("matchConstraints");
    match spec.at(&["matchConstraints"]) {
        None => errors.push(FieldError::required(match_at, "")),
        Some(constraints) => {
            validate_match(constraints, &match_at, errors);
            if constraints.list(&["resourceRules"]).is_empty() {
                errors.push(FieldError::required(match_at.child("resourceRules"), ""));
            }
        }
    }
    validate_conditions(spec, &at.child("matchConditions"), errors);
    for (i, variable) in spec.list(&["variables"]).iter().enumerate() {
        let at = at.child("variables");
        let at = at.index(i);
        let name = variable.text(&["name"]);
        if name.trim().is_empty() {
            errors.push(FieldError::required(at.child("name"), "name is not specified"));
        } else if !is_identifier(name) {
            let why = "name is not a valid CEL identifier";
            errors.push(FieldError::invalid(at.child("name"), name, why));
        }
        if variable.text(&["expression"]).trim().is_empty() {
            let why = "expression is not specified";
            errors.push(FieldError::required(at.child("expression"), why));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !RESERVED.contains(&name)
}

fn validate_param_kind(kind: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let given = kind.text(&["apiVersion"]);
    let version_at = at.child("apiVersion");
    let (group, version) = given.split_once('/').unwrap_or(("", given));
    if given.is_empty() {
        errors.push(FieldError::required(version_at, ""));
    } else if version.contains('/') {
        let why = format!("unexpected GroupVersion string: {given}");
        errors.push(FieldError::invalid(version_at, given, why));
    } else {
        if !group.is_empty()
            && let Some(problem) = names::subdomain(group)
        {
            errors.push(FieldError::invalid(version_at, group, problem));
        }
        if version.is_empty() {
            errors.push(FieldError::invalid(version_at, given, "version must be specified"));
        } else if let Some(problem) = names::label_1035(version) {
            errors.push(FieldError::invalid(version_at, version, problem));
        }
    }
    let name = kind.text(&["kind"]);
    if name.is_empty() {
        errors.push(FieldError::required(at.child("kind"), ""));
    } else if let Some(problem) = names::label_1035(&name.to_lowercase()) {
        let why = format!("may have mixed case, but should otherwise match: {problem}");
        errors.push(FieldError::invalid(at.child("kind"), name, why));
    }
}

/// Checks `admissionregistration/v1 MatchResources`.
pub(super) fn validate_match(resources: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let policy = resources.text(&["matchPolicy"]);
    let known = ["Equivalent", "Exact"];
    if policy.is_empty() {
        errors.push(FieldError::required(at.child("matchPolicy"), ""));
    } else if !known.contains(&policy) {
        errors.push(FieldError::not_supported(at.child("matchPolicy"), policy, &known));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        match resources.at(&[field]) {
            None => errors.push(FieldError::required(at.child(field), "")),
            Some(selector) => workload::validate_selector(selector, &at.child(field), errors),
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        let at = at.child(list);
        for (i, rule) in resources.list(&[list]).iter().enumerate() {
            let at = at.index(i);
            let mut seen = Vec::new();
            let names_at = at.child("resourceNames");
            for (i, name) in rule.list(&["resourceNames"]).iter().enumerate() {
                let name = name.as_str().unwrap_or_default();
                if let Some(problem) = names::path_segment(name) {
                    errors.push(FieldError::invalid(names_at.index(i), name, problem));
                }
                if seen.contains(&name) {
                    errors.push(FieldError::duplicate(names_at.index(i), name));
                }
                seen.push(name);
            }
            webhook::validate_rule(rule, &at, errors);
        }
    }
}

pub(super) fn validate_conditions(spec: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let conditions = spec.list(&["matchConditions"]);
    if conditions.len() > MOST_CONDITIONS {
        errors.push(FieldError {
            problem: FieldProblem::TooMany(conditions.len()),
            path: at.to_string(),
            detail: format!("must have at most {MOST_CONDITIONS} items"),
        });
    }
    let mut seen = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = at.index(i);
        if condition.text(&["expression"]).trim().is_empty() {
            errors.push(FieldError::required(at.child("expression"), ""));
        }
        let name = condition.text(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(at.child("name"), ""));
        } else if let Some(problem) = names::qualified(name) {
            errors.push(FieldError::invalid(at.child("name"), name, problem));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(at.child("name"), name));
        }
        seen.push(name);
    }
}

/// What both kinds of bindings must have.
pub(super) fn validate_binding(spec: &Value, errors: &mut Vec<FieldError>) {
    let at = Path::new("spec");
    let at = &at;
    let policy = spec.text(&["policyName"]);
    if policy.is_empty() {
        errors.push(FieldError::required(at.child("policyName"), ""));
    } else if let Some(problem) = names::subdomain(policy) {
        errors.push(FieldError::invalid(at.child("policyName"), policy, problem));
    }
    if let Some(param) = spec.at(&["paramRef"]) {
        validate_param_ref(param, &at.child("paramRef"), errors);
    }
    if let Some(resources) = spec.at(&["matchResources"]) {
        // The path is upstream's.
        validate_match(resources, &at.child("matchResouces"), errors);
    }
}

fn validate_param_ref(param: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let name = param.text(&["name"]);
    let selector = param.at(&["selector"]);
    if !name.is_empty() {
        if let Some(problem) = names::path_segment(name) {
            errors.push(FieldError::invalid(at.child("name"), name, problem));
        }
        if selector.is_some() {
            let why = "name and selector are mutually exclusive";
            errors.push(FieldError::forbidden(at.child("name"), why));
        }
    }
    match selector {
        Some(selector) => {
            workload::validate_selector(selector, &at.child("selector"), errors);
            if !name.is_empty() {
                let why = "name and selector are mutually exclusive";
                errors.push(FieldError::forbidden(at.child("selector"), why));
            }
        }
        None if name.is_empty() => {
            errors.push(FieldError::required(at, "one of name or selector must be specified"));
        }
        None => {}
    }
    let action = param.text(&["parameterNotFoundAction"]);
    let known = ["Allow", "Deny"];
    let action_at = at.child("parameterNotFoundAction");
    if action.is_empty() {
        errors.push(FieldError::required(action_at, ""));
    } else if !known.contains(&action) {
        errors.push(FieldError::not_supported(action_at, action, &["Deny", "Allow"]));
    }
}
