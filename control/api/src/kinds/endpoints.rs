//! Endpoints.

use super::*;

/// `endpoints`.
pub static KIND: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    resource: "endpoints",
    short_names: &["ep"],
    ..Kind::BASE
};
