//! PriorityClass.

use super::*;

/// `priorityclasses.scheduling.k8s.io`.
pub static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    resource: "priorityclasses.scheduling.k8s.io",
    short_names: &["pc"],
    namespaced: false,
    generation: Generation::Spec,
    ..Kind::BASE
};
