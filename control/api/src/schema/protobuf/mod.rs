//! Kubernetes protobuf bodies, read by schema into the JSON form that everything else works on, and [`encode`]d from it.
//!
//! Clients built on client-go 0.32 or later send them for typed calls. A body is `k8s\0` and an envelope
//! (`runtime.Unknown`) that names the kind; in it is the object. One decoder reads every kind: a schema's fields know
//! their tags. Go writes every field that is not a pointer, empty or not; those that are empty are dropped,
//! as Go's `omitempty` drops them in JSON.

pub mod encode;
mod wire;

use std::fmt;

use base64::Engine as _;
use serde_json::{Map, Value};

use self::wire::{Reader, Wire};
use super::{Field, MAX_DEPTH, Schema, TagRef, Type};

/// What a protobuf body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// The media type of such bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Why a body is no protobuf object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The magic number is missing.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoMagic,
    /// The bytes do not follow the encoding or the schema.
    #[error("invalid protobuf message{}: {problem}", At(path))]
    Malformed {
        /// Fields from the outermost; empty for the envelope.
        path: String,
        /// What is wrong there.
        problem: String,
    },
    /// Nested too deeply.
    #[error("exceeded max depth of {MAX_DEPTH}")]
    Depth,
}

struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " at {}", self.0) }
    }
}

impl ProtobufError {
    fn new(problem: impl Into<String>) -> Self {
        Self::Malformed { path: String::new(), problem: problem.into() }
    }

    /// The same error, seen from one field further out.
    fn within(self, field: &str) -> Self {
        match self {
            Self::Malformed { path, problem } if path.is_empty() => {
                Self::Malformed { path: field.into(), problem }
            }
            Self::Malformed { path, problem } => {
                Self::Malformed { path: format!("{field}.{path}"), problem }
            }
            other => other,
        }
    }
}

/// The envelope of a body: what it holds, and the object's own bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Group and version, such as `apps/v1`; empty if the client leaves them to the URL.
    pub api_version: &'a str,
    /// Kind; empty if the client leaves it to the URL.
    pub kind: &'a str,
    /// Encoding of the object within; empty means protobuf.
    pub content_type: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads the envelope only.
    pub fn parse(body: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?);
        let mut envelope = Envelope { api_version: "", kind: "", content_type: "", raw: &[] };
        while let Some((tag, wire)) = reader.field()? {
            match tag {
                1 => {
                    let mut meta = Reader(wire.bytes()?);
                    while let Some((tag, wire)) = meta.field()? {
                        match tag {
                            1 => envelope.api_version = wire.text()?,
                            2 => envelope.kind = wire.text()?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = wire.bytes()?,
                3 if !wire.bytes()?.is_empty() => {
                    return Err(ProtobufError::new(
                        "a compressed object; send it without contentEncoding",
                    ));
                }
                4 => envelope.content_type = wire.text()?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// The object within, with its `apiVersion` and `kind`, in JSON form.
    pub fn decode(&self, schema: Schema<'_>) -> Result<Value, ProtobufError> {
        let mut out = match self.content_type {
            "" | MEDIA_TYPE => {
                let mut out = Map::new();
                message(self.raw, schema, &mut out, 0)?;
                out
            }
            "application/json" => match serde_json::from_slice(self.raw) {
                Ok(Value::Object(map)) => map,
                _ => {
                    return Err(ProtobufError::new("the object is not JSON, as the envelope says"));
                }
            },
            other => {
                return Err(ProtobufError::new(format!(
                    "the object is encoded as {other:?}; send JSON"
                )));
            }
        };
        for (name, value) in [("apiVersion", self.api_version), ("kind", self.kind)] {
            if !value.is_empty() {
                out.insert(name.into(), value.into());
            }
        }
        Ok(Value::Object(out))
    }
}

/// Reads a message's fields into `out`. Fields that the schema does not know are skipped, as protobuf has it.
fn message(
    bytes: &[u8],
    schema: Schema<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        match schema.message.tag(tag) {
            Some(TagRef::Field(field)) => {
                read_field(field, wire, schema, out, depth).map_err(|e| e.within(&field.name))?;
            }
            Some(TagRef::Embedded(id)) => {
                message(wire.bytes()?, schema.set.schema(id), out, depth + 1)?
            }
            None => {}
        }
    }
    Ok(())
}

fn read_field(
    field: &Field,
    wire: Wire<'_>,
    schema: Schema<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    match &field.ty {
        Type::List(item) => {
            let slot = out.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = slot else { return Err(ProtobufError::new("not a list")) };
            if field.wrapped {
                unwrap_list(wire, item, schema, list, depth)
            } else {
                items(wire, item, schema, list, depth)
            }
        }
        Type::Map(item) => {
            let slot = out.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = slot else { return Err(ProtobufError::new("not a map")) };
            let (key, value) = map_entry(wire, item, &field.name, schema, depth)?;
            map.insert(key, value);
            Ok(())
        }
        ty => {
            let value = match (ty, Union::of(&field.name)) {
                (Type::Any, Some(it)) => union(wire, it, schema, depth)?,
                _ => value(wire, ty, schema, depth)?,
            };
            if value.is_null() || (!field.pointer && is_empty(&value)) {
                out.remove(&*field.name);
            } else {
                out.insert(field.name.to_string(), value);
            }
            Ok(())
        }
    }
}

/// One item of a repeated field, or many packed numbers.
fn items(
    wire: Wire<'_>,
    ty: &Type,
    schema: Schema<'_>,
    list: &mut Vec<Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    match (wire, ty) {
        (Wire::Bytes(packed), Type::Bool | Type::Int32 | Type::Int64) => {
            let mut reader = Reader(packed);
            while !reader.0.is_empty() {
                list.push(value(Wire::Varint(reader.varint()?), ty, schema, depth)?);
            }
        }
        (wire, ty) => list.push(value(wire, ty, schema, depth)?),
    }
    Ok(())
}

/// A list that Go declares as a type of its own is a message with the items in field 1.
fn unwrap_list(
    wire: Wire<'_>,
    ty: &Type,
    schema: Schema<'_>,
    list: &mut Vec<Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let mut reader = Reader(wire.bytes()?);
    while let Some((tag, wire)) = reader.field()? {
        if tag == 1 {
            items(wire, ty, schema, list, depth)?;
        }
    }
    Ok(())
}

fn map_entry(
    wire: Wire<'_>,
    ty: &Type,
    name: &str,
    schema: Schema<'_>,
    depth: usize,
) -> Result<(String, Value), ProtobufError> {
    let mut reader = Reader(wire.bytes()?);
    let (mut key, mut found) = ("", None);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, ty) {
            (1, _) => key = wire.text()?,
            (2, Type::List(item)) => {
                let mut list = Vec::new();
                unwrap_list(wire, item, schema, &mut list, depth)?;
                found = Some(Value::Array(list));
            }
            (2, ty) => {
                let read = match (ty, Union::of(name)) {
                    (Type::Any, Some(it)) => union(wire, it, schema, depth),
                    _ => value(wire, ty, schema, depth),
                };
                found = Some(read.map_err(|e| e.within(key))?);
            }
            _ => {}
        }
    }
    Ok((key.to_owned(), found.unwrap_or_else(|| ty.zero())))
}

/// What JSON leaves open within a CustomResourceDefinition's schema, and protobuf has messages for.
#[derive(Clone, Copy)]
enum Union {
    /// `JSONSchemaPropsOrBool`
    Bool,
    /// `JSONSchemaPropsOrArray`
    Array,
    /// `JSONSchemaPropsOrStringArray`
    Strings,
}

impl Union {
    /// The one that a field of any JSON is, by its name: no other kind has fields of these names that hold any JSON.
    fn of(name: &str) -> Option<Self> {
        match name {
            "additionalItems" | "additionalProperties" => Some(Self::Bool),
            "items" => Some(Self::Array),
            "dependencies" => Some(Self::Strings),
            _ => None,
        }
    }
}

/// `schema` is that of the field's own message, which a union refers back to.
fn union(
    wire: Wire<'_>,
    union: Union,
    schema: Schema<'_>,
    depth: usize,
) -> Result<Value, ProtobufError> {
    let (mut allows, mut one, mut many) = (false, None, Vec::new());
    let mut reader = Reader(wire.bytes()?);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, union) {
            (1, Union::Bool) => allows = wire.varint()? != 0,
            (2, Union::Strings) => many.push(wire.text()?.into()),
            (1 | 2, _) => {
                let mut out = Map::new();
                message(wire.bytes()?, schema, &mut out, depth + 1)?;
                match (tag, union) {
                    (2, Union::Array) => many.push(Value::Object(out)),
                    _ => one = Some(Value::Object(out)),
                }
            }
            _ => {}
        }
    }
    Ok(match (union, one) {
        (_, Some(schema)) => schema,
        (Union::Bool, None) => allows.into(),
        (Union::Array | Union::Strings, None) => many.into(),
    })
}

/// A single value; null if it stands for absence.
fn value(
    wire: Wire<'_>,
    ty: &Type,
    schema: Schema<'_>,
    depth: usize,
) -> Result<Value, ProtobufError> {
    Ok(match ty {
        Type::Bool => (wire.varint()? != 0).into(),
        Type::Int32 => (wire.varint()? as i32).into(),
        Type::Int64 => (wire.varint()? as i64).into(),
        Type::Double => match wire {
            Wire::Fixed64(bits) => f64::from_bits(bits).into(),
            _ => return Err(ProtobufError::new("expected a double")),
        },
        Type::String => wire.text()?.into(),
        Type::Bytes => base64::engine::general_purpose::STANDARD.encode(wire.bytes()?).into(),
        Type::IntOrString => int_or_string(wire.bytes()?)?,
        Type::Quantity => wire.inner()?.map_or(Ok(""), Wire::text)?.into(),
        Type::Time => time(wire.bytes()?, 0)?,
        Type::MicroTime => time(wire.bytes()?, 6)?,
        Type::Any => match wire.inner()?.map_or(Ok(&[][..]), Wire::bytes)? {
            [] => Value::Null,
            json => serde_json::from_slice(json).map_err(|_| {
                ProtobufError::new("this field cannot be read from protobuf; send JSON")
            })?,
        },
        Type::Message(id) => {
            let mut out = Map::new();
            message(wire.bytes()?, schema.set.schema(*id), &mut out, depth + 1)?;
            Value::Object(out)
        }
        Type::List(_) | Type::Map(_) => return Err(ProtobufError::new("a list within a list")),
    })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        match tag {
            1 => is_text = wire.varint()? == 1,
            2 => number = wire.varint()? as i32,
            3 => text = wire.text()?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn time(bytes: &[u8], digits: usize) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (0, 0);
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        match tag {
            1 => seconds = wire.varint()? as i64,
            2 => nanos = wire.varint()? as i32,
            _ => {}
        }
    }
    let time = jiff::Timestamp::new(seconds, nanos)
        .map_err(|_| ProtobufError::new("a time out of range"))?;
    Ok(super::scalars::time_string(time, digits).into())
}

/// What Go's `omitempty` leaves out, and empty objects, which say nothing where there is no pointer.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}
