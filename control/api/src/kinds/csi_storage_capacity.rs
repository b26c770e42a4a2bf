//! CSIStorageCapacity.

use super::common::{NAME, or, text};
use super::*;
use crate::json::Json;
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;

/// `csistoragecapacities.storage.k8s.io`.
pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    resource: "csistoragecapacities.storage.k8s.io",
    default: |capacity| {
        for field in ["capacity", "maximumVolumeSize"] {
            if let Some(quantity) = capacity.get_mut(field) {
                Quantity::canonicalise(quantity);
            }
        }
    },
    validate: |capacity| {
        let mut errors = Vec::new();
        if let Some(topology) = capacity.at(&["nodeTopology"]) {
            workload::validate_selector(topology, &Path::new("nodeTopology"), &mut errors);
        }
        let class = capacity.text(&["storageClassName"]);
        if let Some(problem) = names::subdomain(class) {
            errors.push(FieldError::invalid("storageClassName", class, problem));
        }
        for field in ["capacity", "maximumVolumeSize"] {
            if let Some(quantity) = capacity.at(&[field]) {
                pod::validate::quantity(quantity, &Path::new(field), &mut errors);
            }
        }
        errors
    },
    validate_update: |new, old| {
        ["nodeTopology", "storageClassName"]
            .iter()
            .filter(|f| new.at(&[f]) != old.at(&[f]))
            .map(|f| FieldError::immutable(*f, new.at(&[f]).cloned().unwrap_or_default()))
            .collect()
    },
    columns: &[
        NAME,
        text("StorageClassName", "The class that the capacity is of."),
        text("Capacity", "How much is left."),
    ],
    cells: |object, _| {
        let capacity = object.value();
        vec![
            object.meta.name.as_str().into(),
            capacity.text(&["storageClassName"]).into(),
            or(capacity.text(&["capacity"]), "<unset>").into(),
        ]
    },
    ..Kind::BASE
};
