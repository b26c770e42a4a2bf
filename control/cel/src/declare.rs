//! How values of a custom resource look to expressions, by its schema: their types, how many items and characters they may have,
//! and how short their JSON may be, from which it follows how many of them fit into a request.
//!
//! Source: `SchemaDeclType` of `k8s.io/apiserver/pkg/cel/common`.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::json::Json;
use serde_json::Value;

use crate::{Decl, Field, Identity, Shape, escape};

/// Octets of the largest request.
pub(crate) const REQUEST: u64 = 3 << 20;
/// A key, its quotes, a colon and a comma.
const ENTRY: u64 = 6;
/// The longest texts of moments and lengths of time, in quotes.
const LONGEST_TIME: u64 = 32;
const DATE: u64 = 12;

/// How values of a schema look to expressions; `None` for what cannot be named.
pub(crate) fn declare(schema: &Value, root: bool, name: &str) -> Option<Arc<Decl>> {
    let bound = |field: &str| schema.int(&[field]).map(|max| u64::try_from(max).unwrap_or(0));
    // A character may have four octets.
    let text = || bound("maxLength").map(|max| max.saturating_mul(4));
    if schema.flag(&["x-kubernetes-int-or-string"]) {
        let max = Some(text().unwrap_or(REQUEST - 2));
        return Some(Arc::new(Decl { max, min: 1, ..Decl::default() }));
    }
    let (shape, max, min) = match schema.text(&["type"]) {
        "boolean" => (Shape::Bool, 0, 4),
        "integer" => (Shape::Int, 0, 1),
        "number" => (Shape::Double, 0, 1),
        "string" => match schema.text(&["format"]) {
            "byte" => (Shape::Bytes, bound("maxLength").unwrap_or(REQUEST - 2), 2),
            "date" => (Shape::Timestamp, DATE, DATE),
            "date-time" => (Shape::Timestamp, LONGEST_TIME, 21),
            "duration" => (Shape::Duration, LONGEST_TIME, 3),
            _ => {
                let longest = || {
                    let all = schema.list(&["enum"]).iter().filter_map(Value::as_str);
                    all.map(|text| text.len() as u64).max()
                };
                (Shape::String, text().or_else(longest).unwrap_or(REQUEST - 2), 2)
            }
        },
        "array" => {
            let of = schema.at(&["items"])?;
            let embedded = of.flag(&["x-kubernetes-embedded-resource"]);
            let items = declare(of, embedded, &format!("{name}.@idx"))?;
            let identity = match schema.text(&["x-kubernetes-list-type"]) {
                "set" => Identity::Set,
                "map" => Identity::Map(keys(schema)),
                _ => Identity::Atomic,
            };
            let max = bound("maxItems").unwrap_or_else(|| (REQUEST - 2) / (items.min + 1));
            (Shape::List(items, identity), max, 2)
        }
        "object" => match schema.at(&["additionalProperties"]).filter(|more| more.is_object()) {
            Some(of) => {
                let values = declare(of, false, &format!("{name}.@elem"))?;
                let max =
                    bound("maxProperties").unwrap_or_else(|| (REQUEST - 2) / (values.min + ENTRY));
                (Shape::Map(values), max, 2)
            }
            None => {
                let resource = root || schema.flag(&["x-kubernetes-embedded-resource"]);
                let (fields, min) = fields(schema, resource, name);
                let shape = Shape::Object(fields);
                return Some(Arc::new(Decl { name: name.to_owned(), shape, max: None, min }));
            }
        },
        _ => return None,
    };
    Some(Arc::new(Decl { name: name.to_owned(), shape, max: Some(max), min }))
}

/// The fields of an object, and the octets of its shortest JSON: of those that must be given and are not filled in.
fn fields(schema: &Value, resource: bool, name: &str) -> (BTreeMap<String, Field>, u64) {
    let mut fields = BTreeMap::new();
    let mut min = 2;
    let mut put = |json: &str, decl: Option<Arc<Decl>>| {
        if let (Some(escaped), Some(decl)) = (escape(json), decl) {
            fields.insert(escaped, Field { json: json.to_owned(), decl });
        }
    };
    let required = schema.list(&["required"]);
    for (property, schema) in schema.pairs(&["properties"]) {
        let decl = declare(schema, false, &format!("{name}.{property}"));
        let must = required.iter().any(|name| name == property) && !schema.has(&["default"]);
        if let Some(decl) = decl.as_ref().filter(|_| must) {
            min += property.len() as u64 + decl.min + 4;
        }
        put(property, decl);
    }
    if resource {
        // Of the metadata only the name may be looked at.
        let max = Some(REQUEST - 2);
        let text = || Arc::new(Decl { shape: Shape::String, max, min: 2, ..Decl::default() });
        let metadata = [("name", text()), ("generateName", text())];
        put("metadata", Some(Decl::object(&format!("{name}.metadata"), metadata)));
        put("apiVersion", Some(text()));
        put("kind", Some(text()));
    }
    (fields, min)
}

/// What tells a list's items apart.
pub(crate) fn keys(schema: &Value) -> Vec<String> {
    let keys = schema.list(&["x-kubernetes-list-map-keys"]).iter();
    keys.filter_map(|key| key.as_str().map(str::to_owned)).collect()
}
