//! IPAddress: who has an address out of the Services' range.

use super::common::{AGE, NAME, object_age, text};
use super::*;
use crate::json::Json;
use crate::names;
use crate::path::Path;

/// `ipaddresses.networking.k8s.io`.
pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    resource: "ipaddresses.networking.k8s.io",
    short_names: &["ip"],
    namespaced: false,
    // An address, which the kind checks itself: it may hold colons.
    name_rule: NameRule::PathSegment,
    validate,
    validate_update: |new, old| {
        let parent = new.at(&["spec", "parentRef"]);
        if parent == old.at(&["spec", "parentRef"]) {
            return Vec::new();
        }
        vec![FieldError::immutable("spec.parentRef", parent.cloned().unwrap_or_default())]
    },
    columns: &[NAME, text("ParentRef", "Who has the address."), AGE],
    cells: |object, now| {
        let address = object.value();
        let parent = match address.at(&["spec", "parentRef"]) {
            None => "<none>".to_owned(),
            Some(parent) => {
                let of = |field| parent.text(&[field]);
                let mut shown = of("resource").to_lowercase();
                for (before, text) in
                    [(".", of("group")), ("/", of("namespace")), ("/", of("name"))]
                {
                    if !text.is_empty() {
                        shown.push_str(before);
                        shown.push_str(text);
                    }
                }
                shown
            }
        };
        vec![object.meta.name.as_str().into(), parent.into(), object_age(object, now)]
    },
    ..Kind::BASE
};

fn validate(address: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = address.text(&["metadata", "name"]);
    if let Some(problem) = names::ip(name) {
        errors.push(FieldError::invalid("metadata.name", name, problem));
    }
    let at = Path::new("spec.parentRef");
    let Some(parent) = address.at(&["spec", "parentRef"]) else {
        errors.push(FieldError::required(at, ""));
        return errors;
    };
    for (field, required, rule) in [
        ("group", false, names::subdomain as fn(&str) -> names::Problem),
        ("resource", true, names::path_segment),
        ("name", true, names::path_segment),
        ("namespace", false, names::path_segment),
    ] {
        let text = parent.text(&[field]);
        if text.is_empty() {
            if required {
                errors.push(FieldError::required(at.child(field), ""));
            }
        } else if let Some(problem) = rule(text) {
            errors.push(FieldError::invalid(at.child(field), text, problem));
        }
    }
    errors
}
