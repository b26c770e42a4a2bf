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
    default: rbac::default_binding,
    validate: |binding| rbac::validate_binding(binding, &["ClusterRole"], false),
    validate_update: rbac::validate_binding_update,
    columns: rbac::BINDING_COLUMNS,
    cells: rbac::binding_cells,
    ..Kind::BASE
};
