//! Small pieces of JSON that plans are made of.

use coracle_api::object::OwnerRef;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The merge patch (RFC 7386) that turns `old` into `new`; `None` if they are equal.
pub(crate) fn diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in after {
        match before.get(key) {
            Some(known) => {
                if let Some(change) = diff(known, value) {
                    patch.insert(key.clone(), change);
                }
            }
            None if value.is_null() => {}
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// A count as statuses hold it: left out when zero.
pub(crate) fn count(n: impl Into<i64>) -> Value {
    match n.into() {
        0 => Value::Null,
        n => n.into(),
    }
}

/// A time as `metav1.Time` writes it: whole seconds, UTC.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metadata.ownerReferences` with these entries.
pub(crate) fn owners(owners: &[OwnerRef]) -> Value {
    json!({"metadata": {"ownerReferences": owners}})
}
