//! VolumeAttributesClass.

use super::common::{AGE, NAME, object_age, text};
use super::storage_class::{parameters, provisioner, unchanging};
use super::*;
use crate::json::Json;

/// Keeps a class for as long as volumes have it.
const PROTECTION: &str = "kubernetes.io/vac-protection";

/// `volumeattributesclasses.storage.k8s.io`.
pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    resource: "volumeattributesclasses.storage.k8s.io",
    short_names: &["vac"],
    namespaced: false,
    prepare: |prepare| {
        if let Prepare::Create(new) = prepare {
            common::finalizer(new, PROTECTION);
        }
    },
    validate: |class| {
        let mut errors = Vec::new();
        provisioner(class, "driverName", &mut errors);
        parameters(class, &mut errors);
        if class.pairs(&["parameters"]).next().is_none() {
            let detail = "must contain at least one key/value pair";
            errors.push(FieldError::required("parameters", detail));
        }
        errors
    },
    validate_update: |new, old| unchanging(new, old, &["driverName", "parameters"]),
    columns: &[NAME, text("DriverName", "The driver that knows the attributes."), AGE],
    cells: |object, now| {
        let driver = object.value().text(&["driverName"]).to_owned();
        vec![object.meta.name.as_str().into(), driver.into(), object_age(object, now)]
    },
    ..Kind::BASE
};
