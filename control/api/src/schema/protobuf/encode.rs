//! The other way: objects, lists, and events of watches in protobuf, for clients that ask for it.
//!
//! What JSON holds is written, in the order of tags, and nothing else: an absent field and Go's empty value read alike.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::super::{MAX_DEPTH, Schema, Tag, Type};
use super::{MAGIC, Union};

/// A kind's object as a message, without envelope.
pub fn message(value: &Value, schema: Schema<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    if let Value::Object(fields) = value {
        write_fields(&mut out, fields, schema, 0);
    }
    out
}

/// A body: magic number and envelope around a [`message`] or [`list`].
pub fn body(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    nested(&mut out, 1, |out| {
        bytes(out, 1, api_version.as_bytes());
        bytes(out, 2, kind.as_bytes());
    });
    bytes(&mut out, 2, message);
    // As upstream writes them: no encoding of the content, which is protobuf.
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    out
}

/// The message of a kind's list: its `ListMeta`, then items, each a [`message`].
pub fn list(
    metadata: &Value,
    meta_schema: Schema<'_>,
    items: impl Iterator<Item = Vec<u8>>,
) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, &message(metadata, meta_schema));
    for item in items {
        bytes(&mut out, 2, &item);
    }
    out
}

/// `PartialObjectMetadata`: the metadata, a [`message`] of `ObjectMeta`.
pub fn metadata_only(metadata: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(metadata.len() + 6);
    bytes(&mut out, 1, metadata);
    out
}

/// A watch's event as it is framed: its length in four bytes, big-endian, then `WatchEvent` with the object's [`body`].
pub fn frame(event: &str, body: &[u8], out: &mut impl Extend<u8>) {
    let mut message = Vec::with_capacity(body.len() + event.len() + 16);
    bytes(&mut message, 1, event.as_bytes());
    nested(&mut message, 2, |out| bytes(out, 1, body));
    out.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(message);
}

fn write_fields(out: &mut Vec<u8>, fields: &Map<String, Value>, schema: Schema<'_>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    for (tag, what) in &schema.message.tags {
        match what {
            Tag::Field(index) => {
                let field = &schema.message.fields[usize::from(*index)];
                match fields.get(&*field.name) {
                    None | Some(Value::Null) => {}
                    Some(Value::Array(items)) if field.wrapped => {
                        nested(out, *tag, |out| {
                            write_items(out, 1, items, &field.ty, schema, depth)
                        });
                    }
                    Some(Value::Array(items)) if matches!(field.ty, Type::List(_)) => {
                        write_items(out, *tag, items, &field.ty, schema, depth);
                    }
                    Some(Value::Object(map)) if matches!(field.ty, Type::Map(_)) => {
                        write_map(out, *tag, map, &field.name, &field.ty, schema, depth);
                    }
                    Some(value) => write(out, *tag, value, (&field.ty, &field.name), schema, depth),
                }
            }
            Tag::Embedded(id) => {
                // Its fields are the parent's in JSON; nothing of it, nothing to write.
                let mut inner = Vec::new();
                write_fields(&mut inner, fields, schema.set.schema(*id), depth + 1);
                if !inner.is_empty() {
                    bytes(out, *tag, &inner);
                }
            }
        }
    }
}

fn write_items(
    out: &mut Vec<u8>,
    tag: u32,
    items: &[Value],
    ty: &Type,
    schema: Schema<'_>,
    depth: usize,
) {
    let Type::List(ty) = ty else { return };
    for item in items {
        write(out, tag, item, (ty, ""), schema, depth);
    }
}

fn write_map(
    out: &mut Vec<u8>,
    tag: u32,
    map: &Map<String, Value>,
    name: &str,
    ty: &Type,
    schema: Schema<'_>,
    depth: usize,
) {
    let Type::Map(ty) = ty else { return };
    for (key, value) in map {
        nested(out, tag, |out| {
            bytes(out, 1, key.as_bytes());
            match (value, &**ty) {
                (Value::Array(items), Type::List(_)) => {
                    nested(out, 2, |out| write_items(out, 1, items, ty, schema, depth));
                }
                _ => write(out, 2, value, (ty, name), schema, depth),
            }
        });
    }
}

/// One value. What does not fit its type is left out: nothing that was validated.
fn write(
    out: &mut Vec<u8>,
    tag: u32,
    value: &Value,
    (ty, name): (&Type, &str),
    schema: Schema<'_>,
    depth: usize,
) {
    match (ty, value) {
        (Type::Bool, Value::Bool(b)) => number(out, tag, u64::from(*b)),
        (Type::Int32 | Type::Int64, Value::Number(n)) => {
            if let Some(n) = n.as_i64() {
                number(out, tag, n as u64);
            }
        }
        (Type::Double, Value::Number(n)) => {
            key(out, tag, 1);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_bits().to_le_bytes());
        }
        (Type::String, Value::String(text)) => bytes(out, tag, text.as_bytes()),
        (Type::Bytes, Value::String(text)) => {
            let engine = &base64::engine::general_purpose::STANDARD;
            bytes(out, tag, &engine.decode(text).unwrap_or_default());
        }
        (Type::IntOrString, Value::Number(n)) => nested(out, tag, |out| {
            number(out, 1, 0);
            number(out, 2, n.as_i64().unwrap_or_default() as u64);
            bytes(out, 3, b"");
        }),
        (Type::IntOrString, Value::String(text)) => nested(out, tag, |out| {
            number(out, 1, 1);
            number(out, 2, 0);
            bytes(out, 3, text.as_bytes());
        }),
        (Type::Quantity, Value::String(text)) => {
            nested(out, tag, |out| bytes(out, 1, text.as_bytes()));
        }
        (Type::Time | Type::MicroTime, Value::String(text)) => {
            if let Ok(time) = text.parse::<jiff::Timestamp>() {
                // Before 1970 too, nanoseconds count forward.
                let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
                let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
                nested(out, tag, |out| {
                    number(out, 1, seconds as i64 as u64);
                    number(out, 2, nanos as u64);
                });
            }
        }
        (Type::Any, value) => match Union::of(name) {
            Some(union) => nested(out, tag, |out| write_union(out, union, value, schema, depth)),
            None => {
                let json = serde_json::to_vec(value).unwrap_or_default();
                nested(out, tag, |out| bytes(out, 1, &json));
            }
        },
        (Type::Message(id), Value::Object(fields)) => {
            nested(out, tag, |out| {
                write_fields(out, fields, schema.set.schema(*id), depth + 1);
            });
        }
        _ => {}
    }
}

fn write_union(out: &mut Vec<u8>, union: Union, value: &Value, schema: Schema<'_>, depth: usize) {
    let one = |out: &mut Vec<u8>, tag, value: &Value| {
        if let Value::Object(fields) = value {
            nested(out, tag, |out| write_fields(out, fields, schema, depth + 1));
        }
    };
    match (union, value) {
        (Union::Bool, Value::Bool(allows)) => number(out, 1, u64::from(*allows)),
        (Union::Bool, schema) => {
            number(out, 1, 1);
            one(out, 2, schema);
        }
        (Union::Array, Value::Array(items)) => items.iter().for_each(|item| one(out, 2, item)),
        (Union::Strings, Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).for_each(|item| bytes(out, 2, item.as_bytes()));
        }
        (Union::Array | Union::Strings, schema) => one(out, 1, schema),
    }
}

fn key(out: &mut Vec<u8>, tag: u32, wire: u64) {
    varint(out, u64::from(tag) << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn number(out: &mut Vec<u8>, tag: u32, n: u64) {
    key(out, tag, 0);
    varint(out, n);
}

fn bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    key(out, tag, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message of which only writing it says how long it is: most lengths take one byte, which is put down beforehand.
fn nested(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, tag, 2);
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    varint(&mut prefix, length as u64);
    out.splice(at..=at, prefix);
}
