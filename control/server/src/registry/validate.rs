//! What is checked of every object: `metadata`, then what the kind itself checks.

use coracle_api::meta::{validate_meta, validate_meta_update};
use coracle_api::{ApiError, FieldError, Kind};
use serde_json::Value;

use super::admission::problems;
use super::meta;
use crate::custom::Served;

/// Checks a new object.
pub(super) fn create(kind: &Kind, custom: Option<&Served>, tree: &Value) -> Result<(), ApiError> {
    let mut errors = validate_meta(kind, tree);
    errors.extend((kind.validate)(tree));
    errors.extend((kind.validate_create)(tree));
    errors.extend(custom.map(|it| it.validate(tree, None)).unwrap_or_default());
    errors.extend(problems(kind, tree, None));
    refuse(kind, tree, &errors)
}

/// Checks a changed object; `change` says what may change.
pub(super) fn changed(
    kind: &Kind,
    custom: Option<&Served>,
    new: &Value,
    old: &Value,
    change: fn(&Value, &Value) -> Vec<FieldError>,
) -> Result<(), ApiError> {
    let mut errors = validate_meta(kind, new);
    errors.extend(validate_meta_update(new, old));
    if let (Some(new), Some(old)) = (new["metadata"].as_object(), old["metadata"].as_object())
        && old.contains_key("deletionTimestamp")
    {
        let before = meta::finalizers(old);
        let added: Vec<_> = meta::finalizers(new)
            .into_iter()
            .filter(|f| !before.contains(f))
            .map(|f| format!("\"{f}\""))
            .collect();
        if !added.is_empty() {
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
    errors.extend((kind.validate)(new));
    errors.extend(change(new, old));
    errors.extend(custom.map(|it| it.validate(new, Some(old))).unwrap_or_default());
    errors.extend(problems(kind, new, Some(old)));
    refuse(kind, new, &errors)
}

fn refuse(kind: &Kind, tree: &Value, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let name = tree["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(kind, name, errors))
}
