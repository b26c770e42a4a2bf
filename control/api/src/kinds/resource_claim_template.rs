//! ResourceClaimTemplate.

use super::common::{AGE, NAME, object_age};
use super::*;
use crate::json::{Json, object};
use crate::meta::{validate_annotations, validate_labels};
use crate::path::Path;

/// `resourceclaimtemplates.resource.k8s.io`.
pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    resource: "resourceclaimtemplates.resource.k8s.io",
    default: |template| {
        let spec = template.as_object_mut().and_then(|template| object(template, "spec"));
        if let Some(claim) = spec.and_then(|spec| object(spec, "spec")) {
            devices::default_claim(claim);
        }
    },
    validate: |template| {
        let mut errors = Vec::new();
        let spec = template.at(&["spec"]).unwrap_or(&Value::Null);
        let at = Path::new("spec");
        let meta = at.child("metadata");
        let labels = spec.at(&["metadata", "labels"]);
        errors.extend(validate_labels(labels, &meta.child("labels")));
        let annotations = spec.at(&["metadata", "annotations"]);
        errors.extend(validate_annotations(annotations, &meta.child("annotations")));
        let claim = spec.at(&["spec"]).unwrap_or(&Value::Null);
        devices::claim(claim, &at.child("spec"), &mut errors);
        errors
    },
    validate_update: resource_claim::unchanging_spec,
    columns: &[NAME, AGE],
    cells: |object, now| vec![object.meta.name.as_str().into(), object_age(object, now)],
    ..Kind::BASE
};
