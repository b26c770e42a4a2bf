//! Event.

use super::common::{age_of, or, text, wide};
use super::*;
use crate::json::Json;
use crate::names;

/// `events`.
pub static KIND: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    resource: "events",
    short_names: &["ev"],
    short_history: true,
    validate: |event| told(event, "reportingComponent"),
    columns: &[
        text("Last Seen", "When it was last seen."),
        text("Type", "Normal or Warning."),
        text("Reason", "Why it happened, in a word."),
        text("Object", "What it is about."),
        wide("Subobject", "The part of the object that it is about."),
        wide("Source", "Who reported it."),
        text("Message", "What happened."),
        wide("First Seen", "When it was first seen."),
        wide("Count", "How often it was seen."),
        Column {
            name: "Name",
            kind: "string",
            format: "name",
            description: "Name must be unique within a namespace.",
            priority: 1,
        },
    ],
    cells,
    fields: &[
        field("involvedObject.kind", |o| peek(o, "involvedObject.kind")),
        field("involvedObject.namespace", |o| peek(o, "involvedObject.namespace")),
        field("involvedObject.name", |o| peek(o, "involvedObject.name")),
        field("involvedObject.uid", |o| peek(o, "involvedObject.uid")),
        field("involvedObject.apiVersion", |o| peek(o, "involvedObject.apiVersion")),
        field("involvedObject.resourceVersion", |o| peek(o, "involvedObject.resourceVersion")),
        field("involvedObject.fieldPath", |o| peek(o, "involvedObject.fieldPath")),
        field("reason", |o| peek(o, "reason")),
        field("reportingComponent", |o| peek(o, "reportingComponent")),
        field("source", |o| {
            let source = peek(o, "source.component");
            if source.is_empty() { peek(o, "reportingComponent") } else { source }
        }),
        field("type", |o| peek(o, "type")),
    ],
    ..Kind::BASE
};

/// Most bytes of names of who reports and of what was done, and of what is said of it.
const MAX_NAME: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// Checks an event; those with a time of their own are of the newer form, which says more. `reporter` is what the field with who
/// reports it is called.
fn told(event: &Value, reporter: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let of = |field: &str| event.text(&[field]);
    // An event about something cluster-scoped lives in `default`.
    let about = event.text(&["involvedObject", "namespace"]);
    let namespace = event.text(&["metadata", "namespace"]);
    if or(about, "default") != namespace && !(about.is_empty() && namespace == "kube-system") {
        let why = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", about, why));
    }
    if of("eventTime").is_empty() {
        return errors;
    }
    let component = of("reportingComponent");
    if component.is_empty() {
        errors.push(FieldError::required(reporter, ""));
    }
    if let Some(problem) = names::qualified(component) {
        errors.push(FieldError::invalid(reporter, component, problem));
    }
    for field in ["reportingInstance", "action", "reason"] {
        if of(field).is_empty() {
            errors.push(FieldError::required(field, ""));
        }
    }
    for (field, most) in [
        ("reportingInstance", MAX_NAME),
        ("action", MAX_NAME),
        ("reason", MAX_NAME),
        ("message", MAX_MESSAGE),
    ] {
        if of(field).len() > most {
            let why = format!("can have at most {most} characters");
            errors.push(FieldError::invalid(field, "", why));
        }
    }
    errors
}

/// What `events.k8s.io/v1` checks beside, of a new event or of a change, as it is stored: fields are named as there.
pub fn check_v1(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = told(new, "reportingController");
    if new.has(&["series"]) {
        if new.int(&["series", "count"]).unwrap_or(0) < 2 {
            errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
        }
        if new.text(&["series", "lastObservedTime"]).is_empty() {
            errors.push(FieldError::required("series.lastObservedTime", ""));
        }
    }
    let Some(old) = old else {
        if new.text(&["eventTime"]).is_empty() {
            errors.push(FieldError::required("eventTime", ""));
        }
        let kind = new.text(&["type"]);
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
        }
        // What the older form has in their place.
        for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            let unset = match new.at(&[field]) {
                None => true,
                Some(Value::Number(number)) => number.as_i64() == Some(0),
                Some(Value::Object(fields)) => fields.values().all(|v| v == ""),
                Some(_) => false,
            };
            if !unset {
                errors.push(FieldError::invalid(field, "", "needs to be unset"));
            }
        }
        return errors;
    };
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "reportingController",
        "reportingInstance",
        "action",
        "type",
        "eventTime",
    ] {
        let of = |event: &Value| {
            let stored = if field == "reportingController" { "reportingComponent" } else { field };
            event.at(&[stored]).cloned().unwrap_or_default()
        };
        if of(new) != of(old) {
            errors.push(FieldError::immutable(field, of(new)));
        }
    }
    errors
}

const fn field(path: &'static str, read: fn(&Object) -> String) -> SelectableField {
    SelectableField { path, read }
}

fn peek(object: &Object, path: &str) -> String {
    crate::json::peek(object.json(), path)
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let event = object.value();
    let of = |path: &[&str]| event.text(path).to_owned();
    let first = age_of(or(event.text(&["firstTimestamp"]), event.text(&["eventTime"])), now);
    let mut last = match event.text(&["lastTimestamp"]) {
        "" => first.clone(),
        time => age_of(time, now),
    };
    let mut count = event.int(&["count"]).unwrap_or(0).max(1);
    if event.has(&["series"]) {
        last = age_of(event.text(&["series", "lastObservedTime"]), now);
        count = event.int(&["series", "count"]).unwrap_or(0);
    }
    let kind = event.text(&["involvedObject", "kind"]).to_lowercase();
    let about = match event.text(&["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component =
        or(event.text(&["source", "component"]), event.text(&["reportingComponent"])).to_owned();
    let source = match or(event.text(&["source", "host"]), event.text(&["reportingInstance"])) {
        "" => component,
        host => format!("{component}, {host}"),
    };
    vec![
        last.into(),
        of(&["type"]).into(),
        of(&["reason"]).into(),
        about.into(),
        of(&["involvedObject", "fieldPath"]).into(),
        source.into(),
        event.text(&["message"]).trim().into(),
        first.into(),
        count.into(),
        object.meta.name.as_str().into(),
    ]
}
