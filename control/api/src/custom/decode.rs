//! JSON as a custom kind takes it: any value first, duplicates noted; then metadata by its own schema, and pruning.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::definition::Version;
use crate::schema::{self, DecodeError, Decoded};

/// Complaints beyond this many are not worth a client's while.
const MAX_STRICT: usize = 100;

impl Version {
    /// Decodes a JSON document: pruned, and with what strict validation has against it.
    ///
    /// # Errors
    /// Bytes that are no JSON, or metadata that is none.
    pub fn decode_json(&self, bytes: &[u8]) -> Result<Decoded, DecodeError> {
        let mut seen = Seen { path: String::new(), duplicates: Vec::new() };
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value = Slot(&mut seen)
            .deserialize(&mut reader)
            .and_then(|value| reader.end().map(|()| value))
            .map_err(|error| match error.is_eof() {
                true => DecodeError::Syntax("unexpected end of JSON input".into()),
                false => DecodeError::Syntax(format!("invalid JSON: {error}")),
            })?;
        let mut decoded = self.check(value)?;
        decoded.strict.splice(0..0, seen.duplicates);
        Ok(decoded)
    }

    /// The same for a value parsed before.
    ///
    /// # Errors
    /// It is no object, or its metadata is none.
    pub fn check(&self, mut value: Value) -> Result<Decoded, DecodeError> {
        let Some(map) = value.as_object_mut() else {
            return Err(DecodeError::Type("the body is no JSON object".into()));
        };
        let mut strict = Vec::new();
        for field in ["apiVersion", "kind"] {
            if map.get(field).is_some_and(|value| !value.is_string()) {
                let why = format!("Object '{field}' is no text in the body");
                return Err(DecodeError::Type(why));
            }
        }
        if let Some(metadata) = map.remove("metadata") {
            let schema = schema::builtin().by_name(schema::OBJECT_META);
            if let Some(schema) = schema
                && !metadata.is_null()
            {
                let decoded = schema::check(metadata, schema)?;
                strict.extend(
                    decoded
                        .strict
                        .iter()
                        .map(|complaint| complaint.replacen("field \"", "field \"metadata.", 1)),
                );
                map.insert("metadata".to_owned(), decoded.value);
            }
        }
        let dropped = self.structure.prune(&mut value);
        strict.extend(dropped.iter().map(|path| format!("unknown field {path:?}")));
        strict.truncate(MAX_STRICT);
        Ok(Decoded { value, strict })
    }
}

struct Seen {
    path: String,
    duplicates: Vec<String>,
}

struct Slot<'a>(&'a mut Seen);

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("no finite number"))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E: Error>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let Slot(seen) = self;
        let length = seen.path.len();
        let mut out = Vec::new();
        loop {
            seen.path.push_str(&format!("[{}]", out.len()));
            let next = seq.next_element_seed(Slot(&mut *seen));
            seen.path.truncate(length);
            match next? {
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Slot(seen) = self;
        let length = seen.path.len();
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.path.is_empty() {
                seen.path.push('.');
            }
            seen.path.push_str(&key);
            let value = map.next_value_seed(Slot(&mut *seen));
            if out.contains_key(&key) && seen.duplicates.len() < MAX_STRICT {
                seen.duplicates.push(format!("duplicate field {:?}", seen.path));
            }
            seen.path.truncate(length);
            out.insert(key, value?);
        }
        Ok(Value::Object(out))
    }
}
