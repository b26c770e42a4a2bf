//! ClusterRoleBinding.

use super::*;

/// `clusterrolebindings.rbac.authorization.k8s.io`.
pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    resource: "clusterrolebindings.rbac.authorization.k8s.io",
    namespaced: false,
    name_rule: NameRule::PathSegment,
    ..Kind::BASE
};
