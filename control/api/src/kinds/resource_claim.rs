//! ResourceClaim.

use std::collections::BTreeSet;

use super::common::{AGE, NAME, object_age, prepare_with_labels, text};
use super::*;
use crate::json::{Json, object};
use crate::path::Path;

/// `resourceclaims.resource.k8s.io`.
pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaim",
    plural: "resourceclaims",
    singular: "resourceclaim",
    resource: "resourceclaims.resource.k8s.io",
    subresources: &[Subresource::Status],
    default: |claim| {
        if let Some(spec) = claim.as_object_mut().and_then(|claim| object(claim, "spec")) {
            devices::default_claim(spec);
        }
    },
    prepare: prepare_with_labels,
    validate,
    validate_update,
    columns: &[NAME, text("State", "Whether it has its devices, and whether they are in use."), AGE],
    cells: |object, now| {
        let claim = object.value();
        let allocated = claim.has(&["status", "allocation"]);
        let states = [
            ("deleted", object.is_deleting()),
            ("pending", !allocated && !object.is_deleting()),
            ("allocated", allocated),
            ("reserved", allocated && !claim.list(&["status", "reservedFor"]).is_empty()),
        ];
        let states: Vec<_> = states.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        vec![object.meta.name.as_str().into(), states.join(",").into(), object_age(object, now)]
    },
    ..Kind::BASE
};

fn validate(claim: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = claim.at(&["spec"]).unwrap_or(&Value::Null);
    devices::claim(spec, &Path::new("spec"), &mut errors);
    let list = Path::new("status.reservedFor");
    let consumers = claim.list(&["status", "reservedFor"]);
    let mut seen = BTreeSet::new();
    for (i, consumer) in consumers.iter().enumerate() {
        let at = list.index(i);
        for field in ["resource", "name", "uid"] {
            if consumer.text(&[field]).is_empty() {
                errors.push(FieldError::required(at.child(field), ""));
            }
        }
        if !seen.insert(consumer.text(&["uid"])) {
            errors.push(FieldError::duplicate(at, consumer.text(&["uid"])));
        }
    }
    if !consumers.is_empty() && !claim.has(&["status", "allocation"]) {
        let why = "may not be specified when `allocated` is not set";
        errors.push(FieldError::forbidden(list, why));
    }
    errors
}

/// A claim asks once; and keeps what it was given until it is given back whole.
fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = unchanging_spec(new, old);
    let allocation = |claim: &Value| claim.at(&["status", "allocation"]).cloned();
    if let (Some(is), Some(was)) = (allocation(new), allocation(old))
        && is != was
    {
        errors.push(FieldError::immutable("status.allocation", is));
    }
    let reserved = |claim: &Value| claim.list(&["status", "reservedFor"]).to_vec();
    let known = reserved(old);
    if new.has(&["metadata", "deletionTimestamp"])
        && reserved(new).iter().any(|consumer| !known.contains(consumer))
    {
        errors.push(FieldError::forbidden(
            "status.reservedFor",
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
        ));
    }
    errors
}

/// Checks that the spec is as it was.
pub(super) fn unchanging_spec(new: &Value, old: &Value) -> Vec<FieldError> {
    if new.at(&["spec"]) == old.at(&["spec"]) {
        return Vec::new();
    }
    vec![FieldError::immutable("spec", new.at(&["spec"]).cloned().unwrap_or_default())]
}
