//! ValidatingAdmissionPolicyBinding.

use super::*;
use crate::json::Json;
use crate::path::Path;

/// `validatingadmissionpolicybindings.admissionregistration.k8s.io`.
pub static KIND: Kind = Kind {
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    resource: "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    validate,
    ..policy::BINDING
};

fn validate(binding: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = binding.at(&["spec"]).cloned().unwrap_or_default();
    policy::validate_binding(&spec, &mut errors);
    let at = Path::new("spec");
    let at = at.child("validationActions");
    let known = ["Audit", "Deny", "Warn"];
    let actions = spec.list(&["validationActions"]);
    let mut seen = Vec::new();
    for (i, action) in actions.iter().filter_map(Value::as_str).enumerate() {
        if !known.contains(&action) {
            errors.push(FieldError::not_supported(at.index(i), action, &known));
        }
        if seen.contains(&action) {
            errors.push(FieldError::duplicate(at.index(i), action));
        }
        seen.push(action);
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid(at, actions.to_vec(), why));
    }
    if seen.is_empty() {
        errors.push(FieldError::required(at, "at least one validation action is required"));
    }
    errors
}
