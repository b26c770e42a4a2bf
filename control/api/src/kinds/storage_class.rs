//! StorageClass.

use std::collections::BTreeSet;

use super::common::{AGE, NAME, object_age, text};
use super::*;
use crate::json::{Json, default_text};
use crate::names;
use crate::path::Path;
use crate::status::FieldProblem;

/// The annotations that make a class the one of claims that name none: of today, and from before it was stable.
pub const DEFAULT_ANNOTATIONS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// Most parameters that a class may have.
const MAX_PARAMETERS: usize = 512;
/// Most bytes that they may have together.
const MAX_PARAMETER_BYTES: usize = 256 * 1024;

/// `storageclasses.storage.k8s.io`.
pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    resource: "storageclasses.storage.k8s.io",
    short_names: &["sc"],
    namespaced: false,
    default: |class| {
        if let Some(class) = class.as_object_mut() {
            default_text(class, "reclaimPolicy", "Delete");
            default_text(class, "volumeBindingMode", "Immediate");
        }
    },
    validate,
    validate_update: |new, old| {
        let mut errors = unchanging(new, old, &["parameters", "provisioner", "reclaimPolicy"]);
        let mode = new.text(&["volumeBindingMode"]);
        if mode != old.text(&["volumeBindingMode"]) {
            errors.push(FieldError::immutable("volumeBindingMode", mode));
        }
        errors
    },
    columns: &[
        NAME,
        text("Provisioner", "Who makes the volumes of this class."),
        text("ReclaimPolicy", "What becomes of a volume once its claim is gone."),
        text("VolumeBindingMode", "When volumes are bound to claims and made."),
        text("AllowVolumeExpansion", "Whether volumes of this class may grow."),
        AGE,
    ],
    cells: |object, now| {
        let class = object.value();
        let annotations = &object.meta.annotations;
        let default = DEFAULT_ANNOTATIONS
            .iter()
            .any(|a| annotations.get(*a).is_some_and(|v| v == "true"));
        let name = &object.meta.name;
        vec![
            if default { format!("{name} (default)") } else { name.clone() }.into(),
            class.text(&["provisioner"]).into(),
            common::or(class.text(&["reclaimPolicy"]), "Delete").into(),
            common::or(class.text(&["volumeBindingMode"]), "Immediate").into(),
            class.flag(&["allowVolumeExpansion"]).into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

fn validate(class: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    provisioner(class, "provisioner", &mut errors);
    parameters(class, &mut errors);
    for (field, allowed) in [
        ("reclaimPolicy", ["Delete", "Retain"]),
        ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"]),
    ] {
        let value = class.text(&[field]);
        if !allowed.contains(&value) {
            errors.push(FieldError::not_supported(field, value, &allowed));
        }
    }
    let at = Path::new("allowedTopologies");
    let mut seen = Vec::new();
    for (i, term) in class.list(&["allowedTopologies"]).iter().enumerate() {
        let at = at.index(i);
        let at = at.child("matchLabelExpressions");
        let known = topology(term.list(&["matchLabelExpressions"]), &at, &mut errors);
        if seen.contains(&known) {
            errors.push(FieldError::duplicate(at, ""));
        }
        seen.push(known);
    }
    errors
}

/// One term of places: which values of which labels of nodes.
fn topology<'a>(
    expressions: &'a [Value],
    at: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> BTreeSet<(&'a str, BTreeSet<&'a str>)> {
    let mut keys = BTreeSet::new();
    let mut term = BTreeSet::new();
    for (i, expression) in expressions.iter().enumerate() {
        let at = at.index(i);
        let key = expression.text(&["key"]);
        let values = expression.list(&["values"]);
        if values.is_empty() {
            errors.push(FieldError::required(at.child("values"), ""));
        }
        if let Some(problem) = names::qualified(key) {
            errors.push(FieldError::invalid(at.child("key"), key, problem));
        }
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(at.child("key"), key));
        }
        let mut unique = BTreeSet::new();
        let list = at.child("values");
        for (i, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            if !unique.insert(value) {
                errors.push(FieldError::duplicate(list.index(i), value));
            }
        }
        term.insert((key, unique));
    }
    term
}

/// Checks who makes or changes volumes.
pub(super) fn provisioner(class: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let provisioner = class.text(&[field]).to_lowercase();
    if provisioner.is_empty() {
        errors.push(FieldError::required(field, ""));
    } else if let Some(problem) = names::qualified(&provisioner) {
        errors.push(FieldError::invalid(field, provisioner, problem));
    }
}

/// Checks how many parameters there are, and how large.
pub(super) fn parameters(class: &Value, errors: &mut Vec<FieldError>) {
    let mut too_long = |limit: usize| {
        errors.push(FieldError {
            problem: FieldProblem::TooLong,
            path: "parameters".to_owned(),
            detail: format!("may not be more than {limit} bytes"),
        });
    };
    let count = class.pairs(&["parameters"]).count();
    let size = |(key, value): (&str, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if count > MAX_PARAMETERS {
        too_long(MAX_PARAMETERS);
    } else if class.pairs(&["parameters"]).map(size).sum::<usize>() > MAX_PARAMETER_BYTES {
        too_long(MAX_PARAMETER_BYTES);
    }
    if class.has(&["parameters", ""]) {
        errors.push(FieldError::invalid("parameters", "", "field can not be empty."));
    }
}

/// Fields at the top that are given once.
pub(super) fn unchanging(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    let nothing = |value: &&Value| !value.is_null() && value.as_object().is_none_or(|m| !m.is_empty());
    fields
        .iter()
        .filter(|f| new.get(**f).filter(nothing) != old.get(**f).filter(nothing))
        .map(|f| FieldError::forbidden(*f, format!("updates to {f} are forbidden.")))
        .collect()
}
