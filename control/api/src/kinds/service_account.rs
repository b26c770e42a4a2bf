//! ServiceAccount.

use super::common::{AGE, NAME, object_age, text};
use super::*;
use crate::json::Json;

/// `serviceaccounts`.
pub static KIND: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    resource: "serviceaccounts",
    short_names: &["sa"],
    subresources: &[Subresource::Token],
    columns: &[NAME, text("Secrets", "How many secrets it may use."), AGE],
    cells: |object, now| {
        let secrets = object.value().list(&["secrets"]).len();
        vec![object.meta.name.as_str().into(), secrets.into(), object_age(object, now)]
    },
    ..Kind::BASE
};
