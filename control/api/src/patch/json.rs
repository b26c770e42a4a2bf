//! JSON patch, RFC 6902, with the reference server's limits.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::PatchError;

/// Operations in one patch.
pub(super) const MAX_OPERATIONS: usize = 10_000;
/// Bytes that the `copy` operations of one patch may copy together: without it, thirty of them make a gigabyte.
pub(super) const MAX_COPIED: usize = 3 << 20;

pub(super) fn apply(mut target: Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: Patch = serde_json::from_slice(patch)
        .map_err(|e| PatchError::BadRequest(format!("error decoding patch: {e}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            patch.0.len()
        )));
    }
    let mut copied = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation {
            copied += target.pointer(copy.from.as_str()).map_or(0, size);
            if copied > MAX_COPIED {
                return Err(PatchError::TooLarge(format!(
                    "the copy operations of a JSON patch may copy at most {MAX_COPIED} bytes"
                )));
            }
        }
        json_patch::patch(&mut target, std::slice::from_ref(operation))
            .map_err(|e| PatchError::Unprocessable(format!("{operation}: {}", e.kind)))?;
    }
    Ok(target)
}

/// Roughly the bytes of a value.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(items) => 8 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 8 + map.iter().map(|(k, v)| k.len() + 8 + size(v)).sum::<usize>(),
    }
}
