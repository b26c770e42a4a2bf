//! ValidatingWebhookConfiguration.

use super::*;

/// `validatingwebhookconfigurations.admissionregistration.k8s.io`.
pub static KIND: Kind = Kind {
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    resource: "validatingwebhookconfigurations.admissionregistration.k8s.io",
    ..webhook::BASE
};
