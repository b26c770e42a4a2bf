//! Lists whose items are told apart: sets hold nothing twice, lists with keys no key
//! (`apiextensions-apiserver/pkg/apiserver/schema/listtype`). Embedded objects say what they are.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::structure::Structure;
use crate::schema::{ListType, Str};
use crate::status::FieldError;

/// Whether two items have the same values in the keys of their list.
pub(super) fn same_key(keys: &[Str], one: &Value, other: &Value) -> bool {
    keys.iter().all(|key| one.get(&**key) == other.get(&**key))
}

/// Adds what is wrong with the lists in a value at `path`.
pub(super) fn check(
    structure: &Structure,
    value: &Value,
    path: &mut String,
    errors: &mut Vec<FieldError>,
) {
    if !structure.has_lists {
        return;
    }
    let length = path.len();
    match value {
        Value::Object(map) => {
            if structure.embedded {
                embedded(map, path, errors);
            }
            for (name, value) in map {
                if let Some(child) = structure.child(name) {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                    check(child, value, path, errors);
                    path.truncate(length);
                }
            }
        }
        Value::Array(items) => {
            duplicates(structure, items, path, errors);
            let Some(item) = &structure.items else { return };
            for (i, value) in items.iter().enumerate() {
                let _ = write!(path, "[{i}]");
                check(item, value, path, errors);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn duplicates(structure: &Structure, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let key_of = |item: &Value| match &structure.list {
        Some(ListType::Set) => Some(item.clone()),
        Some(ListType::Map(keys)) => {
            let pair = |key: &Str| Some((key.to_string(), item.get(&**key)?.clone()));
            Some(Value::Object(keys.iter().filter_map(pair).collect::<Map<_, _>>()))
        }
        _ => None,
    };
    let mut seen = HashSet::new();
    for (i, item) in items.iter().enumerate() {
        let Some(key) = key_of(item) else { return };
        if !seen.insert(key.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), key));
        }
    }
}

/// What an object within an object must say.
fn embedded(map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["apiVersion", "kind"] {
        if map.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            errors.push(FieldError::required(format!("{path}.{field}"), "must not be empty"));
        }
    }
}
