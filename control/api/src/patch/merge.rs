//! JSON merge patch, RFC 7386.

use serde_json::{Map, Value};

/// The target with the patch merged in. Recursion is bounded by the JSON parser's depth limit.
pub(super) fn apply(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut out = match target {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            out.remove(&key);
        } else {
            let old = out.remove(&key).unwrap_or_default();
            out.insert(key, apply(old, value));
        }
    }
    Value::Object(out)
}
