//! ServiceAccount.

use super::*;

/// `serviceaccounts`.
pub static KIND: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    resource: "serviceaccounts",
    short_names: &["sa"],
    subresources: &[Subresource::Token],
    ..Kind::BASE
};
