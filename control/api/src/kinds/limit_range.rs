//! LimitRange.

use super::common::{CREATED_AT, NAME, name_and_creation};
use super::*;
use crate::json::{Fields, Json, object, object_or_new, objects, set_default};
use crate::path::Path;
use crate::quantity::Quantity;

/// `limitranges`.
pub static KIND: Kind = Kind {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    resource: "limitranges",
    short_names: &["limits"],
    default: |range| {
        let Some(spec) = range.as_object_mut().and_then(|r| object(r, "spec")) else { return };
        for item in objects(spec, "limits") {
            for field in LISTS {
                if let Some(list) = object(item, field) {
                    pod::defaults::quantities(list);
                }
            }
            if item.text(&["type"]) == "Container" {
                // What is not said follows from what is.
                follow(item, "max", "default");
                follow(item, "default", "defaultRequest");
                follow(item, "min", "defaultRequest");
            }
        }
    },
    validate,
    columns: &[NAME, CREATED_AT],
    cells: name_and_creation,
    ..Kind::BASE
};

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn follow(item: &mut Fields, from: &str, to: &str) {
    let Some(known) = item.map(&[from]).cloned() else { return };
    let Some(list) = object_or_new(item, to) else { return };
    for (resource, quantity) in known {
        set_default(list, &resource, || quantity);
    }
}

fn validate(range: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec.limits");
    let mut seen = Vec::new();
    for (i, item) in range.list(&["spec", "limits"]).iter().enumerate() {
        let at = at.index(i);
        let kind = item.text(&["type"]);
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(at.child("type"), kind));
        }
        seen.push(kind);
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if item.map(&[field]).is_some_and(|list| !list.is_empty()) {
                    let why = "may not be specified when `type` is 'Pod'";
                    errors.push(FieldError::forbidden(at.child(field), why));
                }
            }
        }
        let has_storage = |field| item.has(&[field, "storage"]);
        if kind == "PersistentVolumeClaim" && !has_storage("min") && !has_storage("max") {
            let why = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(FieldError::required(at.child("limits"), why));
        }
        let mut resources = std::collections::BTreeSet::new();
        for field in LISTS {
            resources.extend(item.map(&[field]).into_iter().flatten().map(|(name, _)| name));
        }
        for resource in resources {
            validate_resource(item, resource, &at, &mut errors);
        }
    }
    errors
}

/// Checks what is said of one resource against itself.
fn validate_resource(item: &Value, resource: &str, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let find = |field: &str| {
        let value = item.at(&[field, resource])?;
        Some((Quantity::of(value)?, value.as_str().unwrap_or_default().to_owned()))
    };
    let [max, min, default, request, ratio] = LISTS.map(find);
    let mut ordered = |less: &Option<(Quantity, String)>,
                       more: &Option<(Quantity, String)>,
                       field: &str,
                       [one, other]: [&str; 2]| {
        if let (Some((less, less_text)), Some((more, more_text))) = (less, more)
            && less > more
        {
            let said = item.at(&[field, resource]).cloned().unwrap_or_default();
            let why = format!("{one} {less_text} is greater than {other} {more_text}");
            errors.push(FieldError::invalid(at.child(field).key(resource), said, why));
        }
    };
    ordered(&min, &max, "min", ["min value", "max value"]);
    ordered(&min, &request, "defaultRequest", ["min value", "default request value"]);
    ordered(&request, &max, "defaultRequest", ["default request value", "max value"]);
    ordered(&request, &default, "defaultRequest", ["default request value", "default limit value"]);
    ordered(&min, &default, "default", ["min value", "default value"]);
    ordered(&default, &max, "default", ["default value", "max value"]);
    if let Some((quantity, text)) = &ratio
        && quantity.milli() < 1000
    {
        let why = format!("ratio {text} is less than 1");
        let at = at.child("maxLimitRequestRatio");
        errors.push(FieldError::invalid(at.key(resource), text.as_str(), why));
    }
}
