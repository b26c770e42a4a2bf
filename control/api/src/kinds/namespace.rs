//! Namespace.

use super::*;

/// `namespaces`.
pub static KIND: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    resource: "namespaces",
    short_names: &["ns"],
    namespaced: false,
    subresources: &[Subresource::Status, Subresource::Finalize],
    name_rule: NameRule::Label,
    ..Kind::BASE
};
