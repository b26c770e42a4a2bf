//! ClusterRole.

use super::common::{CREATED_AT, NAME, name_and_creation};
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
    validate: |role| rbac::validate_rules(role, false),
    columns: &[NAME, CREATED_AT],
    cells: name_and_creation,
    ..Kind::BASE
};
