//! PersistentVolumeClaim.

use serde_json::json;

use super::common::{AGE, NAME, access_modes, object_age, or, prepare_with_labels, text, wide};
use super::persistent_volume::{class_name, modes, volume_mode};
use super::pod::validate::quantity;
use super::*;
use crate::json::{Fields, Json, default_text, object, object_or_new};
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;

/// Keeps a claim for as long as Pods use it.
pub const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// What the class was named by before it had a field.
pub const BETA_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// `persistentvolumeclaims`.
pub static KIND: Kind = Kind {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    resource: "persistentvolumeclaims",
    short_names: &["pvc"],
    subresources: &[Subresource::Status],
    default: |claim| {
        let Some(claim) = claim.as_object_mut() else { return };
        if let Some(status) = object_or_new(claim, "status") {
            default_text(status, "phase", "Pending");
        }
        if let Some(spec) = object_or_new(claim, "spec") {
            default_spec(spec);
        }
    },
    prepare: |prepare| match prepare {
        Prepare::Create(new) => {
            common::finalizer(new, PROTECTION);
            new["status"] = json!({"phase": "Pending"});
        }
        other => prepare_with_labels(other),
    },
    validate: |claim| {
        let mut errors = Vec::new();
        let spec = claim.at(&["spec"]).unwrap_or(&Value::Null);
        validate_spec(spec, &Path::new("spec"), &mut errors);
        errors
    },
    validate_update,
    warnings: warnings::claim,
    columns: &[
        NAME,
        text("Status", "Whether it is bound to a volume."),
        text("Volume", "The volume that it is bound to."),
        text("Capacity", "How much the volume holds."),
        text("Access Modes", "How the volume may be mounted."),
        text("StorageClass", "The class that it asks for."),
        text("VolumeAttributesClass", "The class of attributes that it asks for."),
        AGE,
        wide("VolumeMode", "Whether it asks for a file system or a block device."),
    ],
    cells: |object, now| {
        let claim = object.value();
        let of = |path: &[&str]| Value::from(claim.text(path));
        let phase = if object.is_deleting() {
            "Terminating".into()
        } else {
            of(&["status", "phase"])
        };
        let bound = !claim.text(&["spec", "volumeName"]).is_empty();
        let [capacity, modes] = if bound {
            let modes = access_modes(claim.list(&["status", "accessModes"]));
            [of(&["status", "capacity", "storage"]), modes.into()]
        } else {
            ["".into(), "".into()]
        };
        let unset = |field| Value::from(or(claim.text(&["spec", field]), "<unset>"));
        let annotated = object.meta.annotations.get(BETA_CLASS_ANNOTATION);
        let class = claim.text(&["spec", "storageClassName"]);
        vec![
            object.meta.name.as_str().into(),
            phase,
            of(&["spec", "volumeName"]),
            capacity,
            modes,
            annotated.map_or(class, String::as_str).into(),
            unset("volumeAttributesClassName"),
            object_age(object, now),
            unset("volumeMode"),
        ]
    },
    ..Kind::BASE
};

/// Defaults of a claim's spec, wherever it is; each of the two fields for data to begin with is filled in from the other.
fn default_spec(spec: &mut Fields) {
    default_text(spec, "volumeMode", "Filesystem");
    if let Some(resources) = object(spec, "resources") {
        for list in ["limits", "requests"] {
            if let Some(list) = object(resources, list) {
                pod::defaults::quantities(list);
            }
        }
    }
    match (spec.at(&["dataSource"]).cloned(), spec.at(&["dataSourceRef"]).cloned()) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(reference)) if reference.text(&["namespace"]).is_empty() => {
            spec.insert("dataSource".into(), reference);
        }
        _ => {}
    }
}

/// Checks a claim's spec.
fn validate_spec(spec: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    modes(spec, "at least 1 access mode is required", at, errors);
    if let Some(selector) = spec.at(&["selector"]) {
        workload::validate_selector(selector, &at.child("selector"), errors);
    }
    let resources = at.child("resources");
    let size = resources.key("storage");
    match spec.at(&["resources", "requests", "storage"]) {
        None => errors.push(FieldError::required(size, "")),
        Some(storage) => {
            quantity(storage, &size, errors);
            if Quantity::of(storage).is_some_and(|q| q.is_zero()) {
                errors.push(FieldError::invalid(size, storage.clone(), "must be greater than zero"));
            }
        }
    }
    class_name(spec, "storageClassName", at, errors);
    volume_mode(spec, at, errors);
    for field in ["dataSource", "dataSourceRef"] {
        if let Some(source) = spec.at(&[field]) {
            data_source(source, &at.child(field), errors);
        }
    }
    if let (Some(source), Some(reference)) = (spec.at(&["dataSource"]), spec.at(&["dataSourceRef"]))
    {
        let of = |value: &Value| {
            ["apiGroup", "kind", "name"].map(|field| value.text(&[field]).to_owned())
        };
        let what = format!("{at}.dataSource");
        if !reference.text(&["namespace"]).is_empty() {
            let why = "may not be specified when dataSourceRef.namespace is specified";
            errors.push(FieldError::invalid(at, what, why));
        } else if of(source) != of(reference) {
            errors.push(FieldError::invalid(at, what, "must match dataSourceRef"));
        }
    }
    class_name(spec, "volumeAttributesClassName", at, errors);
}

fn data_source(source: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    for field in ["name", "kind"] {
        if source.text(&[field]).is_empty() {
            errors.push(FieldError::required(at.child(field), ""));
        }
    }
    let (group, kind) = (source.text(&["apiGroup"]), source.text(&["kind"]));
    if group.is_empty() {
        if kind != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(at, kind, why));
        }
    } else if let Some(problem) = names::subdomain(group) {
        errors.push(FieldError::invalid(at.child("apiGroup"), group, problem));
    }
    let namespace = source.text(&["namespace"]);
    if !namespace.is_empty()
        && let Some(problem) = names::label_1123(namespace)
    {
        errors.push(FieldError::invalid(at.child("namespace"), namespace, problem));
    }
}

/// A claim is bound once; then it may ask for more space, and for other attributes.
fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = |claim: &Value| claim.map(&["spec"]).cloned().unwrap_or_default();
    let (mut is, mut was) = (spec(new), spec(old));
    if was.text(&["volumeName"]).is_empty() {
        was.remove("volumeName");
        is.remove("volumeName");
    }
    if !was.contains_key("storageClassName") {
        is.remove("storageClassName");
    }
    for spec in [&mut is, &mut was] {
        spec.remove("volumeAttributesClassName");
    }
    let storage = ["spec", "resources", "requests", "storage"];
    if new.text(&["status", "phase"]) == "Bound" {
        for spec in [&mut is, &mut was] {
            if let Some(requests) =
                object(spec, "resources").and_then(|resources| object(resources, "requests"))
            {
                requests.remove("storage");
            }
        }
    }
    if is != was {
        errors.push(FieldError::forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    let size = |claim: &Value, path: &[&str]| claim.at(path).and_then(Quantity::of);
    let capacity = size(old, &["status", "capacity", "storage"]).unwrap_or(Quantity::ZERO);
    if let (Some(is), Some(was)) = (size(new, &storage), size(old, &storage))
        && is < was
        && is <= capacity
    {
        let why = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden("spec.resources.requests.storage", why));
    }
    let mode = |claim: &Value| claim.at(&["spec", "volumeMode"]).cloned();
    if mode(new) != mode(old) {
        errors.push(FieldError::immutable("volumeMode", mode(new).unwrap_or_default()));
    }
    let class = |claim: &Value| {
        claim.at(&["spec", "volumeAttributesClassName"]).and_then(Value::as_str).map(str::to_owned)
    };
    let what = match (class(old), class(new)) {
        (Some(_), None) => "nil",
        (Some(was), Some(is)) if is.is_empty() && !was.is_empty() => "an empty string",
        _ => return errors,
    };
    errors.push(FieldError::forbidden(
        "spec.volumeAttributesClassName",
        format!("update from non-nil value to {what} is forbidden"),
    ));
    errors
}
