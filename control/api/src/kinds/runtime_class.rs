//! RuntimeClass.

use super::*;

/// `runtimeclasses.node.k8s.io`.
pub static KIND: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    resource: "runtimeclasses.node.k8s.io",
    namespaced: false,
    ..Kind::BASE
};
