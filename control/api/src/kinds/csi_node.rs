//! CSINode.

use std::collections::BTreeSet;

use super::common::{AGE, NAME, integer, object_age};
use super::csi_driver::driver_name;
use super::*;
use crate::json::Json;
use crate::names;
use crate::path::Path;

/// `csinodes.storage.k8s.io`.
pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    resource: "csinodes.storage.k8s.io",
    namespaced: false,
    validate,
    validate_update,
    columns: &[NAME, integer("Drivers", "How many drivers there are on the node."), AGE],
    cells: |object, now| {
        let drivers = object.value().list(&["spec", "drivers"]).len();
        vec![object.meta.name.as_str().into(), drivers.into(), object_age(object, now)]
    },
    ..Kind::BASE
};

/// Longest name that a driver may have for a node, in bytes.
const MAX_NODE_ID: usize = 256;

fn validate(node: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let list = Path::new("spec.drivers");
    let mut seen = BTreeSet::new();
    for (i, driver) in node.list(&["spec", "drivers"]).iter().enumerate() {
        let at = list.index(i);
        let (name, id) = (driver.text(&["name"]), driver.text(&["nodeID"]));
        driver_name(name, at.child("name"), true, &mut errors);
        if id.is_empty() {
            errors.push(FieldError::required(at.child("nodeID"), ""));
        } else if id.len() > MAX_NODE_ID {
            let problem = format!("must be {MAX_NODE_ID} characters or less");
            errors.push(FieldError::invalid(at.child("nodeID"), id, problem));
        }
        if let Some(allocatable) = driver.at(&["allocatable"]) {
            workload::not_negative(allocatable, "count", &at.child("allocatable"), &mut errors);
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(at.child("name"), name));
        }
        let mut keys = BTreeSet::new();
        for key in driver.list(&["topologyKeys"]).iter().filter_map(Value::as_str) {
            if key.is_empty() {
                errors.push(FieldError::required(at, ""));
            }
            if !keys.insert(key) {
                errors.push(FieldError::duplicate(at, key));
            }
            if let Some(problem) = names::qualified(key) {
                errors.push(FieldError::invalid(at, key, problem));
            }
        }
    }
    errors
}

/// Of a driver that stays, only what it can still take may change.
fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let fixed = |driver: &Value| {
        let mut driver = driver.as_object().cloned().unwrap_or_default();
        driver.remove("allocatable");
        driver
    };
    let drivers = |node: &Value| node.list(&["spec", "drivers"]).to_vec();
    let mut errors = Vec::new();
    for was in drivers(old) {
        for is in drivers(new).iter().filter(|is| is.text(&["name"]) == was.text(&["name"])) {
            if fixed(is) != fixed(&was) {
                errors.push(FieldError::immutable("spec.drivers", is.clone()));
            }
        }
    }
    errors
}
