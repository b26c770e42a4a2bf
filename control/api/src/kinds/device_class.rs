//! DeviceClass.

use super::common::{AGE, NAME, object_age};
use super::devices::{configurations, selectors};
use super::*;
use crate::json::Json;
use crate::path::Path;

/// `deviceclasses.resource.k8s.io`.
pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "DeviceClass",
    plural: "deviceclasses",
    singular: "deviceclass",
    resource: "deviceclasses.resource.k8s.io",
    namespaced: false,
    generation: Generation::Spec,
    validate: |class| {
        let mut errors = Vec::new();
        let spec = class.at(&["spec"]).unwrap_or(&Value::Null);
        let at = Path::new("spec");
        selectors(spec, &at, &mut errors);
        configurations(spec, &at, &mut errors);
        errors
    },
    columns: &[NAME, AGE],
    cells: |object, now| vec![object.meta.name.as_str().into(), object_age(object, now)],
    ..Kind::BASE
};
