//! In-place resize: what containers ask for and may use of CPU and memory changes while they run, and nothing else does
//! (`ValidatePodResize`, `dropNonResizeUpdates` upstream).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::Errors;
use crate::json::Json;
use crate::path::Path;
use crate::pod::qos_class;
use crate::status::FieldError;

const ONLY: &str = "only cpu and memory resources are mutable";
const ONLY_SIDECARS: &str = "only cpu and memory resources for sidecar containers are mutable";
const NOT_INIT: &str = "resources for non-sidecar init containers are immutable";
/// What may change.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];
/// Where a container says it.
const FIELDS: [&str; 2] = ["resources", "resizePolicy"];
/// The annotation of a Pod that a node has from elsewhere than the API.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The Pod as it was, with the resources that were asked for. Containers that are others than before are left as they were
/// asked for, so that [`update`] says what is wrong with them.
pub(in crate::kinds) fn only(old: &Value, asked: &Value) -> Value {
    let mut whole = old.clone();
    if let Some(metadata) = whole.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    let Some(spec) = whole.get_mut("spec").and_then(Value::as_object_mut) else { return whole };
    for list in ["containers", "initContainers"] {
        let (was, is) = (old.list(&["spec", list]), asked.list(&["spec", list]));
        let same = was.len() == is.len() && was.iter().zip(is).all(|(a, b)| name(a) == name(b));
        let now = match same {
            true => was.iter().zip(is).map(|(was, is)| with(was, is)).collect(),
            false => is.to_vec(),
        };
        match now.is_empty() {
            true => spec.remove(list),
            false => spec.insert(list.to_owned(), Value::Array(now)),
        };
    }
    match asked.at(&["spec", "resources"]) {
        Some(resources) => spec.insert("resources".to_owned(), resources.clone()),
        None => spec.remove("resources"),
    };
    whole
}

fn name(container: &Value) -> &str {
    container.text(&["name"])
}

fn with(was: &Value, asked: &Value) -> Value {
    let mut now = was.clone();
    if let Some(now) = now.as_object_mut() {
        for field in FIELDS {
            match asked.get(field) {
                Some(value) => now.insert(field.to_owned(), value.clone()),
                None => now.remove(field),
            };
        }
    }
    now
}

/// Checks a change through the subresource, which changes nothing else.
pub(in crate::kinds) fn update(new: &Value, old: &Value) -> Errors {
    let whole = |why: &str| vec![FieldError::forbidden("", why)];
    if old.pairs(&["metadata", "annotations"]).any(|(name, _)| name == MIRROR) {
        return whole("static pods cannot be resized");
    }
    if old.text(&["spec", "os", "name"]) == "windows" {
        return whole("windows pods cannot be resized");
    }
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let class = |pod: &Value| qos_class(pod.at(&["spec"]).unwrap_or(&Value::Null));
    let was = match old.text(&["status", "qosClass"]) {
        "" => class(old),
        told => told,
    };
    if was != class(new) {
        errors.push(FieldError::invalid(
            at,
            was,
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    let mut running = old.list(&["status", "containerStatuses"]).iter();
    if running.find(|c| c.has(&["state", "running"])).is_some_and(|c| !c.has(&["resources"])) {
        let why = "Pod running on node without support for resize";
        errors.push(FieldError::forbidden(at, why));
    }
    let others = reordered(new, old, &at);
    if !others.is_empty() {
        errors.extend(others);
        return errors;
    }
    if old.has(&["spec", "resources"]) || new.has(&["spec", "resources"]) {
        let at = at.child("resources");
        let (is, was) = (&new["spec"], &old["spec"]);
        removed(is, was, &at, &mut errors);
        if !old.has(&["spec", "resources"]) || fixed(is) != fixed(was) {
            errors.push(FieldError::forbidden(Path::new("spec"), ONLY));
        }
    }
    for list in ["initContainers", "containers"] {
        let pairs = new.list(&["spec", list]).iter().zip(old.list(&["spec", list]));
        for (i, (is, was)) in pairs.enumerate() {
            let sidecar = was.text(&["restartPolicy"]) == "Always";
            let why = match (list, sidecar) {
                ("containers", _) => ONLY,
                (_, true) => ONLY_SIDECARS,
                (_, false) => {
                    if is != was {
                        errors.push(FieldError::forbidden(at, NOT_INIT));
                    }
                    continue;
                }
            };
            let path = at.child(list);
            let path = path.index(i);
            removed(is, was, &path.child("resources"), &mut errors);
            if fixed(is) != fixed(was) || is.get("resizePolicy") != was.get("resizePolicy") {
                errors.push(FieldError::forbidden(at, why));
            }
        }
    }
    errors
}

/// Containers that came, went or have other names.
fn reordered(new: &Value, old: &Value, at: &Path<'_>) -> Errors {
    let mut errors = Vec::new();
    for list in ["containers", "initContainers"] {
        let (is, was) = (new.list(&["spec", list]), old.list(&["spec", list]));
        let at = at.child(list);
        if is.len() != was.len() {
            let why = format!("{list} may not be added or removed on resize");
            errors.push(FieldError::forbidden(at, why));
            continue;
        }
        for (i, _) in is.iter().zip(was).enumerate().filter(|(_, (a, b))| name(a) != name(b)) {
            let why = format!("{list} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(at.index(i).child("name"), why));
        }
    }
    errors
}

/// What was asked for or limited stays so.
fn removed(new: &Value, old: &Value, at: &Path<'_>, errors: &mut Errors) {
    for (list, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let is = |name: &str| new.has(&["resources", list, name]);
        if old.pairs(&["resources", list]).any(|(name, _)| !is(name)) {
            errors.push(FieldError::forbidden(at.child(list), format!("{what} cannot be removed")));
        }
    }
}

/// Of what something asks for, all that may not change.
fn fixed(of: &Value) -> Vec<Map<String, Value>> {
    let mut claims = Map::new();
    if let Some(list) = of.at(&["resources", "claims"]) {
        claims.insert("claims".to_owned(), list.clone());
    }
    let lists = ["requests", "limits"].map(|list| {
        let mut list = of.map(&["resources", list]).cloned().unwrap_or_default();
        list.retain(|name, _| !RESIZABLE.contains(&name.as_str()));
        list.into_iter().collect()
    });
    lists.into_iter().chain([claims]).collect()
}

/// Checks what a container's `resizePolicy` says; `starts_again` is whether one that ends may run once more.
pub(super) fn policies(container: &Value, starts_again: bool, at: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    let list = at.child("resizePolicy");
    let one_of = |value: &str, allowed: &[&str], errors: &mut Errors| {
        if value.is_empty() {
            errors.push(FieldError::required(list, ""));
        } else if !allowed.contains(&value) {
            errors.push(FieldError::not_supported(list, value, allowed));
        }
    };
    for (i, policy) in container.list(&["resizePolicy"]).iter().enumerate() {
        let (name, wants) = (policy.text(&["resourceName"]), policy.text(&["restartPolicy"]));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(list.index(i), name));
        }
        one_of(name, &["cpu", "memory"], errors);
        one_of(wants, &["NotRequired", "RestartContainer"], errors);
        if !starts_again && wants != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(list, wants, detail));
        }
    }
}
