//! Volumes: names, exactly one source each, and what a source requires.

use std::collections::HashSet;

use serde_json::Value;

use super::container::relative;
use super::{Errors, quantity};
use crate::json::Json;
use crate::names;
use crate::path::Path;
use crate::status::FieldError;

/// Checks volumes and returns their names.
pub(super) fn volumes<'a>(
    volumes: &'a [Value],
    at: &Path<'_>,
    errors: &mut Errors,
) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = at.index(i);
        let name = volume.text(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(at.child("name"), ""));
        } else if let Some(problem) = names::label_1123(name) {
            errors.push(FieldError::invalid(at.child("name"), name, problem));
        }
        if !name.is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(at.child("name"), name));
        }
        let sources = volume.pairs(&[]).filter(|(field, v)| *field != "name" && !v.is_null());
        let mut count = 0;
        for (field, settings) in sources {
            count += 1;
            if count > 1 {
                errors.push(FieldError::forbidden(
                    at.child(field),
                    "may not specify more than 1 volume type",
                ));
            } else {
                source(field, settings, &at.child(field), errors);
            }
        }
        if count == 0 {
            errors.push(FieldError::required(at, "must specify a volume type"));
        }
    }
    seen
}

/// Checks one source of a volume, by the field that it is in.
pub(in crate::kinds) fn source(kind: &str, source: &Value, at: &Path<'_>, errors: &mut Errors) {
    let required = match kind {
        "secret" => Some("secretName"),
        "configMap" => Some("name"),
        "hostPath" => Some("path"),
        "persistentVolumeClaim" => Some("claimName"),
        "csi" => Some("driver"),
        _ => None,
    };
    if let Some(field) = required
        && source.text(&[field]).is_empty()
    {
        errors.push(FieldError::required(at.child(field), ""));
    }
    match kind {
        "emptyDir" => {
            if let Some(limit) = source.at(&["sizeLimit"]) {
                quantity(limit, &at.child("sizeLimit"), errors);
            }
        }
        "hostPath" => {
            let path = source.text(&["path"]);
            if path.split('/').any(|part| part == "..") {
                errors.push(FieldError::invalid(at.child("path"), path, "must not contain '..'"));
            }
        }
        "secret" | "configMap" | "downwardAPI" | "projected" => files(source, at, errors),
        _ => {}
    }
    let sources = at.child("sources");
    for (i, part) in source.list(&["sources"]).iter().enumerate() {
        let at = sources.index(i);
        for (j, (field, settings)) in part.pairs(&[]).filter(|(_, v)| !v.is_null()).enumerate() {
            if j > 0 {
                errors.push(FieldError::forbidden(
                    at.child(field),
                    "may not specify more than 1 volume type",
                ));
                continue;
            }
            let at = at.child(field);
            match field {
                "secret" | "configMap" if settings.text(&["name"]).is_empty() => {
                    errors.push(FieldError::required(at.child("name"), ""));
                }
                "serviceAccountToken" if settings.text(&["path"]).is_empty() => {
                    errors.push(FieldError::required(at.child("path"), ""));
                }
                _ => {}
            }
            files(settings, &at, errors);
        }
    }
}

/// File modes, and which key goes to which file.
fn files(source: &Value, at: &Path<'_>, errors: &mut Errors) {
    mode(source, "defaultMode", at, errors);
    let items = at.child("items");
    for (i, item) in source.list(&["items"]).iter().enumerate() {
        let at = items.index(i);
        let downward = item.has(&["fieldRef"]) || item.has(&["resourceFieldRef"]);
        if !downward && item.text(&["key"]).is_empty() {
            errors.push(FieldError::required(at.child("key"), ""));
        }
        let path = item.text(&["path"]);
        if path.is_empty() {
            errors.push(FieldError::required(at.child("path"), ""));
        } else {
            relative(path, &at.child("path"), errors);
        }
        mode(item, "mode", &at, errors);
    }
}

fn mode(object: &Value, field: &str, at: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = object.int(&[field])
        && !(0..=0o777).contains(&mode)
    {
        errors.push(FieldError::invalid(
            at.child(field),
            mode,
            "must be a number between 0 and 0777 (octal), both inclusive",
        ));
    }
}
