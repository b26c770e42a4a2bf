//! PriorityClass.

use super::common::{AGE, NAME, boolean, integer, object_age, text};
use super::*;
use crate::json::{Json, default_text, set_default};

/// `priorityclasses.scheduling.k8s.io`.
pub static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    resource: "priorityclasses.scheduling.k8s.io",
    short_names: &["pc"],
    namespaced: false,
    generation: Generation::Spec,
    default: |class| {
        if let Some(class) = class.as_object_mut() {
            default_text(class, "preemptionPolicy", "PreemptLowerPriority");
            set_default(class, "value", || 0);
        }
    },
    validate,
    validate_update: |new, old| {
        let mut errors = Vec::new();
        if new.int(&["value"]) != old.int(&["value"]) {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        if new.text(&["preemptionPolicy"]) != old.text(&["preemptionPolicy"]) {
            errors.push(FieldError::immutable("preemptionPolicy", new.text(&["preemptionPolicy"])));
        }
        errors
    },
    columns: &[
        NAME,
        integer("Value", "The higher the value, the higher the priority."),
        boolean("Global-Default", "Applies to pods that name no priority class."),
        AGE,
        text("PreemptionPolicy", "Whether pods of this class may preempt others."),
    ],
    cells: |object, now| {
        let class = object.value();
        vec![
            object.meta.name.as_str().into(),
            class.int(&["value"]).unwrap_or(0).into(),
            class.flag(&["globalDefault"]).into(),
            object_age(object, now),
            class.text(&["preemptionPolicy"]).into(),
        ]
    },
    ..Kind::BASE
};

/// The highest value that users may give; what is above is for the system's own classes.
const HIGHEST_USER: i64 = 1_000_000_000;

fn validate(class: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = class.text(&["metadata", "name"]);
    let value = class.int(&["value"]).unwrap_or(0);
    if let Some(rest) = name.strip_prefix("system-") {
        let known = [("cluster-critical", 2_000_000_000), ("node-critical", 2_000_001_000)];
        if !known.contains(&(rest, value)) {
            errors.push(FieldError::forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only",
            ));
        }
    } else if value > HIGHEST_USER {
        errors.push(FieldError::forbidden(
            "value",
            format!("maximum allowed value of a user defined priority is {HIGHEST_USER}"),
        ));
    }
    let policy = class.text(&["preemptionPolicy"]);
    if !matches!(policy, "PreemptLowerPriority" | "Never") {
        errors.push(FieldError::not_supported(
            "preemptionPolicy",
            policy,
            &["Never", "PreemptLowerPriority"],
        ));
    }
    errors
}
