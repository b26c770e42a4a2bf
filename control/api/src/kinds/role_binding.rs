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
    ..Kind::BASE
};
