//! VolumeAttachment.

use super::common::{AGE, NAME, boolean, object_age, prepare_with_labels, text};
use super::csi_driver::driver_name;
use super::*;
use crate::json::Json;
use crate::names;
use crate::path::Path;
use crate::status::FieldProblem;

/// `volumeattachments.storage.k8s.io`.
pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    resource: "volumeattachments.storage.k8s.io",
    namespaced: false,
    subresources: &[Subresource::Status],
    prepare: |prepare| {
        // As upstream fills the field that is required.
        if let Prepare::Create(new) = prepare {
            new["status"] = serde_json::json!({"attached": false});
        } else {
            prepare_with_labels(prepare);
        }
    },
    validate,
    validate_create: |attachment| {
        let mut errors = Vec::new();
        driver_name(attachment.text(&["spec", "attacher"]), "spec.attacher", true, &mut errors);
        let volume = attachment.text(&["spec", "source", "persistentVolumeName"]);
        if !volume.is_empty()
            && let Some(problem) = names::subdomain(volume)
        {
            let at = "spec.source.persistentVolumeName";
            errors.push(FieldError::invalid(at, volume, problem));
        }
        errors
    },
    validate_update: |new, old| {
        if new.at(&["spec"]) == old.at(&["spec"]) {
            return Vec::new();
        }
        vec![FieldError::immutable("spec", new.at(&["spec"]).cloned().unwrap_or_default())]
    },
    columns: &[
        NAME,
        text("Attacher", "The driver that attaches the volume."),
        text("PV", "The volume."),
        text("Node", "The node."),
        boolean("Attached", "Whether the volume is attached."),
        AGE,
    ],
    cells: |object, now| {
        let attachment = object.value();
        vec![
            object.meta.name.as_str().into(),
            attachment.text(&["spec", "attacher"]).into(),
            attachment.text(&["spec", "source", "persistentVolumeName"]).into(),
            attachment.text(&["spec", "nodeName"]).into(),
            attachment.flag(&["status", "attached"]).into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

/// Most bytes of what an attached volume is described with.
const MAX_METADATA: usize = 256 * 1024;
/// Most bytes of an error's text.
const MAX_MESSAGE: usize = 1024;

fn validate(attachment: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    if attachment.text(&["spec", "attacher"]).is_empty() {
        errors.push(FieldError::required(spec.child("attacher"), ""));
    }
    let at = spec.child("source");
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let source = attachment.at(&["spec", "source"]).unwrap_or(&Value::Null);
    match (source.at(&["inlineVolumeSpec"]), source.at(&["persistentVolumeName"])) {
        (None, None) => errors.push(FieldError::required(at, one)),
        (Some(_), Some(_)) => errors.push(FieldError::forbidden(at, one)),
        (None, Some(name)) => {
            if name.as_str() == Some("") {
                errors.push(FieldError::required(
                    at.child("persistentVolumeName"),
                    "must specify non empty persistentVolumeName",
                ));
            }
        }
        (Some(volume), None) => {
            persistent_volume::inline_spec(volume, &at.child("inlineVolumeSpec"), &mut errors);
        }
    }
    let node = attachment.text(&["spec", "nodeName"]);
    if let Some(problem) = names::subdomain(node) {
        errors.push(FieldError::invalid(spec.child("nodeName"), node, problem));
    }
    status(attachment, &mut errors);
    errors
}

fn status(attachment: &Value, errors: &mut Vec<FieldError>) {
    let at = Path::new("status");
    let too_long = |at: Path<'_>| FieldError {
        problem: FieldProblem::TooLong,
        path: at.into(),
        detail: format!("may not be more than {MAX_METADATA} bytes"),
    };
    let size = |(key, value): (&str, &Value)| key.len() + value.as_str().map_or(0, str::len);
    let all = attachment.pairs(&["status", "attachmentMetadata"]);
    if all.map(size).sum::<usize>() > MAX_METADATA {
        errors.push(too_long(at.child("attachmentMetadata")));
    }
    for field in ["attachError", "detachError"] {
        let at = at.child(field);
        if attachment.text(&["status", field, "message"]).len() > MAX_MESSAGE {
            errors.push(too_long(at.child("message")));
        }
        if let Some(code) = attachment.int(&["status", field, "errorCode"])
            && code < 0
        {
            let problem = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(at.child("errorCode"), code, problem));
        }
    }
}
