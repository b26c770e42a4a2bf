//! MutatingWebhookConfiguration.

use super::*;

/// `mutatingwebhookconfigurations.admissionregistration.k8s.io`.
pub static KIND: Kind = Kind {
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    resource: "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    ..webhook::BASE
};
