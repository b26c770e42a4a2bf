//! PersistentVolume. Its spec may also stand in a VolumeAttachment ([`inline_spec`]).

use super::common::{AGE, NAME, access_modes, object_age, or, prepare_with_labels, text, wide};
use super::csi_driver::driver_name;
use super::pod::validate::{node_selector, quantity, volume_source};
use super::*;
use crate::json::{Fields, Json, default_text, object, object_or_new, set_default};
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;

/// Keeps a volume for as long as it is bound.
pub const PROTECTION: &str = "kubernetes.io/pv-protection";

/// `persistentvolumes`.
pub static KIND: Kind = Kind {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    resource: "persistentvolumes",
    short_names: &["pv"],
    namespaced: false,
    subresources: &[Subresource::Status],
    default,
    prepare: |prepare| match prepare {
        Prepare::Create(new) => {
            common::finalizer(new, PROTECTION);
            new["status"] = serde_json::json!({"phase": "Pending"});
        }
        other => prepare_with_labels(other),
    },
    validate: |volume| {
        let mut errors = Vec::new();
        let at = Path::new("spec");
        let spec = volume.at(&["spec"]).unwrap_or(&Value::Null);
        capacity(spec, &at, &mut errors);
        let policies = ["Delete", "Recycle", "Retain"];
        let policy = spec.text(&["persistentVolumeReclaimPolicy"]);
        if !policy.is_empty() && !policies.contains(&policy) {
            let at = at.child("persistentVolumeReclaimPolicy");
            errors.push(FieldError::not_supported(at, policy, &policies));
        }
        if let Some(affinity) = spec.at(&["nodeAffinity"]) {
            let at = at.child("nodeAffinity");
            match affinity.at(&["required"]) {
                Some(required) => node_selector(required, &at.child("required"), &mut errors),
                None => errors.push(FieldError::required(
                    at.child("required"),
                    "must specify required node constraints",
                )),
            }
        }
        common_spec(spec, &at, &mut errors);
        if spec.has(&["local"]) && !spec.has(&["nodeAffinity"]) {
            let why = "Local volume requires node affinity";
            errors.push(FieldError::required(at.child("nodeAffinity"), why));
        }
        if policy == "Recycle"
            && spec.has(&["hostPath"])
            && spec.text(&["hostPath", "path"]).split('/').all(|part| matches!(part, "" | "."))
        {
            errors.push(FieldError::forbidden(
                at.child("persistentVolumeReclaimPolicy"),
                "may not be 'recycle' for a hostPath mount of '/'",
            ));
        }
        class_name(spec, "storageClassName", &at, &mut errors);
        volume_mode(spec, &at, &mut errors);
        attributes_class(spec, &at, &mut errors);
        errors
    },
    validate_update,
    warnings: warnings::volume,
    columns: &[
        NAME,
        text("Capacity", "How much it holds."),
        text("Access Modes", "How it may be mounted."),
        text("Reclaim Policy", "What becomes of it once its claim is gone."),
        text("Status", "Whether it is bound to a claim."),
        text("Claim", "The claim that it is bound to, or kept for."),
        text("StorageClass", "The class that it belongs to."),
        text("VolumeAttributesClass", "The class of its attributes."),
        text("Reason", "Why it is in its status."),
        AGE,
        wide("VolumeMode", "Whether it is a file system or a block device."),
    ],
    cells: |object, now| {
        let volume = object.value();
        let of = |path: &[&str]| Value::from(volume.text(path));
        let claim = match volume.at(&["spec", "claimRef"]) {
            Some(claim) => format!("{}/{}", claim.text(&["namespace"]), claim.text(&["name"])),
            None => String::new(),
        };
        let phase = if object.is_deleting() {
            "Terminating".into()
        } else {
            of(&["status", "phase"])
        };
        let unset = |field| Value::from(or(volume.text(&["spec", field]), "<unset>"));
        vec![
            object.meta.name.as_str().into(),
            of(&["spec", "capacity", "storage"]),
            access_modes(volume.list(&["spec", "accessModes"])).into(),
            of(&["spec", "persistentVolumeReclaimPolicy"]),
            phase,
            claim.into(),
            of(&["spec", "storageClassName"]),
            unset("volumeAttributesClassName"),
            of(&["status", "reason"]),
            object_age(object, now),
            unset("volumeMode"),
        ]
    },
    ..Kind::BASE
};

/// Fields of a volume's spec that are no source.
const SETTINGS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn default(volume: &mut Value) {
    let Some(volume) = volume.as_object_mut() else { return };
    if let Some(status) = object_or_new(volume, "status") {
        default_text(status, "phase", "Pending");
    }
    let Some(spec) = object_or_new(volume, "spec") else { return };
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    default_text(spec, "volumeMode", "Filesystem");
    if let Some(capacity) = object(spec, "capacity") {
        pod::defaults::quantities(capacity);
    }
    if let Some(host) = object(spec, "hostPath") {
        set_default(host, "type", || "");
    }
    if let Some(iscsi) = object(spec, "iscsi") {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = object(spec, "rbd") {
        for (field, value) in
            [("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]
        {
            default_text(rbd, field, value);
        }
    }
}

/// The source of a volume: the field that says where its data is, and what is in it.
pub(super) fn source(spec: &Value) -> Fields {
    let mut source = spec.as_object().cloned().unwrap_or_default();
    source.retain(|field, value| !SETTINGS.contains(&field.as_str()) && !value.is_null());
    source
}

fn capacity(spec: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let at = at.child("capacity");
    let capacity = spec.map(&["capacity"]).cloned().unwrap_or_default();
    if capacity.is_empty() {
        errors.push(FieldError::required(at, ""));
    }
    if !capacity.contains_key("storage") || capacity.len() > 1 {
        errors.push(FieldError::not_supported(at, capacity.clone(), &["storage"]));
    }
    for (name, value) in &capacity {
        let at = at.key(name);
        quantity(value, &at, errors);
        if Quantity::of(value).is_some_and(|q| q.is_zero()) {
            errors.push(FieldError::invalid(at, value.clone(), "must be greater than zero"));
        }
    }
}

/// What holds for the spec of a volume wherever it is.
fn common_spec(spec: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    modes(spec, "", at, errors);
    let all = source(spec);
    if all.is_empty() {
        errors.push(FieldError::required(at, "must specify a volume type"));
    }
    for (i, (kind, settings)) in all.iter().enumerate() {
        let at = at.child(kind);
        if i > 0 {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 volume type"));
            continue;
        }
        match kind.as_str() {
            "csi" => csi(settings, &at, errors),
            "local" => {
                let path = settings.text(&["path"]);
                if path.is_empty() {
                    errors.push(FieldError::required(at.child("path"), ""));
                } else if path.split('/').any(|part| part == "..") {
                    let why = "must not contain '..'";
                    errors.push(FieldError::invalid(at.child("path"), path, why));
                }
            }
            "nfs" => {
                let path = settings.text(&["path"]);
                for field in ["server", "path"] {
                    if settings.text(&[field]).is_empty() {
                        errors.push(FieldError::required(at.child(field), ""));
                    }
                }
                if !path.starts_with('/') {
                    let why = "must be an absolute path";
                    errors.push(FieldError::invalid(at.child("path"), path, why));
                }
            }
            kind => volume_source(kind, settings, &at, errors),
        }
    }
}

fn csi(csi: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    driver_name(csi.text(&["driver"]), at.child("driver"), true, errors);
    if csi.text(&["volumeHandle"]).is_empty() {
        errors.push(FieldError::required(at.child("volumeHandle"), ""));
    }
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
        "nodeStageSecretRef",
    ] {
        let Some(secret) = csi.at(&[field]) else { continue };
        let at = at.child(field);
        for (field, rule) in [
            ("name", names::subdomain as fn(&str) -> names::Problem),
            ("namespace", names::label_1123),
        ] {
            let text = secret.text(&[field]);
            if text.is_empty() {
                errors.push(FieldError::required(at.child(field), ""));
            } else if let Some(problem) = rule(text) {
                errors.push(FieldError::invalid(at.child(field), text, problem));
            }
        }
    }
}

/// Checks access modes; `none` is what is said where there are none.
pub(super) fn modes(spec: &Value, none: &str, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    const MODES: [&str; 4] =
        ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let at = at.child("accessModes");
    let modes = spec.list(&["accessModes"]);
    if modes.is_empty() {
        errors.push(FieldError::required(at, none));
    }
    for mode in modes.iter().filter_map(Value::as_str).filter(|mode| !MODES.contains(mode)) {
        errors.push(FieldError::not_supported(at, mode, &MODES));
    }
    let alone = |mode: &Value| mode == "ReadWriteOncePod";
    if modes.iter().any(alone)
        && modes.iter().any(|mode| !alone(mode) && mode.as_str().is_some_and(|m| MODES.contains(&m)))
    {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(at, why));
    }
}

/// Checks a class that may be named.
pub(super) fn class_name(
    spec: &Value,
    field: &str,
    at: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let class = spec.text(&[field]);
    if !class.is_empty()
        && let Some(problem) = names::subdomain(class)
    {
        errors.push(FieldError::invalid(at.child(field), class, problem));
    }
}

/// Checks whether it is a file system or a device, if it says so.
pub(super) fn volume_mode(spec: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(mode) = spec.at(&["volumeMode"]).and_then(Value::as_str)
        && !matches!(mode, "Block" | "Filesystem")
    {
        let modes = ["Block", "Filesystem"];
        errors.push(FieldError::not_supported(at.child("volumeMode"), mode, &modes));
    }
}

fn attributes_class(spec: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let field = "volumeAttributesClassName";
    let Some(class) = spec.at(&[field]) else { return };
    if class == "" {
        errors.push(FieldError::required(at.child(field), "an empty string is disallowed"));
    }
    class_name(spec, field, at, errors);
    if !spec.has(&["csi"]) {
        let why = "has to be specified when using volumeAttributesClassName";
        errors.push(FieldError::required(at.child("csi"), why));
    }
}

/// Checks the spec of a volume that has no object of its own.
pub(super) fn inline_spec(spec: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
        if spec.has(&[field]) {
            let why = "may not be specified in the context of inline volumes";
            errors.push(FieldError::forbidden(at.child(field), why));
        }
    }
    if !spec.has(&["csi"]) {
        let why = "has to be specified in the context of inline volumes";
        errors.push(FieldError::required(at.child("csi"), why));
    }
    for (field, only, what) in [
        ("persistentVolumeReclaimPolicy", "Retain", "may only be Retain"),
        ("volumeMode", "Filesystem", "may not specify volumeMode other than Filesystem"),
    ] {
        if spec.has(&[field]) && spec.text(&[field]) != only {
            let why = format!("{what} in the context of inline volumes");
            errors.push(FieldError::forbidden(at.child(field), why));
        }
    }
    common_spec(spec, at, errors);
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = |volume: &Value| volume.at(&["spec"]).cloned().unwrap_or_default();
    let (mut is, was) = (spec(new), spec(old));
    // Given once, this secret may be given later than the rest.
    if !was.has(&["csi", "controllerExpandSecretRef"])
        && let Some(csi) = is.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    if source(&is) != source(&was) {
        errors.push(FieldError::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    // Where they are upstream's words have no `spec`.
    if is.at(&["volumeMode"]) != was.at(&["volumeMode"]) {
        errors.push(FieldError::immutable("volumeMode", is["volumeMode"].clone()));
    }
    if was.has(&["nodeAffinity"]) && is.at(&["nodeAffinity"]) != was.at(&["nodeAffinity"]) {
        errors.push(FieldError::immutable("nodeAffinity", is["nodeAffinity"].clone()));
    }
    if was.has(&["volumeAttributesClassName"]) && !is.has(&["volumeAttributesClassName"]) {
        errors.push(FieldError::forbidden(
            "spec.volumeAttributesClassName",
            "update from non-nil value to nil is forbidden",
        ));
    }
    errors
}
