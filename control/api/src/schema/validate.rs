//! Decoding by schema: types checked, unknown fields dropped and named, duplicates named.
//!
//! One serde walker reads JSON bytes and values that are parsed already (YAML, patch results). It gives what the
//! reference server's typed decoding gives: `null` is absence, the first type error ends it with Go's message, and
//! what strict validation objects to is collected, for the caller to refuse, to warn about or to ignore. Nothing
//! is kept that the schema does not know. Required fields and ranges are not this module's concern.
//!
//! Next in an apply: defaults and validation, kind by kind.

use std::fmt::{self, Write as _};

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::scalars::{base64_text, quantity_text, time_text};
use super::{Field, Message, Schema, Schemas, Type};

/// Deepest nesting accepted, below serde_json's own limit so that the error is ours.
pub const MAX_DEPTH: usize = 120;
/// Complaints beyond this many are not worth a client's while.
const MAX_STRICT: usize = 100;

/// A decoded object.
#[derive(Debug)]
pub struct Decoded {
    /// The value, holding nothing but what its schema knows.
    pub value: Value,
    /// Strict validation's complaints in document order: `unknown field "spec.foo"`, `duplicate field "spec.bar"`.
    pub strict: Vec<String>,
}

impl Decoded {
    /// The complaints as one error text; none if there are none.
    pub fn strict_error(&self) -> Option<String> {
        (!self.strict.is_empty())
            .then(|| format!("strict decoding error: {}", self.strict.join(", ")))
    }
}

/// Why bytes or a value are not an object of the schema, in the reference server's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong type or form.
    #[error("{0}")]
    Type(String),
    /// Nested too deeply.
    #[error("exceeded max depth of {MAX_DEPTH}")]
    Depth,
}

/// The text of the BadRequest for a body that cannot be decoded, from its [`DecodeError`] or strict error.
pub fn cannot_be_handled(version: &str, kind: &str, error: &dyn fmt::Display) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}")
}

/// Decodes a JSON document.
pub fn decode_json(bytes: &[u8], schema: Schema<'_>) -> Result<Decoded, DecodeError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut walk = Walk::new(schema, false);
    let mut read =
        root(&mut walk, schema, &mut reader).and_then(|value| reader.end().map(|()| value));
    // What is passed over is not looked at.
    if read.is_ok() && std::str::from_utf8(bytes).is_err() {
        read = Err(de::Error::custom("invalid unicode code point"));
    }
    walk.finish(read)
}

/// Checks a value parsed before, such as a YAML document or a patch's result. Integral floats pass as integers.
pub fn check(value: Value, schema: Schema<'_>) -> Result<Decoded, DecodeError> {
    let mut walk = Walk::new(schema, true);
    let read = root(&mut walk, schema, value);
    walk.finish(read)
}

fn root<'de, D: Deserializer<'de>>(
    walk: &mut Walk<'_>,
    schema: Schema<'_>,
    reader: D,
) -> Result<Value, D::Error> {
    let ty = Type::Message(schema.set.names[&schema.message.name]);
    Slot { walk, ty: &ty }
        .deserialize(reader)
        .map(|value| value.unwrap_or_else(|| Value::Object(Map::new())))
}

struct Walk<'a> {
    set: &'a Schemas,
    path: Vec<Step<'a>>,
    depth: usize,
    /// Whether `3.0` may stand for 3.
    lenient: bool,
    strict: Vec<String>,
    error: Option<DecodeError>,
}

enum Step<'a> {
    Field(&'a Message, &'a Field),
    Index(usize),
    Key(String),
}

impl<'a> Walk<'a> {
    fn new(schema: Schema<'a>, lenient: bool) -> Self {
        Walk {
            set: schema.set,
            path: Vec::with_capacity(16),
            depth: 0,
            lenient,
            strict: Vec::new(),
            error: None,
        }
    }

    fn finish(self, read: Result<Value, serde_json::Error>) -> Result<Decoded, DecodeError> {
        match (self.error, read) {
            (Some(error), _) => Err(error),
            (None, Ok(value)) => Ok(Decoded { value, strict: self.strict }),
            (None, Err(error)) if error.is_eof() => {
                Err(DecodeError::Syntax("unexpected end of JSON input".into()))
            }
            (None, Err(error)) => Err(DecodeError::Syntax(format!("invalid JSON: {error}"))),
        }
    }

    /// Ends the walk. serde's error only unwinds; what is reported is `error`.
    fn fail<E: de::Error>(&mut self, error: DecodeError) -> E {
        self.error = Some(error);
        E::custom("stopped")
    }

    fn mistyped<E: de::Error>(&mut self, found: &str, ty: &Type) -> E {
        let fields = || {
            self.path
                .iter()
                .filter_map(|s| if let Step::Field(m, f) = s { Some((*m, *f)) } else { None })
        };
        let mut text = format!("json: cannot unmarshal {found} into Go ");
        match fields().next_back() {
            Some((message, field)) => {
                let names: Vec<&str> = fields().map(|(_, f)| &*f.name).collect();
                let _ = write!(
                    text,
                    "struct field {}.{} of type ",
                    message.short_name(),
                    names.join(".")
                );
                match &field.go_type {
                    Some(name) if *ty == field.ty => text.push_str(name),
                    _ => self.go_type(ty, &mut text),
                }
            }
            None => {
                text.push_str("value of type ");
                self.go_type(ty, &mut text);
            }
        }
        self.fail(DecodeError::Type(text))
    }

    fn go_type(&self, ty: &Type, out: &mut String) {
        out.push_str(match ty {
            Type::Bool => "bool",
            Type::Int32 => "int32",
            Type::Int64 => "int64",
            Type::Double => "float64",
            Type::String | Type::Time | Type::MicroTime => "string",
            Type::Bytes => "[]uint8",
            Type::IntOrString => "intstr.IntOrString",
            Type::Quantity => "resource.Quantity",
            Type::Any => "interface {}",
            Type::Message(id) => self.set.get(*id).go_name(),
            Type::List(item) => {
                out.push_str("[]");
                return self.go_type(item, out);
            }
            Type::Map(item) => {
                out.push_str("map[string]");
                return self.go_type(item, out);
            }
        });
    }

    fn complain(&mut self, what: &str, field: Option<&str>) {
        let mut path = String::new();
        for step in &self.path {
            let name = match step {
                Step::Field(_, field) => &*field.name,
                Step::Key(key) => key,
                Step::Index(i) => {
                    let _ = write!(path, "[{i}]");
                    continue;
                }
            };
            push_name(&mut path, name);
        }
        if let Some(field) = field {
            push_name(&mut path, field);
        }
        let text = format!("{what} field {path:?}");
        if self.strict.len() < MAX_STRICT && !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    fn enter<E: de::Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.fail(DecodeError::Depth)) } else { Ok(()) }
    }

    fn integer<E: de::Error>(&mut self, number: Number, ty: &Type) -> Result<Option<Value>, E> {
        let whole = number.as_i64().or_else(|| {
            let float =
                number.as_f64().filter(|f| self.lenient && f.fract() == 0.0 && f.abs() < 9e15)?;
            Some(float as i64)
        });
        match whole {
            Some(n) if *ty == Type::Int64 || i32::try_from(n).is_ok() => Ok(Some(n.into())),
            _ if *ty == Type::IntOrString => Err(self.fail(DecodeError::Type(format!(
                "json: cannot unmarshal number {number} into Go value of type int32"
            )))),
            _ => Err(self.mistyped(&format!("number {number}"), ty)),
        }
    }

    fn number<E: de::Error>(&mut self, number: Number, ty: &Type) -> Result<Option<Value>, E> {
        match ty {
            Type::Int32 | Type::Int64 | Type::IntOrString => self.integer(number, ty),
            Type::Double | Type::Any => Ok(Some(Value::Number(number))),
            Type::Quantity => Ok(Some(Value::String(number.to_string()))),
            _ => Err(self.mistyped("number", ty)),
        }
    }

    fn text<E: de::Error>(&mut self, text: String, ty: &Type) -> Result<Option<Value>, E> {
        let checked = match ty {
            Type::String | Type::IntOrString | Type::Any => Ok(text),
            Type::Bytes => base64_text(text),
            Type::Quantity => quantity_text(text),
            Type::Time => time_text(text, 0),
            Type::MicroTime => time_text(text, 6),
            _ => return Err(self.mistyped("string", ty)),
        };
        checked
            .map(|text| Some(Value::String(text)))
            .map_err(|error| self.fail(DecodeError::Type(error)))
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// One place for a value of `ty`. Gives `None` for `null`, which means absent.
struct Slot<'w, 'a, 't> {
    walk: &'w mut Walk<'a>,
    ty: &'t Type,
}

impl<'de> DeserializeSeed<'de> for Slot<'_, '_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_, '_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Self::Value, E> {
        match self.ty {
            Type::Bool | Type::Any => Ok(Some(v.into())),
            Type::IntOrString => Err(self.walk.fail(DecodeError::Type(
                "json: cannot unmarshal bool into Go value of type int32".into(),
            ))),
            ty => Err(self.walk.mistyped("bool", ty)),
        }
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
        self.walk.number(v.into(), self.ty)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
        self.walk.number(v.into(), self.ty)
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Self::Value, E> {
        match Number::from_f64(v) {
            Some(number) => self.walk.number(number, self.ty),
            None => Err(self.walk.mistyped("number", self.ty)),
        }
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
        self.walk.text(v.to_owned(), self.ty)
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Self::Value, E> {
        self.walk.text(v, self.ty)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let item = match self.ty {
            Type::List(item) => &**item,
            Type::Any => &Type::Any,
            ty => return Err(self.walk.mistyped("array", ty)),
        };
        self.walk.enter()?;
        let mut out = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(1024));
        self.walk.path.push(Step::Index(0));
        while let Some(value) = seq.next_element_seed(Slot { walk: &mut *self.walk, ty: item })? {
            out.push(value.unwrap_or_else(|| item.zero()));
            if let Some(Step::Index(i)) = self.walk.path.last_mut() {
                *i = out.len();
            }
        }
        self.walk.path.pop();
        self.walk.depth -= 1;
        Ok(Some(Value::Array(out)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.walk.enter()?;
        let out = match self.ty {
            Type::Message(id) => read_message(self.walk, self.walk.set.get(*id), map)?,
            Type::Map(item) => read_map(self.walk, item, map)?,
            Type::Any => read_map(self.walk, &Type::Any, map)?,
            ty => return Err(self.walk.mistyped("object", ty)),
        };
        self.walk.depth -= 1;
        Ok(Some(Value::Object(out)))
    }
}

fn read_message<'de, 'a, A: MapAccess<'de>>(
    walk: &mut Walk<'a>,
    message: &'a Message,
    mut map: A,
) -> Result<Map<String, Value>, A::Error> {
    let mut out = Map::new();
    while let Some(key) = map.next_key_seed(FieldName(message))? {
        let field = match key {
            Ok(field) => field,
            Err(unknown) if message.rest.is_some() => {
                let ty = message.rest.as_ref().unwrap_or(&Type::Any);
                let value = map.next_value_seed(Slot { walk: &mut *walk, ty })?;
                out.insert(unknown, value.unwrap_or_default());
                continue;
            }
            Err(unknown) => {
                walk.complain("unknown", Some(&unknown));
                map.next_value::<IgnoredAny>()?;
                continue;
            }
        };
        walk.path.push(Step::Field(message, field));
        if let Some(value) = map.next_value_seed(Slot { walk: &mut *walk, ty: &field.ty })?
            && out.insert(field.name.to_string(), value).is_some()
        {
            walk.complain("duplicate", None);
        }
        walk.path.pop();
    }
    Ok(out)
}

fn read_map<'de, A: MapAccess<'de>>(
    walk: &mut Walk<'_>,
    item: &Type,
    mut map: A,
) -> Result<Map<String, Value>, A::Error> {
    // Steps are needed only where something below may complain: labels and data need none.
    let deep = matches!(item, Type::Message(_) | Type::List(_) | Type::Map(_));
    let mut out = Map::new();
    while let Some(key) = map.next_key::<String>()? {
        if deep {
            walk.path.push(Step::Key(key.clone()));
        }
        let value = map.next_value_seed(Slot { walk: &mut *walk, ty: item })?;
        if deep {
            walk.path.pop();
        }
        let value = value.unwrap_or_else(|| item.zero());
        if out.contains_key(&key) && *item != Type::Any {
            walk.complain("duplicate", Some(&key));
        }
        out.insert(key, value);
    }
    Ok(out)
}

/// Finds the field of a key without copying the key; the unknown key's text otherwise.
struct FieldName<'a>(&'a Message);

impl<'de, 'a> DeserializeSeed<'de> for FieldName<'a> {
    type Value = Result<&'a Field, String>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de, 'a> Visitor<'de> for FieldName<'a> {
    type Value = Result<&'a Field, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(v).ok_or_else(|| v.to_owned()))
    }
}
