//! Node.

use super::*;

/// `nodes`.
pub static KIND: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    resource: "nodes",
    short_names: &["no"],
    namespaced: false,
    subresources: &[Subresource::Status],
    ..Kind::BASE
};
