//! Role.

use super::common::{CREATED_AT, NAME, name_and_creation};
use super::*;

/// `roles.rbac.authorization.k8s.io`.
pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    singular: "role",
    resource: "roles.rbac.authorization.k8s.io",
    name_rule: NameRule::PathSegment,
    validate: |role| rbac::validate_rules(role, true),
    columns: &[NAME, CREATED_AT],
    cells: name_and_creation,
    ..Kind::BASE
};
