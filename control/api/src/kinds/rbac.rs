//! What Roles and their bindings share.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::common::{AGE, NAME, object_age, text, wide};
use crate::json::{Json, default_text, object, objects};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::status::FieldError;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Columns of both kinds of bindings.
pub(super) const BINDING_COLUMNS: &[Column] = &[
    NAME,
    text("Role", "The role that is granted."),
    AGE,
    wide("Users", "Users in the binding."),
    wide("Groups", "Groups in the binding."),
    wide("ServiceAccounts", "ServiceAccounts in the binding."),
];

/// Cells of [`BINDING_COLUMNS`].
pub(super) fn binding_cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let binding = object.value();
    let subjects = |kind: &str| -> Value {
        let names: Vec<_> = binding
            .list(&["subjects"])
            .iter()
            .filter(|s| s.text(&["kind"]) == kind)
            .map(|s| match (kind, s.text(&["namespace"])) {
                ("ServiceAccount", namespace) if !namespace.is_empty() => {
                    format!("{namespace}/{}", s.text(&["name"]))
                }
                _ => s.text(&["name"]).to_owned(),
            })
            .collect();
        names.join(", ").into()
    };
    let role = |field| binding.text(&["roleRef", field]);
    vec![
        object.meta.name.as_str().into(),
        format!("{}/{}", role("kind"), role("name")).into(),
        object_age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

/// API groups of the role and of subjects that have none.
pub(super) fn default_binding(binding: &mut Value) {
    let Some(binding) = binding.as_object_mut() else { return };
    if let Some(role) = object(binding, "roleRef") {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in objects(binding, "subjects") {
        if matches!(subject.text(&["kind"]), "User" | "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

/// Checks a binding; `roles` are the kinds of roles that it may grant.
pub(super) fn validate_binding(
    binding: &Value,
    roles: &[&str],
    namespaced: bool,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let role = |field| binding.text(&["roleRef", field]);
    let at = Path::new("roleRef");
    if role("apiGroup") != GROUP {
        errors.push(FieldError::not_supported(at.child("apiGroup"), role("apiGroup"), &[GROUP]));
    }
    if !roles.contains(&role("kind")) {
        errors.push(FieldError::not_supported(at.child("kind"), role("kind"), roles));
    }
    if role("name").is_empty() {
        errors.push(FieldError::required(at.child("name"), ""));
    } else if let Some(problem) = names::path_segment(role("name")) {
        errors.push(FieldError::invalid(at.child("name"), role("name"), problem));
    }
    let at = Path::new("subjects");
    for (i, subject) in binding.list(&["subjects"]).iter().enumerate() {
        let at = at.index(i);
        let of = |field| subject.text(&[field]);
        if of("name").is_empty() {
            errors.push(FieldError::required(at.child("name"), ""));
        }
        match of("kind") {
            "ServiceAccount" => {
                if !of("name").is_empty()
                    && let Some(problem) = names::subdomain(of("name"))
                {
                    errors.push(FieldError::invalid(at.child("name"), of("name"), problem));
                }
                if !of("apiGroup").is_empty() {
                    errors.push(FieldError::not_supported(
                        at.child("apiGroup"),
                        of("apiGroup"),
                        &[""],
                    ));
                }
                if of("namespace").is_empty() && !namespaced {
                    errors.push(FieldError::required(at.child("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if of("apiGroup") != GROUP {
                    errors.push(FieldError::not_supported(
                        at.child("apiGroup"),
                        of("apiGroup"),
                        &[GROUP],
                    ));
                }
            }
            kind => errors.push(FieldError::not_supported(
                at.child("kind"),
                kind,
                &["ServiceAccount", "User", "Group"],
            )),
        }
    }
    errors
}

/// What is granted never changes; who it is granted to may.
pub(super) fn validate_binding_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let of = |binding: &Value| {
        ["apiGroup", "kind", "name"].map(|f| binding.text(&["roleRef", f]).to_owned())
    };
    if of(new) == of(old) {
        return Vec::new();
    }
    let role = new.get("roleRef").cloned().unwrap_or_default();
    vec![FieldError::invalid("roleRef", role, "cannot change roleRef")]
}

/// Checks the rules of a role. Only a ClusterRole may have rules for URLs.
pub(super) fn validate_rules(role: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("rules");
    for (i, rule) in role.list(&["rules"]).iter().enumerate() {
        let at = at.index(i);
        let empty = |field| rule.list(&[field]).is_empty();
        if empty("verbs") {
            errors.push(FieldError::required(
                at.child("verbs"),
                "verbs must contain at least one value",
            ));
        }
        if !empty("nonResourceURLs") {
            let urls = rule.get("nonResourceURLs").cloned().unwrap_or_default();
            if namespaced {
                errors.push(FieldError::invalid(
                    at.child("nonResourceURLs"),
                    urls.clone(),
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                errors.push(FieldError::invalid(
                    at.child("nonResourceURLs"),
                    urls,
                    "rules cannot apply to both regular resources and non-resource URLs",
                ));
            }
            continue;
        }
        if empty("apiGroups") {
            errors.push(FieldError::required(
                at.child("apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if empty("resources") {
            errors.push(FieldError::required(
                at.child("resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
    errors
}
