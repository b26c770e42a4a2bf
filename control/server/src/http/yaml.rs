//! Bodies in YAML. A key that is there twice is no error of syntax: of the two the last holds, and what becomes of the request is
//! for field validation to say, as with JSON (`sigs.k8s.io/yaml` upstream).

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

/// A document, and what strict reading has against it: what a warning says of that.
pub(super) struct Document {
    pub(super) tree: Value,
    pub(super) strict: Option<String>,
}

/// What a refusal says of it.
pub(super) fn error(why: &str) -> String {
    format!("yaml: unmarshal errors:\n  {why}")
}

/// Reads a document.
///
/// # Errors
/// What is wrong with its syntax.
pub(super) fn read(bytes: &[u8]) -> Result<Document, String> {
    let error = match serde_saphyr::from_slice(bytes) {
        Ok(tree) => return Ok(Document { tree, strict: None }),
        Err(error) => error,
    };
    let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() else {
        return Err(error.to_string());
    };
    let (line, key) = (location.line(), key.as_deref().unwrap_or_default());
    let twice = format!("line {line}: key {key:?} already set in map");
    // Rare, and from people: it is read once more.
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
    let tree = serde_saphyr::from_slice_with_options(bytes, options);
    let tree = tree.map_err(|error| error.to_string())?;
    Ok(Document { tree, strict: Some(twice) })
}
