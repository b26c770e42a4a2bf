//! What the kinds' files share: columns, cells and the usual treatment of `status`.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, Prepare};
use crate::age;
use crate::json::{Json, keep, object_or_new, set_default};
use crate::object::Object;
use crate::selector::LabelSelector;

pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};
pub(super) const AGE: Column = text("Age", "Time since the object was created.");
pub(super) const CREATED_AT: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    description: "When the object was created.",
    priority: 0,
};

/// A column of text.
pub(super) const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 0 }
}

/// A column of integers.
pub(super) const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", format: "", description, priority: 0 }
}

/// A column of truths.
pub(super) const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", description, priority: 0 }
}

/// A column that is shown with `-o wide` only.
pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 1 }
}

/// Field selectors that read the field they are named after.
macro_rules! fields {
    ($($path:literal),* $(,)?) => {
        &[$(SelectableField { path: $path, read: |o| crate::json::peek(o.json(), $path) }),*]
    };
}
pub(super) use fields;

/// Age of an object.
pub(super) fn object_age(object: &Object, now: Timestamp) -> Value {
    age::since(object.meta.creation_timestamp, now).into()
}

/// Age of a time in a tree, such as `2024-01-01T00:00:00Z`.
pub(super) fn age_of(time: &str, now: Timestamp) -> String {
    age::since(time.parse().ok(), now)
}

/// Name and creation time: the cells of kinds that have no printer upstream.
pub(super) fn name_and_creation(object: &Object, _: Timestamp) -> Vec<Value> {
    let created = object.meta.creation_timestamp.map(|t| t.to_string());
    vec![object.meta.name.as_str().into(), created.into()]
}

/// A text, or something else in its place where it is empty.
pub(super) fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn format_labels(labels: Option<&Value>) -> String {
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    let pairs: Vec<_> = labels.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    or(&pairs.join(","), "<none>").to_owned()
}

/// A `metav1.LabelSelector` as text.
pub(super) fn format_selector(selector: Option<&Value>) -> String {
    match LabelSelector::from_value(selector) {
        Ok(selector) => or(&selector.to_string(), "<none>").to_owned(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names and images of the containers in a Pod's spec, each joined by commas.
pub(super) fn container_cells(spec: Option<&Value>) -> [Value; 2] {
    let containers = spec.map_or(&[][..], |s| s.list(&["containers"]));
    ["name", "image"].map(|field| {
        containers.iter().map(|c| c.text(&[field])).collect::<Vec<_>>().join(",").into()
    })
}

/// Access modes of a volume, each once, in short: `RWO,ROX`.
pub(super) fn access_modes(modes: &[Value]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let named = known.iter().filter(|(name, _)| modes.iter().any(|mode| mode == name));
    named.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// Adds a finalizer to a new object, unless it is there.
pub(super) fn finalizer(object: &mut Value, name: &str) {
    let Some(metadata) = object.as_object_mut().and_then(|o| object_or_new(o, "metadata")) else {
        return;
    };
    set_default(metadata, "finalizers", Vec::<Value>::new);
    if let Some(all) = metadata.get_mut("finalizers").and_then(Value::as_array_mut)
        && !all.iter().any(|known| known == name)
    {
        all.push(name.into());
    }
}

/// The first three of a list, and how many more there are.
pub(super) fn some_of(items: impl Iterator<Item = String>, none: &str) -> String {
    const SHOWN: usize = 3;
    let items: Vec<_> = items.collect();
    let list = items[..items.len().min(SHOWN)].join(",");
    match items.len() {
        0 => none.to_owned(),
        n if n > SHOWN => format!("{list} + {} more...", n - SHOWN),
        _ => list,
    }
}

/// Kinds with a status of their own: none on create, that of `old` on update, nothing else on a status update.
pub(super) fn prepare_status(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            if let Some(new) = new.as_object_mut() {
                new.remove("status");
            }
        }
        Prepare::Update { new, old } => {
            if let Some(new) = new.as_object_mut() {
                keep(new, old, "status");
            }
        }
        Prepare::Status { new, old } => only_status(new, old),
    }
}

/// The same, but who writes the status may label and annotate the object, too.
pub(super) fn prepare_with_labels(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Status { new, old } => status_and_labels(new, old),
        other => prepare_status(other),
    }
}

/// As [`only_status`], but for labels and annotations, which upstream lets through for most kinds.
pub(super) fn status_and_labels(new: &mut Value, old: &Value) {
    let told = ["labels", "annotations"].map(|field| {
        (field, new.get_mut("metadata").and_then(|m| m.get_mut(field)).map(Value::take))
    });
    only_status(new, old);
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        for (field, value) in told {
            match value {
                Some(value) => metadata.insert(field.into(), value),
                None => metadata.remove(field),
            };
        }
    }
}

/// Everything but `status` becomes as in `old`; the precondition on `resourceVersion` and the field managers, which
/// belong to the request, stay.
pub(super) fn only_status(new: &mut Value, old: &Value) {
    let Some(new) = new.as_object_mut() else { return };
    let status = new.remove("status");
    let metadata = new.remove("metadata");
    *new = old.as_object().cloned().unwrap_or_default();
    if let (Some(was), Some(mut is)) =
        (new.get_mut("metadata").and_then(Value::as_object_mut), metadata)
    {
        for field in ["resourceVersion", "managedFields"] {
            match is.get_mut(field) {
                Some(value) => was.insert(field.to_owned(), value.take()),
                None => was.remove(field),
            };
        }
    }
    match status {
        Some(status) => new.insert("status".to_owned(), status),
        None => new.remove("status"),
    };
}
