//! Applying a configuration on nobody's account, as mutating admission policies do: merged as server-side apply merges, but without
//! managers, so nothing conflicts and nothing is taken away. Source: `ApplyStructuredMergeDiff` of
//! `k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch`.

use serde_json::Value;

use super::walk::{duplicates, merge};
use crate::schema::{Field, ListType, Schema, Schemas, Type};

/// The object with the configuration merged into it; both have passed the schema.
///
/// # Errors
/// What a configuration may not hold: it must leave atomic lists, maps and objects alone, for what it does not repeat of them
/// would be lost.
pub fn apply_unowned(live: &Value, config: &Value, schema: Schema<'_>) -> Result<Value, String> {
    if let Some(found) = duplicates(config, schema) {
        return Err(format!("failed to convert patch object to typed object: {found}"));
    }
    let mut atomics = Vec::new();
    Walk { atomics: &mut atomics, set: schema.set() }.object(schema, config, String::new());
    if atomics.is_empty() {
        return Ok(merge(live, config, schema));
    }
    Err(format!(
        "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
        atomics.join(", ")
    ))
}

struct Walk<'a, 's> {
    atomics: &'a mut Vec<String>,
    set: &'s Schemas,
}

impl Walk<'_, '_> {
    fn object(&mut self, schema: Schema<'_>, value: &Value, path: String) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let Some(field) = schema.field(name) else { continue };
            self.field(field, value, format!("{path}.{name}"));
        }
    }

    fn field(&mut self, field: &Field, value: &Value, path: String) {
        let merged = matches!(field.list, Some(ListType::Set | ListType::Map(_)));
        self.value(&field.ty, field.atomic, merged, value, path);
    }

    /// `merged` tells that items of a list are told apart.
    fn value(&mut self, ty: &Type, atomic: bool, merged: bool, value: &Value, path: String) {
        match (ty, value) {
            (Type::List(item), Value::Array(items)) => {
                if atomic || !merged {
                    self.atomics.push(path.clone());
                }
                for (i, value) in items.iter().enumerate() {
                    self.value(item, false, false, value, format!("{path}[{i}]"));
                }
            }
            // What is below keys that anyone may choose is not looked at.
            (Type::Map(_), Value::Object(_)) if atomic => self.atomics.push(path),
            (Type::Message(id), Value::Object(_)) => {
                if atomic || self.set.get(*id).atomic {
                    self.atomics.push(path.clone());
                }
                self.object(self.set.schema(*id), value, path);
            }
            (Type::Any, Value::Object(_) | Value::Array(_))
                if atomic || !self.set.is_deduced() || value.is_array() =>
            {
                self.atomics.push(path);
            }
            _ => {}
        }
    }
}
