//! The three patches of `PATCH`: each gives the new object from the current one and the request's body.
//!
//! What comes out is not yet trusted: the registry decodes it by schema ([`crate::schema::check`]), defaults and
//! validates it like any other write. Server-side apply is no patch of this kind; it merges by field ownership.

mod json;
mod merge;
mod operations;
mod strategic;

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::schema::Schema;
pub use operations::apply_operations;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902: a list of operations.
    Json,
    /// RFC 7386: a partial object; `null` deletes, lists are replaced.
    Merge,
    /// Kubernetes' own: a partial object, lists merged by the schema's keys, with `$` directives.
    Strategic,
}

impl PatchType {
    /// The type that a request's media type names; parameters after `;` are ignored.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// Why a patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The patch is well formed but does not apply to this object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch would do too much: 413.
    #[error("{0}")]
    TooLarge(String),
}

/// Applies a patch to the current object. `schema` tells strategic patches how lists merge; the others do not need it.
pub fn apply(
    kind: PatchType,
    current: Value,
    patch: &[u8],
    schema: Schema<'_>,
) -> Result<Value, PatchError> {
    match kind {
        PatchType::Json => json::apply(current, patch),
        PatchType::Merge => Ok(merge::apply(current, parse_object(patch)?)),
        PatchType::Strategic => strategic::apply(current, parse_object(patch)?, schema),
    }
}

fn parse_object(patch: &[u8]) -> Result<Value, PatchError> {
    let value: Value = serde_json::from_slice(patch)
        .map_err(|e| PatchError::BadRequest(format!("error decoding patch: {e}")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(PatchError::BadRequest("error decoding patch: the patch must be an object".into()))
    }
}
