//! ConfigMap.

use super::*;

/// `configmaps`.
pub static KIND: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    resource: "configmaps",
    short_names: &["cm"],
    ..Kind::BASE
};
