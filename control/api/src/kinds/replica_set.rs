//! ReplicaSet.

use super::*;

/// `replicasets.apps`.
pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    resource: "replicasets.apps",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    generation: Generation::Spec,
    ..Kind::BASE
};
