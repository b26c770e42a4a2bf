//! The v2 document as protobuf: gnostic's `openapi.v2.Document`, which kubectl before 1.29 insists on.
//!
//! Encoded from the JSON document, and only what that document holds. Each table below says which JSON key is which
//! field of a gnostic message and in which form.

use serde_json::{Map, Value};

/// The media types that clients ask for, old and new.
pub const ACCEPTED: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
/// The media type of the answer to either: `@` is not allowed in one, and Go's clients refuse it.
pub const MEDIA_TYPE: &str = ACCEPTED[1];

/// How a JSON value is written in a field.
enum Form {
    /// Text, or `true`
    Scalar,
    /// A list of texts
    Texts,
    /// `Any`, which takes YAML
    Any,
    /// A message
    One(fn() -> Table),
    /// A list of messages
    Many(fn() -> Table),
    /// A map, as a message whose field 1 repeats pairs of name and value
    Named(fn() -> Table),
    /// A value within a message's field 1
    Wrapped(&'static Form),
    /// Parameters, whose message depends on where they are
    Parameters,
    /// Responses by status code
    Responses,
}

/// JSON key, field number, form. The key `x-` stands for all vendor extensions.
type Table = &'static [(&'static str, u32, Form)];

fn document() -> Table {
    &[
        ("swagger", 1, Form::Scalar),
        ("info", 2, Form::One(|| &[("title", 1, Form::Scalar), ("version", 2, Form::Scalar)])),
        ("definitions", 9, Form::Named(schema)),
    ]
}

fn path_item() -> Table {
    &[
        ("get", 2, Form::One(operation)),
        ("put", 3, Form::One(operation)),
        ("post", 4, Form::One(operation)),
        ("delete", 5, Form::One(operation)),
        ("patch", 8, Form::One(operation)),
        ("parameters", 9, Form::Parameters),
    ]
}

fn operation() -> Table {
    &[
        ("tags", 1, Form::Texts),
        ("description", 3, Form::Scalar),
        ("operationId", 5, Form::Scalar),
        ("consumes", 7, Form::Texts),
        ("parameters", 8, Form::Parameters),
        ("responses", 9, Form::Responses),
        ("x-", 13, Form::Any),
    ]
}

fn response() -> Table {
    &[("description", 1, Form::Scalar), ("schema", 2, Form::Wrapped(&Form::One(schema)))]
}

fn schema() -> Table {
    &[
        ("$ref", 1, Form::Scalar),
        ("format", 2, Form::Scalar),
        ("description", 4, Form::Scalar),
        ("default", 5, Form::Any),
        ("required", 19, Form::Texts),
        ("additionalProperties", 21, Form::Wrapped(&Form::One(schema))),
        ("type", 22, Form::Wrapped(&Form::Scalar)),
        ("items", 23, Form::Wrapped(&Form::One(schema))),
        ("allOf", 24, Form::Many(schema)),
        ("properties", 25, Form::Named(schema)),
        ("x-", 31, Form::Any),
    ]
}

fn body_parameter() -> Table {
    &[
        ("name", 2, Form::Scalar),
        ("in", 3, Form::Scalar),
        ("required", 4, Form::Scalar),
        ("schema", 5, Form::One(schema)),
    ]
}

fn query_parameter() -> Table {
    &[
        ("required", 1, Form::Scalar),
        ("in", 2, Form::Scalar),
        ("name", 4, Form::Scalar),
        ("type", 6, Form::Scalar),
        ("uniqueItems", 20, Form::Scalar),
    ]
}

fn path_parameter() -> Table {
    &[
        ("required", 1, Form::Scalar),
        ("in", 2, Form::Scalar),
        ("name", 4, Form::Scalar),
        ("type", 5, Form::Scalar),
        ("uniqueItems", 19, Form::Scalar),
    ]
}

/// Encodes what [`super::v2`] gives.
pub fn encode(v2: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(map) = v2.as_object() else { return out };
    message(map, document(), &mut out);
    if let Some(paths) = v2["paths"].as_object() {
        let mut items = Vec::new();
        for (path, item) in paths {
            lengthed(2, &pair(path, item, &Form::One(path_item)), &mut items);
        }
        lengthed(8, &items, &mut out);
    }
    out
}

fn message(map: &Map<String, Value>, table: Table, out: &mut Vec<u8>) {
    for (key, number, form) in table {
        match *key {
            "x-" => {
                for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
                    lengthed(*number, &pair(name, value, form), out);
                }
            }
            key => {
                if let Some(value) = map.get(key) {
                    field(*number, value, form, out);
                }
            }
        }
    }
}

fn field(number: u32, value: &Value, form: &Form, out: &mut Vec<u8>) {
    match (form, value) {
        (Form::Scalar, Value::String(text)) => lengthed(number, text.as_bytes(), out),
        (Form::Scalar, Value::Bool(true)) => {
            varint(u64::from(number) << 3, out);
            varint(1, out);
        }
        (Form::Texts, Value::Array(items)) => {
            items
                .iter()
                .filter_map(Value::as_str)
                .for_each(|text| lengthed(number, text.as_bytes(), out));
        }
        (Form::Any, value) => {
            let mut any = Vec::new();
            lengthed(2, value.to_string().as_bytes(), &mut any);
            lengthed(number, &any, out);
        }
        (Form::One(table), Value::Object(map)) => {
            let mut inner = Vec::new();
            message(map, table(), &mut inner);
            lengthed(number, &inner, out);
        }
        (Form::Many(table), Value::Array(items)) => {
            items.iter().for_each(|item| field(number, item, &Form::One(*table), out));
        }
        (Form::Named(table), Value::Object(map)) => {
            let mut inner = Vec::new();
            for (name, value) in map {
                lengthed(1, &pair(name, value, &Form::One(*table)), &mut inner);
            }
            lengthed(number, &inner, out);
        }
        (Form::Wrapped(form), value) => {
            let mut inner = Vec::new();
            field(1, value, form, &mut inner);
            lengthed(number, &inner, out);
        }
        (Form::Responses, Value::Object(map)) => {
            let mut inner = Vec::new();
            for (code, value) in map {
                let response = pair(code, value, &Form::Wrapped(&Form::One(response)));
                lengthed(1, &response, &mut inner);
            }
            lengthed(number, &inner, out);
        }
        (Form::Parameters, Value::Array(items)) => {
            items.iter().for_each(|item| parameter(number, item, out))
        }
        _ => {}
    }
}

/// `ParametersItem { Parameter { BodyParameter | NonBodyParameter { Query… | Path… } } }`
fn parameter(number: u32, value: &Value, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    match value["in"].as_str() {
        Some("body") => field(1, value, &Form::One(body_parameter), &mut inner),
        place => {
            let mut plain = Vec::new();
            match place {
                Some("path") => field(4, value, &Form::One(path_parameter), &mut plain),
                _ => field(3, value, &Form::One(query_parameter), &mut plain),
            }
            lengthed(2, &plain, &mut inner);
        }
    }
    let mut item = Vec::new();
    lengthed(1, &inner, &mut item);
    lengthed(number, &item, out);
}

/// A name and its value, as gnostic writes an entry of any map.
fn pair(name: &str, value: &Value, form: &Form) -> Vec<u8> {
    let mut out = Vec::new();
    lengthed(1, name.as_bytes(), &mut out);
    field(2, value, form, &mut out);
    out
}

fn lengthed(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
