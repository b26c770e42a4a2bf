//! Pod.

use super::*;

/// `pods`.
pub static KIND: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    resource: "pods",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Log, Subresource::Binding],
    generation: Generation::Spec,
    ..Kind::BASE
};
