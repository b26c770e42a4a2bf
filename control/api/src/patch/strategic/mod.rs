//! Strategic merge patch, as `k8s.io/apimachinery/pkg/util/strategicpatch` applies it.
//!
//! Objects merge, `null` deletes. A list is replaced unless its schema says `merge`: then scalars are united and
//! objects are matched by the merge key. Directives in the patch:
//! `$patch: replace|delete` (of an object, or as a list's item), `$retainKeys` (drop all other keys),
//! `$deleteFromPrimitiveList/F` (scalars to drop from F), `$setElementOrder/F` (order of F after the merge).
//!
//! Order of a merged list: the patch's items in the patch's (or the directive's) order; items that only the server
//! has keep their place relative to those of the patch's items that it had too.
//!
//! One difference is deliberate: where the object has nothing at a place, the patch is merged into emptiness
//! rather than copied, so that no directive ever lands in an object.

mod order;

use std::collections::HashSet;

use serde_json::{Map, Value};

use self::order::{Index, arrange, identity};
use super::PatchError;
use crate::schema::{Field, Schema, Schemas, Strategy, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a parsed patch to an object.
pub(super) fn apply(current: Value, patch: Value, schema: Schema<'_>) -> Result<Value, PatchError> {
    merge_object(object(current), object(patch), Shape::Message(schema)).map(Value::Object)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What is known of the object being merged.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Message(Schema<'a>),
    Map(&'a Schemas, &'a Type),
    /// Free-form JSON, or a field that the schema does not know (decoding will complain).
    Unknown,
}

/// What is known of one place in it.
#[derive(Clone, Copy)]
struct Place<'a> {
    set: Option<(&'a Schemas, &'a Type)>,
    strategy: Strategy,
    merge_key: Option<&'a str>,
}

impl<'a> Shape<'a> {
    fn place(self, key: &str) -> Place<'a> {
        let none = Place { set: None, strategy: Strategy::default(), merge_key: None };
        match self {
            Shape::Message(schema) => schema.field(key).map_or(none, |field: &'a Field| Place {
                set: Some((schema.set(), &field.ty)),
                strategy: field.strategy,
                merge_key: field.merge_key.as_deref(),
            }),
            Shape::Map(set, ty) => Place { set: Some((set, ty)), ..none },
            Shape::Unknown => none,
        }
    }

    fn of(set: &'a Schemas, ty: &'a Type) -> Self {
        match ty {
            Type::Message(id) => Shape::Message(set.schema(*id)),
            Type::Map(item) => Shape::Map(set, item),
            _ => Shape::Unknown,
        }
    }
}

impl<'a> Place<'a> {
    fn shape(&self) -> Shape<'a> {
        self.set.map_or(Shape::Unknown, |(set, ty)| Shape::of(set, ty))
    }

    fn item_shape(&self) -> Shape<'a> {
        match self.set {
            Some((set, Type::List(item))) => Shape::of(set, item),
            _ => Shape::Unknown,
        }
    }
}

type Items = Vec<Value>;

fn merge_object(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    shape: Shape<'_>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(d)) if d == "replace" => return merge_object(Map::new(), patch, shape),
        Some(Value::String(d)) if d == "delete" => return Ok(Map::new()),
        Some(Value::String(d)) if d == "merge" => {}
        Some(other) => return Err(bad_directive(&other, &patch)),
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut original, &patch, &keys)?;
    }
    for (key, order) in split_off(&mut patch, SET_ORDER) {
        merge_ordered(&mut original, &mut patch, &key, order, shape.place(&key))?;
    }
    for (key, gone) in split_off(&mut patch, DELETE_FROM) {
        let Value::Array(gone) = gone else {
            return Err(PatchError::BadRequest("invalid patch format of primitive list".into()));
        };
        if let Some(Value::Array(list)) = original.get_mut(&key) {
            let gone = Index::new(&gone, None);
            list.retain(|item| gone.find(item).is_none());
        }
    }
    for (key, value) in patch {
        let place = shape.place(&key);
        match value {
            Value::Null => {
                original.remove(&key);
            }
            Value::Object(value) => {
                let old = match original.remove(&key) {
                    Some(Value::Object(old)) if !place.strategy.replace => old,
                    _ => Map::new(),
                };
                // An object deleted by directive stays as an empty one, as upstream leaves it.
                original.insert(key, Value::Object(merge_object(old, value, place.shape())?));
            }
            Value::Array(value) => {
                let old = match original.remove(&key) {
                    Some(Value::Array(old)) => old,
                    _ => Vec::new(),
                };
                original.insert(key, Value::Array(merge_list(old, value, place)?));
            }
            scalar => {
                original.insert(key, scalar);
            }
        }
    }
    Ok(original)
}

/// Takes the directives with this prefix out of a patch: field name and value.
fn split_off(patch: &mut Map<String, Value>, prefix: &str) -> Vec<(String, Value)> {
    // Directives are rare, and all begin with `$`: look before collecting.
    let names: Vec<String> = patch.keys().filter(|k| k.starts_with(prefix)).cloned().collect();
    names
        .into_iter()
        .filter_map(|name| {
            patch.remove(&name).map(|value| (name[prefix.len()..].to_owned(), value))
        })
        .collect()
}

fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    keys: &Value,
) -> Result<(), PatchError> {
    let bad = || PatchError::BadRequest("invalid patch format of retainKeys".into());
    let keys: Vec<&str> =
        keys.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    let directive = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
    let named = |(key, value): (&String, &Value)| {
        value.is_null() || directive(key) || keys.contains(&key.as_str())
    };
    if !patch.iter().all(named) {
        return Err(bad());
    }
    original.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

/// Merges the list `key` and orders it as its directive says.
fn merge_ordered(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    key: &str,
    order: Value,
    place: Place<'_>,
) -> Result<(), PatchError> {
    let bad = || PatchError::BadRequest("invalid patch format of setElementOrder list".into());
    let Value::Array(order) = order else { return Err(bad()) };
    let list = |value: Option<Value>| match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(bad()),
    };
    if patch.get(key).is_some_and(Value::is_null) {
        return Ok(()); // the list goes; its order says nothing
    }
    let had = list(original.remove(key).filter(|v| !v.is_null()))?;
    let given = list(patch.remove(key))?;
    let before = had.clone().unwrap_or_default();
    let merged = match (had, given) {
        (None, None) => return Ok(()),
        (Some(had), None) => had,
        (had, Some(given)) => {
            order::check(&given, &order, place.merge_key)?;
            merge_list(had.unwrap_or_default(), given, place)?
        }
    };
    original
        .insert(key.to_owned(), Value::Array(arrange(merged, &order, &before, place.merge_key)));
    Ok(())
}

fn merge_list(mut original: Items, patch: Items, place: Place<'_>) -> Result<Items, PatchError> {
    let shape = place.item_shape();
    if !place.strategy.merge {
        // Replaced as a whole; only directives and nulls below are worked off.
        return patch.into_iter().map(|item| settle(item, shape)).collect();
    }
    if original.iter().chain(&patch).any(Value::is_array) {
        return Err(PatchError::Unprocessable("lists of lists are not supported".into()));
    }
    let before = original.clone();
    let Some(merge_key) = place.merge_key else {
        if original.iter().chain(&patch).any(Value::is_object) {
            return Err(PatchError::Unprocessable(
                "cannot merge lists of objects without a merge key".into(),
            ));
        }
        let mut index = Index::new(&original, None);
        original.extend(patch.iter().filter(|item| index.note(item, 0)).cloned());
        return Ok(arrange(original, &patch, &before, None));
    };
    let Special { mut items, patch, replaced } = work_off_items(original, patch, merge_key)?;
    let order = patch.clone();
    let mut index = Index::new(&items, Some(merge_key));
    for item in patch {
        if item.get(merge_key).is_none() {
            return Err(no_merge_key(&item, merge_key));
        }
        let place = index.find(&item);
        if place.is_none() {
            index.note(&item, items.len());
        }
        let patched = object(item);
        match place {
            Some(i) => {
                let old = object(std::mem::take(&mut items[i]));
                items[i] = Value::Object(merge_object(old, patched, shape)?);
            }
            None => items.push(Value::Object(merge_object(Map::new(), patched, shape)?)),
        }
    }
    if replaced { Ok(items) } else { Ok(arrange(items, &order, &before, Some(merge_key))) }
}

struct Special {
    items: Items,
    patch: Items,
    replaced: bool,
}

/// Works off the items of a patched list that are directives themselves.
fn work_off_items(
    mut original: Items,
    patch: Items,
    merge_key: &str,
) -> Result<Special, PatchError> {
    let (special, patch): (Items, Items) =
        patch.into_iter().partition(|item| item.get(DIRECTIVE).is_some());
    let mut replaced = false;
    let mut gone = HashSet::new();
    for item in special {
        match item[DIRECTIVE].as_str() {
            Some("delete") => {
                let id = identity(&item, Some(merge_key));
                gone.insert(id.ok_or_else(|| no_merge_key(&item, merge_key))?);
            }
            Some("replace") => replaced = true,
            Some("merge") => {
                return Err(PatchError::BadRequest(
                    "merging lists cannot yet be specified in the patch".into(),
                ));
            }
            _ => return Err(bad_directive(&item[DIRECTIVE], &object(item.clone()))),
        }
    }
    original.retain(|old| {
        !replaced && identity(old, Some(merge_key)).is_none_or(|id| !gone.contains(&id))
    });
    Ok(Special { items: original, patch, replaced })
}

/// An item that has no counterpart: directives and nulls are worked off against nothing.
fn settle(item: Value, shape: Shape<'_>) -> Result<Value, PatchError> {
    match item {
        Value::Object(map) => merge_object(Map::new(), map, shape).map(Value::Object),
        other => Ok(other),
    }
}

fn bad_directive(directive: &Value, map: &Map<String, Value>) -> PatchError {
    let map = Value::Object(map.clone());
    PatchError::Unprocessable(format!("unknown patch type: {directive} in map: {map}"))
}

fn no_merge_key(item: &Value, merge_key: &str) -> PatchError {
    PatchError::Unprocessable(format!(
        "map: {item} does not contain declared merge key: {merge_key}"
    ))
}
