//! ClusterRole.

use super::*;

/// `clusterroles.rbac.authorization.k8s.io`.
pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    resource: "clusterroles.rbac.authorization.k8s.io",
    namespaced: false,
    name_rule: NameRule::PathSegment,
    ..Kind::BASE
};
