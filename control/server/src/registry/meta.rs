//! `metadata`: what the server sets, keeps and refuses, for every kind alike.

use coracle_api::{ApiError, Kind, Object};
use jiff::{Timestamp, Unit};
use rand::RngExt;
use serde_json::{Map, Value};

/// The letters of generated names: no vowels, no look-alikes (`apimachinery/pkg/util/rand`).
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const LONGEST_BASE: usize = 63 - SUFFIX;

/// Now, in whole seconds, as `metav1.Time` is written.
pub(crate) fn now() -> String {
    seconds(Timestamp::now())
}

/// A time in whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.round(Unit::Second).unwrap_or(time).to_string()
}

/// The `metadata` of an object, made if missing.
pub(crate) fn of(value: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let meta = value.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !meta.is_object() {
        *meta = Value::Object(Map::new());
    }
    match meta {
        Value::Object(meta) => meta,
        _ => unreachable!("made an object above"),
    }
}

/// The same of a tree that must be an object.
pub(super) fn of_tree(tree: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    tree.as_object_mut().map(of).ok_or_else(|| ApiError::bad_request("the body is no JSON object"))
}

/// A text field of an object; empty if absent.
pub(crate) fn text<'a>(map: &'a Map<String, Value>, field: &str) -> &'a str {
    map.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A tree that must be an object.
pub(super) fn object(value: Value) -> Result<Map<String, Value>, ApiError> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(ApiError::bad_request("the body is no JSON object")),
    }
}

/// The same, borrowed.
pub(super) fn as_object(value: &Value) -> Result<&Map<String, Value>, ApiError> {
    value.as_object().ok_or_else(|| ApiError::bad_request("the body is no JSON object"))
}

/// Checks what the body says of its namespace and name against the URL.
pub(super) fn agree(
    meta: &mut Map<String, Value>,
    kind: &Kind,
    namespace: &str,
    name: Option<&str>,
) -> Result<(), ApiError> {
    let given = text(meta, "namespace");
    if !kind.namespaced {
        meta.remove("namespace");
    } else if given.is_empty() {
        meta.insert("namespace".into(), namespace.into());
    } else if given != namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: \
             {given} is not {namespace}"
        )));
    }
    if let Some(name) = name {
        let given = text(meta, "name");
        if given.is_empty() {
            meta.insert("name".into(), name.into());
        } else if given != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
    }
    Ok(())
}

/// Fills in the metadata of a new object; its name is still to be made if it has only `generateName`.
pub(super) fn create(meta: &mut Map<String, Value>, kind: &Kind) -> Result<(), ApiError> {
    if !text(meta, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    for field in [
        "resourceVersion",
        "selfLink",
        "managedFields",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        meta.remove(field);
    }
    if kind.generation != coracle_api::kinds::Generation::None {
        meta.insert("generation".into(), 1.into());
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), now().into());
    drop_empty(meta);
    Ok(())
}

/// A name from `generateName`.
pub(super) fn generate(base: &str) -> String {
    let mut end = base.len().min(LONGEST_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut rng = rand::rng();
    for _ in 0..SUFFIX {
        name.push(char::from(LETTERS[rng.random_range(0..LETTERS.len())]));
    }
    name
}

/// Puts back what an update may not touch, and checks its preconditions on UID and revision.
pub(super) fn update(
    meta: &mut Map<String, Value>,
    old: &Object,
    old_meta: &Map<String, Value>,
) -> Result<(), ApiError> {
    let kind = old.kind;
    let name = &old.meta.name;
    let uid = text(meta, "uid");
    if !uid.is_empty() && uid != old.meta.uid {
        return Err(ApiError::conflict(
            kind,
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                old.meta.uid
            ),
        ));
    }
    let revision = text(meta, "resourceVersion");
    if !revision.is_empty() && revision != "0" {
        match revision.parse::<u64>() {
            Ok(revision) if revision == old.meta.resource_version => {}
            Ok(_) => return Err(ApiError::modified(kind, name)),
            Err(_) => {
                return Err(ApiError::bad_request(format!(
                    "metadata.resourceVersion: Invalid value: \"{revision}\": it is no number"
                )));
            }
        }
    }
    for field in ["resourceVersion", "selfLink", "managedFields"] {
        meta.remove(field);
    }
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        match old_meta.get(field) {
            Some(value) => meta.insert(field.into(), value.clone()),
            None => meta.remove(field),
        };
    }
    drop_empty(meta);
    Ok(())
}

/// Empty maps and lists are as good as absent, and absent is how they are compared and stored.
fn drop_empty(meta: &mut Map<String, Value>) {
    for field in ["labels", "annotations", "ownerReferences", "finalizers"] {
        let empty = match meta.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            meta.remove(field);
        }
    }
}

/// The names in `metadata.finalizers`.
pub(super) fn finalizers(meta: &Map<String, Value>) -> Vec<&str> {
    meta.get("finalizers")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}
