//! ResourceQuota.

use super::common::{AGE, NAME, object_age, prepare_with_labels, text};
use super::*;
use crate::json::{Json, object};
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;

/// `resourcequotas`.
pub static KIND: Kind = Kind {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    resource: "resourcequotas",
    short_names: &["quota"],
    subresources: &[Subresource::Status],
    default: |quota| {
        let Some(quota) = quota.as_object_mut() else { return };
        for (part, field) in [("spec", "hard"), ("status", "hard"), ("status", "used")] {
            if let Some(list) = object(quota, part).and_then(|part| object(part, field)) {
                pod::defaults::quantities(list);
            }
        }
    },
    prepare: prepare_with_labels,
    validate,
    validate_update: |new, old| {
        let scopes = |quota: &Value| {
            let mut list = quota.list(&["spec", "scopes"]).to_vec();
            list.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            list
        };
        let mut errors = Vec::new();
        if scopes(new) != scopes(old) {
            errors.push(FieldError::immutable("spec.scopes", scopes(new)));
        }
        errors
    },
    columns: &[
        NAME,
        text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
        text("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
        AGE,
    ],
    cells: |object, now| {
        let quota = object.value();
        let mut hard: Vec<_> = quota.pairs(&["status", "hard"]).collect();
        hard.sort_by_key(|(name, _)| *name);
        let list = |limits: bool| {
            let mut parts = Vec::new();
            for (name, hard) in hard.iter().filter(|(name, _)| name.starts_with("limits.") == limits) {
                let used = quota.text(&["status", "used", name]);
                let used = if used.is_empty() { "0" } else { used };
                parts.push(format!("{name}: {used}/{}", hard.as_str().unwrap_or_default()));
            }
            parts.join(", ")
        };
        vec![
            object.meta.name.as_str().into(),
            list(false).into(),
            list(true).into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

/// What can be limited, beside counts of any kind, huge pages and extended resources.
const STANDARD: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// Those of which there is no part.
const WHOLE: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// Those that Pods use by how much they ask for.
const COMPUTE: [&str; 9] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn validate(quota: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for part in ["spec", "status"] {
        for field in ["hard", "used"] {
            let at = Path::new(part);
            let at = at.child(field);
            for (name, value) in quota.pairs(&[part, field]) {
                validate_resource(name, value, &at.key(name), &mut errors);
            }
        }
    }
    let hard: Vec<&str> = quota.pairs(&["spec", "hard"]).map(|(name, _)| name).collect();
    let spec = Path::new("spec");
    let scopes = quota.list(&["spec", "scopes"]);
    let plain: Vec<&str> = scopes.iter().filter_map(Value::as_str).collect();
    validate_scopes(&plain, scopes, &hard, &spec.child("scopes"), &mut errors);
    let at = spec.child("scopeSelector");
    let at = at.child("matchExpressions");
    let expressions = quota.list(&["spec", "scopeSelector", "matchExpressions"]);
    let named: Vec<&str> = expressions.iter().map(|e| e.text(&["scopeName"])).collect();
    let list: Vec<Value> = named.iter().copied().map(Value::from).collect();
    validate_scopes(&named, &list, &hard, &at, &mut errors);
    for (i, expression) in expressions.iter().enumerate() {
        validate_expression(expression, &at.index(i), &mut errors);
    }
    errors
}

fn validate_resource(name: &str, value: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(problem) = names::qualified(name) {
        errors.push(FieldError::invalid(at, name, problem));
    }
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !STANDARD.contains(&name) && !huge {
        errors.push(FieldError::invalid(at, name, "must be a standard resource for quota"));
    }
    let Some(quantity) = Quantity::of(value) else { return };
    if quantity.is_negative() {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(at, value.clone(), why));
    }
    if !quantity.is_whole() && (WHOLE.contains(&name) || name.contains('/')) {
        errors.push(FieldError::invalid(at, value.clone(), "must be an integer"));
    }
}

fn validate_scopes(
    scopes: &[&str],
    said: &[Value],
    hard: &[&str],
    at: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let mut refuse = |why: &str| errors.push(FieldError::invalid(at, said.to_vec(), why));
    for scope in scopes {
        if !SCOPES.contains(scope) {
            refuse("unsupported scope");
            continue;
        }
        let tracks = |name: &&str| match *scope {
            "BestEffort" => *name == "pods",
            "VolumeAttributesClass" => {
                *name == "persistentvolumeclaims" || *name == "requests.storage"
            }
            _ => {
                *name == "pods"
                    || COMPUTE.contains(name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || (name.starts_with("requests.") && name.contains('/'))
            }
        };
        if !hard.iter().all(tracks) {
            refuse("unsupported scope applied to resource");
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            refuse("conflicting scopes");
        }
    }
}

fn validate_expression(expression: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let scope = expression.text(&["scopeName"]);
    let operator = expression.text(&["operator"]);
    let values = expression.list(&["values"]);
    if !matches!(scope, "PriorityClass" | "VolumeAttributesClass")
        && SCOPES.contains(&scope)
        && operator != "Exists"
    {
        let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                   ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                   ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.push(FieldError::invalid(at.child("operator"), operator, why));
    }
    match operator {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            at.child("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::invalid(
            at.child("values"),
            values.to_vec(),
            "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(FieldError::invalid(
            at.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
}
