//! ConfigMap.

use super::common::{AGE, NAME, object_age, text};
use super::*;
use crate::json::Json;
use crate::path::Path;
use crate::status::FieldProblem;
use crate::{json, names};

/// `configmaps`.
pub static KIND: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    resource: "configmaps",
    short_names: &["cm"],
    validate: |map| {
        let mut errors = Vec::new();
        for (key, _) in map.pairs(&["data"]) {
            if map.has(&["binaryData", key]) {
                errors.push(FieldError::invalid(
                    Path::new("data").key(key),
                    key,
                    "duplicate of key present in binaryData",
                ));
            }
        }
        keys_and_size(map, &[("data", false), ("binaryData", true)], &mut errors);
        errors
    },
    validate_update: |new, old| immutable(new, old, &["data", "binaryData"]),
    columns: &[NAME, text("Data", "How many keys there are."), AGE],
    cells: |object, now| {
        let map = object.value();
        let keys = map.pairs(&["data"]).count() + map.pairs(&["binaryData"]).count();
        vec![object.meta.name.as_str().into(), keys.into(), object_age(object, now)]
    },
    ..Kind::BASE
};

/// The most that a ConfigMap or Secret may hold, in bytes.
const MAX_SIZE: usize = 1024 * 1024;

/// Keys are file names; all values together fit into [`MAX_SIZE`]. Fields are given with whether their values are Base64:
/// those are counted decoded.
pub(super) fn keys_and_size(
    object: &Value,
    fields: &[(&str, bool)],
    errors: &mut Vec<FieldError>,
) {
    let mut size = 0;
    for (field, encoded) in fields {
        let at = Path::new(field);
        for (key, value) in object.pairs(&[field]) {
            if let Some(problem) = names::config_key(key) {
                errors.push(FieldError::invalid(at.key(key), key, problem));
            }
            let len = value.as_str().map_or(0, str::len);
            size += if *encoded { len / 4 * 3 } else { len };
        }
    }
    if size > MAX_SIZE {
        errors.push(FieldError {
            problem: FieldProblem::TooLong,
            path: fields.first().map_or("", |(field, _)| field).to_owned(),
            detail: format!("may not be more than {MAX_SIZE} bytes"),
        });
    }
}

/// What was declared immutable stays so, and keeps its data.
pub(super) fn immutable(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    if !old.flag(&["immutable"]) {
        return Vec::new();
    }
    let what = "field is immutable when `immutable` is set";
    let mut errors = Vec::new();
    if !new.flag(&["immutable"]) {
        errors.push(FieldError::forbidden("immutable", what));
    }
    let empty = json::Fields::new();
    for field in fields {
        let of = |o: &'_ Value| o.map(&[field]).unwrap_or(&empty).clone();
        if of(new) != of(old) {
            errors.push(FieldError::forbidden(*field, what));
        }
    }
    errors
}
