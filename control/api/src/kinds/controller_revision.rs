//! ControllerRevision: what a DaemonSet or StatefulSet looked like once, to be found again.

use super::common::{AGE, NAME, integer, object_age, text};
use super::*;
use crate::json::Json;
use crate::path::Path;

/// `controllerrevisions.apps`.
pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    resource: "controllerrevisions.apps",
    validate,
    validate_update: |new, old| {
        let data = |revision: &Value| revision.at(&["data"]).cloned().unwrap_or_default();
        if data(new) == data(old) {
            return Vec::new();
        }
        vec![FieldError::immutable("data", data(new))]
    },
    columns: &[
        NAME,
        text("Controller", "Controller of the object."),
        integer("Revision", "Revision indicates the revision of the state represented by Data."),
        AGE,
    ],
    cells: |object, now| {
        let owner = object.controller().map(|owner| {
            let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", owner.kind.to_lowercase(), owner.name)
        });
        vec![
            object.meta.name.as_str().into(),
            owner.unwrap_or_else(|| "<none>".to_owned()).into(),
            object.value().int(&["revision"]).unwrap_or(0).into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

fn validate(revision: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !revision.has(&["data"]) {
        errors.push(FieldError::required("data", "data is mandatory"));
    }
    if revision.int(&["revision"]).unwrap_or(0) < 0 {
        let at = Path::new("revision");
        let number = revision["revision"].clone();
        errors.push(FieldError::invalid(at, number, "must be greater than or equal to 0"));
    }
    errors
}
