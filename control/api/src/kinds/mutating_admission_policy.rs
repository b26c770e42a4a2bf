//! MutatingAdmissionPolicy. It has no status: nobody checks its expressions against the kinds that it is for.

use super::*;
use crate::json::Json;
use crate::path::Path;

/// `mutatingadmissionpolicies.admissionregistration.k8s.io`.
pub static KIND: Kind = Kind {
    kind: "MutatingAdmissionPolicy",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    resource: "mutatingadmissionpolicies.admissionregistration.k8s.io",
    validate,
    columns: &policy::columns(
        "Mutations",
        "Mutation indicates the number of mutations rules defined in this configuration",
    ),
    ..policy::POLICY
};

/// How a mutation may be written, and the field that it is written in.
const PATCHES: [(&str, &str); 2] =
    [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];

fn validate(policy: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = policy.at(&["spec"]).cloned().unwrap_or_default();
    policy::validate_spec(&spec, &mut errors);
    let at = Path::new("spec");
    let mutations = spec.list(&["mutations"]);
    if mutations.is_empty() {
        let why = "mutations must contain at least one item";
        errors.push(FieldError::required(at.child("mutations"), why));
    }
    for (i, mutation) in mutations.iter().enumerate() {
        validate_mutation(mutation, &at.child("mutations").index(i), &mut errors);
    }
    let again = spec.text(&["reinvocationPolicy"]);
    let known = ["IfNeeded", "Never"];
    let again_at = at.child("reinvocationPolicy");
    if again.is_empty() {
        errors.push(FieldError::required(again_at, ""));
    } else if !known.contains(&again) {
        errors.push(FieldError::not_supported(again_at, again, &known));
    }
    errors
}

fn validate_mutation(mutation: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let given = mutation.text(&["patchType"]);
    let types = PATCHES.map(|(name, _)| name);
    if given.is_empty() {
        errors.push(FieldError::required(at.child("patchType"), ""));
    } else if !types.contains(&given) {
        errors.push(FieldError::not_supported(at.child("patchType"), given, &types));
    }
    for (name, field) in PATCHES {
        let at = at.child(field);
        let is_given = name == given;
        match mutation.at(&[field]) {
            Some(patch) if is_given && patch.text(&["expression"]).trim().is_empty() => {
                let why = "expression is not specified";
                errors.push(FieldError::required(at.child("expression"), why));
            }
            Some(_) if !is_given && types.contains(&given) => {
                let why = format!("must not be specified when patchType is {given}");
                errors.push(FieldError::invalid(at, format!("{{{field}}}"), why));
            }
            None if is_given => {
                let why = format!("must be specified when patchType is {given}");
                errors.push(FieldError::required(at, why));
            }
            _ => {}
        }
    }
}
