//! Event.

use super::common::{age_of, or, text, wide};
use super::*;
use crate::json::Json;

/// `events`.
pub static KIND: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    resource: "events",
    short_names: &["ev"],
    short_history: true,
    validate: |event| {
        // An event about something cluster-scoped lives in `default`.
        let about = event.text(&["involvedObject", "namespace"]);
        let namespace = event.text(&["metadata", "namespace"]);
        if or(about, "default") == namespace || (about.is_empty() && namespace == "kube-system") {
            return Vec::new();
        }
        vec![FieldError::invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        )]
    },
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
