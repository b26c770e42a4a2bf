//! Role.

use super::*;

/// `roles.rbac.authorization.k8s.io`.
pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    singular: "role",
    resource: "roles.rbac.authorization.k8s.io",
    name_rule: NameRule::PathSegment,
    ..Kind::BASE
};
