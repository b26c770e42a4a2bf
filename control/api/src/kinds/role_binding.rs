//! RoleBinding.

use super::*;

/// `rolebindings.rbac.authorization.k8s.io`.
pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    resource: "rolebindings.rbac.authorization.k8s.io",
    name_rule: NameRule::PathSegment,
    default: rbac::default_binding,
    validate: |binding| rbac::validate_binding(binding, &["Role", "ClusterRole"], true),
    validate_update: rbac::validate_binding_update,
    columns: rbac::BINDING_COLUMNS,
    cells: rbac::binding_cells,
    ..Kind::BASE
};
