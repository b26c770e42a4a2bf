//! Secret.

use super::*;

/// `secrets`.
pub static KIND: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    resource: "secrets",
    ..Kind::BASE
};
