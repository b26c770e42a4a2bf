//! MutatingAdmissionPolicyBinding.

use super::*;
use crate::json::Json;

/// `mutatingadmissionpolicybindings.admissionregistration.k8s.io`.
pub static KIND: Kind = Kind {
    kind: "MutatingAdmissionPolicyBinding",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    resource: "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    validate,
    ..policy::BINDING
};

fn validate(binding: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    policy::validate_binding(&binding.at(&["spec"]).cloned().unwrap_or_default(), &mut errors);
    errors
}
