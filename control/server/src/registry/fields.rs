//! `metadata.managedFields` of what is written: see [`coracle_api::fields`].
//!
//! What the control plane and the nodes write themselves is tracked only where somebody else's claims are touched: an object that
//! they create has no managers until a client applies to it, and the status that they report is nobody's. So the many objects
//! that no client ever applies to (the Pods of a Deployment, their slices) cost nothing.

use std::sync::Arc;

use coracle_api::fields::{FieldSet, Managers, Writer};
use coracle_api::kinds::Subresource;
use coracle_api::schema::{self, Schema};
use coracle_api::{ApiError, Kind};
use serde_json::{Value, json};

use super::meta;
use crate::custom::Served;

/// The manager of what the control plane itself changes in objects that others apply to.
const OWN: &str = "coracle";

/// On whose account a write's fields are.
#[derive(Debug, Clone, Default)]
pub(crate) enum FieldWriter {
    /// The control plane's and its nodes'.
    #[default]
    Own,
    /// A client's.
    Client {
        /// The field manager's name.
        manager: Arc<str>,
        /// The subresource that it writes to; empty for the object itself.
        subresource: Arc<str>,
    },
    /// An applier's: the object says already who owns what.
    Applied,
}

impl FieldWriter {
    fn writer<'a>(
        &'a self,
        api_version: &'a str,
        ignored: &'a FieldSet,
        now: &'a str,
    ) -> Writer<'a> {
        let (manager, subresource): (&str, &str) = match self {
            Self::Client { manager, subresource } => (manager, subresource),
            Self::Own | Self::Applied => (OWN, ""),
        };
        Writer { manager, api_version, subresource, ignored, now }
    }
}

/// What a write through a subresource neither owns nor takes: what it cannot change.
pub(crate) fn ignored(kind: &Kind, subresource: &str) -> FieldSet {
    match subresource {
        "status" => FieldSet::of([["f:spec"].as_slice(), &["f:metadata", "f:ownerReferences"]]),
        _ if kind.has(Subresource::Status) => FieldSet::of([["f:status"].as_slice()]),
        _ => FieldSet::default(),
    }
}

fn schema_of<'a>(kind: &Kind, custom: Option<&'a Served>) -> Result<Schema<'a>, ApiError> {
    let schema = match custom {
        Some(custom) => custom.version().schema(),
        None => schema::builtin().by_gvk(kind.group, kind.version, kind.kind),
    };
    schema.ok_or_else(|| ApiError::internal(format!("no schema for {}", kind.resource)))
}

/// Notes who owns what of a new object; `claimed` is what its writer said of that.
pub(super) fn created(
    kind: &Kind,
    custom: Option<&Served>,
    new: &mut Value,
    claimed: Value,
    by: &FieldWriter,
) -> Result<(), ApiError> {
    let managers = match by {
        FieldWriter::Own => return Ok(()),
        FieldWriter::Applied => claimed,
        FieldWriter::Client { .. } => {
            let (ignored, version, now) = (ignored(kind, ""), kind.api_version(), meta::now());
            let mut managers = Managers::default();
            let writer = by.writer(&version, &ignored, &now);
            managers.update(&writer, &json!({}), new, schema_of(kind, custom)?);
            managers.encode()
        }
    };
    set(new, managers);
    Ok(())
}

/// Who owns what of a changed object, as its writer wrote it; `claimed` is what that said of it.
pub(super) fn updated(
    kind: &Kind,
    custom: Option<&Served>,
    new: &Value,
    old: &Value,
    claimed: Value,
    by: &FieldWriter,
) -> Result<Value, ApiError> {
    let known = &old["metadata"]["managedFields"];
    if known.is_null() && matches!(by, FieldWriter::Own) {
        // As nearly all that nodes and controllers write.
        return Ok(Value::Null);
    }
    Ok(match by {
        FieldWriter::Applied => claimed,
        FieldWriter::Own if !super::update::specified(new, old) => known.clone(),
        FieldWriter::Own | FieldWriter::Client { .. } => {
            let subresource = match by {
                FieldWriter::Client { subresource, .. } => subresource,
                _ => "",
            };
            let mut managers = match subresource {
                "" => said(&claimed).unwrap_or_else(|| read(known)),
                _ => read(known),
            };
            // Not tracked so far, or asked not to be.
            if managers.is_empty() {
                return Ok(Value::Null);
            }
            let (ignored, version, now) =
                (ignored(kind, subresource), kind.api_version(), meta::now());
            let writer = by.writer(&version, &ignored, &now);
            managers.update(&writer, old, new, schema_of(kind, custom)?);
            managers.encode()
        }
    })
}

/// What a client says of the managers, which it may; one empty entry asks to forget them all.
fn said(claimed: &Value) -> Option<Managers> {
    let entries = claimed.as_array()?;
    if let [only] = &entries[..]
        && only.as_object().is_none_or(serde_json::Map::is_empty)
    {
        return Some(Managers::default());
    }
    Managers::decode(claimed).ok().filter(|managers| !managers.is_empty())
}

/// What is stored; what cannot be read is no reason to refuse a write.
fn read(entries: &Value) -> Managers {
    Managers::decode(entries).unwrap_or_default()
}

/// Writes it into the object.
pub(super) fn set(object: &mut Value, managers: Value) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if managers.as_array().is_none_or(Vec::is_empty) {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), managers);
    }
}
