//! ValidatingAdmissionPolicy.

use std::collections::BTreeSet;

use super::*;
use crate::json::Json;
use crate::names;
use crate::path::Path;

/// `validatingadmissionpolicies.admissionregistration.k8s.io`.
pub static KIND: Kind = Kind {
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    resource: "validatingadmissionpolicies.admissionregistration.k8s.io",
    subresources: &[Subresource::Status],
    prepare: common::prepare_with_labels,
    validate,
    columns: &policy::columns("Validations", "Validations indicates the number of validation rules defined in this configuration"),
    ..policy::POLICY
};

const MOST_ANNOTATIONS: usize = 20;
const LONGEST_ANNOTATION: usize = 5 << 10;

fn validate(policy: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = policy.at(&["spec"]).cloned().unwrap_or_default();
    policy::validate_spec(&spec, &mut errors);
    let at = Path::new("spec");
    let (validations, annotations) = (spec.list(&["validations"]), spec.list(&["auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required(at.child("validations"), why));
        errors.push(FieldError::required(at.child("auditAnnotations"), why));
    }
    for (i, validation) in validations.iter().enumerate() {
        validate_validation(validation, &at.child("validations").index(i), &mut errors);
    }
    let at = at.child("auditAnnotations");
    if annotations.len() > MOST_ANNOTATIONS {
        let why = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
        errors.push(FieldError::invalid(at, annotations.to_vec(), why));
    }
    let name = policy.text(&["metadata", "name"]);
    let mut keys = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let at = at.index(i);
        let key = annotation.text(&["key"]);
        let full = format!("{name}/{key}");
        if let Some(problem) = names::qualified(&full) {
            errors.push(FieldError::invalid(at.child("key"), full, problem));
        }
        let expression = annotation.text(&["valueExpression"]).trim();
        if expression.is_empty() {
            let why = "valueExpression is not specified";
            errors.push(FieldError::required(at.child("valueExpression"), why));
        } else if expression.len() > LONGEST_ANNOTATION {
            let why = format!("must not exceed {LONGEST_ANNOTATION} bytes in length");
            errors.push(FieldError::required(at.child("valueExpression"), why));
        }
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(at.child("key"), key));
        }
    }
    errors
}

fn validate_validation(validation: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if validation.text(&["expression"]).trim().is_empty() {
        let why = "expression is not specified";
        errors.push(FieldError::required(at.child("expression"), why));
    }
    let expression = validation.text(&["messageExpression"]);
    if !expression.is_empty() && expression.trim().is_empty() {
        let why = "must be non-empty if specified";
        errors.push(FieldError::invalid(at.child("messageExpression"), expression, why));
    }
    let message = validation.text(&["message"]);
    if !message.is_empty() && message.trim().is_empty() {
        let why = "message must be non-empty if specified";
        errors.push(FieldError::invalid(at.child("message"), message, why));
    } else if message.trim().contains(['\n', '\r']) {
        let why = "message must not contain line breaks";
        errors.push(FieldError::invalid(at.child("message"), message, why));
    }
    let reason = validation.text(&["reason"]);
    let known = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    if !reason.is_empty() && !known.contains(&reason) {
        errors.push(FieldError::not_supported(at.child("reason"), reason, &known));
    }
}
