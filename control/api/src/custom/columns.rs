//! What `kubectl get` prints of a custom kind.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::json_path::JsonPath;
use crate::age;
use crate::json::Json;
use crate::object::Object;

/// One of `additionalPrinterColumns`.
#[derive(Debug)]
pub(super) struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    /// None where it cannot be read, which validation refuses.
    path: Option<JsonPath>,
}

impl Column {
    /// The columns of a version, or what stands in their place.
    pub(super) fn of_version(version: &Value) -> Vec<Self> {
        let given = version.list(&["additionalPrinterColumns"]);
        if given.is_empty() {
            return vec![Self::of(&json!({
                "name": "Age",
                "type": "date",
                "description": "CreationTimestamp is a timestamp representing the server time when this object was created. \
                    It is not guaranteed to be set in happens-before order across separate operations. Clients may not set \
                    this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. \
                    Null for lists. More info: \
                    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
                "jsonPath": ".metadata.creationTimestamp",
            }))];
        }
        given.iter().map(Self::of).collect()
    }

    fn of(column: &Value) -> Self {
        let text = |name: &str| column.text(&[name]).to_owned();
        let path = text("jsonPath");
        let description = match text("description") {
            none if none.is_empty() => {
                format!("Custom resource definition column (in JSONPath format): {path}")
            }
            given => given,
        };
        Self {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            description,
            priority: column.int(&["priority"]).unwrap_or(0),
            path: JsonPath::parse(&path).ok(),
        }
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let Some(value) = self.path.as_ref().and_then(|path| path.first(object)) else {
            return Value::Null;
        };
        match (self.kind.as_str(), value) {
            (_, Value::Null) => Value::Null,
            ("string", Value::String(_)) => value.clone(),
            ("string", other) => other.to_string().into(),
            ("integer", Value::Number(number)) => match number.as_i64() {
                Some(number) => number.into(),
                None => number.as_f64().map(|number| number as i64).into(),
            },
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            ("date", Value::String(text)) => match text.parse() {
                Ok(time) => age::since(Some(time), now).into(),
                Err(_) => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

/// `columnDefinitions` of a Table.
pub(super) fn definitions(columns: &[Column]) -> Value {
    let name = json!({
        "name": "Name",
        "type": "string",
        "format": "name",
        "description": "Name must be unique within a namespace. Is required when creating resources, although some \
            resources may allow a client to request the generation of an appropriate name automatically. Name is primarily \
            intended for creation idempotence and configuration definition. Cannot be updated. More info: \
            https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
        "priority": 0,
    });
    let rest = columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    });
    std::iter::once(name).chain(rest).collect()
}

/// The cells of one object's row.
pub(super) fn cells(columns: &[Column], object: &Object, now: Timestamp) -> Vec<Value> {
    let tree = object.value();
    let name = Value::from(object.meta.name.as_str());
    std::iter::once(name).chain(columns.iter().map(|column| column.cell(&tree, now))).collect()
}
