//! RuntimeClass.

use super::common::{AGE, NAME, object_age, text};
use super::*;
use crate::json::{Json, object};
use crate::names;

/// `runtimeclasses.node.k8s.io`.
pub static KIND: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    resource: "runtimeclasses.node.k8s.io",
    namespaced: false,
    default: |class| {
        if let Some(fixed) = class
            .as_object_mut()
            .and_then(|c| object(c, "overhead"))
            .and_then(|o| object(o, "podFixed"))
        {
            pod::defaults::quantities(fixed);
        }
    },
    validate: |class| {
        let handler = class.text(&["handler"]);
        names::label_1123(handler)
            .map(|problem| FieldError::invalid("handler", handler, problem))
            .into_iter()
            .collect()
    },
    validate_update: |new, old| {
        if new.text(&["handler"]) == old.text(&["handler"]) {
            return Vec::new();
        }
        vec![FieldError::immutable("handler", new.text(&["handler"]))]
    },
    columns: &[NAME, text("Handler", "The runtime that the class stands for."), AGE],
    cells: |object, now| {
        let class = object.value();
        vec![
            object.meta.name.as_str().into(),
            class.text(&["handler"]).into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};
