//! Reading and filling JSON trees by field: what the kinds' rules are written with.
//!
//! Rules work on trees, not on typed structs, so that built-in and custom kinds take one path. Accessors are total:
//! a missing field, `null` and a value of another type read alike, because types are the schema's concern.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A JSON object.
pub type Fields = Map<String, Value>;

/// Accessors of JSON trees. A path is a list of field names.
pub trait Json {
    /// The value at a path; `null` is nothing.
    fn at(&self, path: &[&str]) -> Option<&Value>;

    /// The text at a path, or `""`.
    fn text(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or("")
    }

    /// The integer at a path.
    fn int(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Value::as_i64)
    }

    /// The boolean at a path, or `false`.
    fn flag(&self, path: &[&str]) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The items of the list at a path, or none.
    fn list(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The fields of the object at a path.
    fn map(&self, path: &[&str]) -> Option<&Fields> {
        self.at(path).and_then(Value::as_object)
    }

    /// The name and value pairs of the object at a path, or none.
    fn pairs(&self, path: &[&str]) -> impl Iterator<Item = (&str, &Value)> {
        self.map(path).into_iter().flatten().map(|(k, v)| (k.as_str(), v))
    }

    /// There is something other than `null` at a path.
    fn has(&self, path: &[&str]) -> bool {
        self.at(path).is_some()
    }
}

impl Json for Value {
    fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, field| value.get(field)).filter(|v| !v.is_null())
    }
}

impl Json for Fields {
    fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        self.get(*first)?.at(rest)
    }
}

/// The object in a field, mutable.
pub fn object<'a>(fields: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    fields.get_mut(name)?.as_object_mut()
}

/// The object in a field, made if absent or `null`.
pub fn object_or_new<'a>(fields: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    set_default(fields, name, || Value::Object(Map::new()));
    object(fields, name)
}

/// The objects of the list in a field, mutable.
pub fn objects<'a>(fields: &'a mut Fields, name: &str) -> impl Iterator<Item = &'a mut Fields> {
    fields
        .get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Sets a field that is absent or `null`.
pub fn set_default<V: Into<Value>>(fields: &mut Fields, name: &str, value: impl FnOnce() -> V) {
    match fields.get_mut(name) {
        Some(Value::Null) | None => {
            fields.insert(name.to_owned(), value().into());
        }
        Some(_) => {}
    }
}

/// Sets a text field that is absent or empty.
pub fn default_text(fields: &mut Fields, name: &str, value: &str) {
    if fields.text(&[name]).is_empty() {
        fields.insert(name.to_owned(), Value::from(value));
    }
}

/// Sets a number that is absent or zero.
pub fn default_number(fields: &mut Fields, name: &str, value: i64) {
    if fields.int(&[name]).unwrap_or(0) == 0 && fields.get(name).is_none_or(|v| !v.is_string()) {
        fields.insert(name.to_owned(), Value::from(value));
    }
}

/// Takes a field from `old`, or removes it where `old` has none.
pub fn keep(new: &mut Fields, old: &Value, name: &str) {
    match old.get(name) {
        Some(value) => {
            if new.get(name) != Some(value) {
                new.insert(name.to_owned(), value.clone());
            }
        }
        None => {
            new.remove(name);
        }
    }
}

/// The scalar at a dotted path of encoded JSON, as text, without building a tree: what field selectors compare.
/// Absent, `null`, lists and objects read as `""`.
pub fn peek(json: &[u8], path: &str) -> String {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Peek(Some(path)).deserialize(&mut deserializer).ok().flatten().unwrap_or_default()
}

/// Walks to the rest of a path; `None` once it is there.
struct Peek<'p>(Option<&'p str>);

impl<'de> DeserializeSeed<'de> for Peek<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Peek<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.is_none().then(|| text.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.0.is_none().then(|| value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.0.is_none().then(|| value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.0.is_none().then(|| value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(self.0.is_none().then(|| value.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (field, rest) = match self.0 {
            Some(path) => match path.split_once('.') {
                Some((field, rest)) => (Some(field), Some(rest)),
                None => (Some(path), None),
            },
            None => (None, None),
        };
        let mut found = None;
        while let Some(here) = map.next_key_seed(Is(field))? {
            if here {
                found = map.next_value_seed(Peek(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is the wanted one, without allocating it.
struct Is<'p>(Option<&'p str>);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        Ok(self.0 == Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peek_reads_scalars() {
        let json = br#"{"a":{"b":[{"c":1}],"c":{"d":"x\ny"},"t":true,"n":-3,"z":null},"s":"top"}"#;
        for (path, expected) in [
            ("s", "top"),
            ("a.c.d", "x\ny"),
            ("a.t", "true"),
            ("a.n", "-3"),
            ("a.z", ""),
            ("a.b", ""),
            ("a.c", ""),
            ("a.missing", ""),
            ("s.deeper", ""),
        ] {
            assert_eq!(peek(json, path), expected, "{path}");
        }
        assert_eq!(peek(b"not json", "a"), "");
    }
}
