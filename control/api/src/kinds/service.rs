//! Service.

use super::*;

/// `services`.
pub static KIND: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    resource: "services",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    name_rule: NameRule::Label1035,
    ..Kind::BASE
};
