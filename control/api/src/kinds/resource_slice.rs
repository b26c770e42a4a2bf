//! ResourceSlice: devices of a pool, as a driver offers them.

use std::collections::BTreeSet;

use super::common::{AGE, NAME, fields, object_age, text};
use super::csi_driver::driver_name;
use super::pod::validate::node_selector;
use super::*;
use crate::json::Json;
use crate::names;
use crate::path::Path;
use crate::status::FieldProblem;

/// `resourceslices.resource.k8s.io`.
pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    resource: "resourceslices.resource.k8s.io",
    namespaced: false,
    generation: Generation::Spec,
    validate,
    validate_update: |new, old| {
        let of = |slice: &Value, path: &[&str]| slice.at(path).cloned().unwrap_or_default();
        [("spec.pool.name", &["spec", "pool", "name"][..]),
            ("spec.driver", &["spec", "driver"]),
            ("spec.nodeName", &["spec", "nodeName"])]
            .into_iter()
            .filter(|(_, path)| of(new, path) != of(old, path))
            .map(|(at, path)| FieldError::immutable(at, of(new, path)))
            .collect()
    },
    columns: &[
        NAME,
        text("Node", "The node that the devices are on."),
        text("Driver", "The driver that offers the devices."),
        text("Pool", "The pool that the devices belong to."),
        AGE,
    ],
    cells: |object, now| {
        let slice = object.value();
        let selected = slice.has(&["spec", "nodeSelector"]);
        let node = match slice.text(&["spec", "nodeName"]) {
            "" if slice.flag(&["spec", "allNodes"]) => "<all nodes>",
            "" if slice.flag(&["spec", "perDeviceNodeSelection"]) => "<per device>",
            "" if selected => "<node selector>",
            name => name,
        };
        vec![
            object.meta.name.as_str().into(),
            node.into(),
            slice.text(&["spec", "driver"]).into(),
            slice.text(&["spec", "pool", "name"]).into(),
            object_age(object, now),
        ]
    },
    fields: fields!["spec.nodeName", "spec.driver"],
    ..Kind::BASE
};

/// Most devices of a slice, and of one whose devices have taints or share counters.
const MAX_DEVICES: [usize; 2] = [128, 64];
/// Most attributes and capacities of a device.
const MAX_ATTRIBUTES: usize = 32;
/// Longest name of a pool.
const MAX_POOL_NAME: usize = 253;

fn validate(slice: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = slice.at(&["spec"]).unwrap_or(&Value::Null);
    driver_name(spec.text(&["driver"]), at.child("driver"), true, &mut errors);
    pool(spec.at(&["pool"]).unwrap_or(&Value::Null), &at.child("pool"), &mut errors);
    nodes(spec, &at, &mut errors);
    let devices = spec.list(&["devices"]);
    if !devices.is_empty() && spec.has(&["sharedCounters"]) {
        let why = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid(at, "", why));
    }
    let heavy = devices.iter().any(|device| {
        !device.list(&["taints"]).is_empty() || !device.list(&["consumesCounters"]).is_empty()
    });
    let most = MAX_DEVICES[usize::from(heavy)];
    let list = at.child("devices");
    if devices.len() > most {
        errors.push(FieldError {
            problem: FieldProblem::TooMany(devices.len()),
            path: list.into(),
            detail: format!("must have at most {most} items"),
        });
    }
    let mut seen = BTreeSet::new();
    for (i, item) in devices.iter().enumerate() {
        let name = item.text(&["name"]);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(list.index(i), name));
        }
        device(item, &list.index(i), &mut errors);
    }
    errors
}

fn pool(pool: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let (name, named) = (pool.text(&["name"]), at.child("name"));
    if name.is_empty() {
        errors.push(FieldError::required(named, ""));
    } else if name.len() > MAX_POOL_NAME {
        errors.push(FieldError {
            problem: FieldProblem::TooLong,
            path: named.into(),
            detail: format!("may not be more than {MAX_POOL_NAME} bytes"),
        });
    } else {
        for part in name.split('/') {
            if let Some(problem) = names::subdomain(part) {
                errors.push(FieldError::invalid(named, part, problem));
            }
        }
    }
    let count = pool.int(&["resourceSliceCount"]).unwrap_or(0);
    if count <= 0 {
        let why = "must be greater than zero";
        errors.push(FieldError::invalid(at.child("resourceSliceCount"), count, why));
    }
    let generation = pool.int(&["generation"]).unwrap_or(0);
    if generation < 0 {
        let why = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(at.child("generation"), generation, why));
    }
}

/// Which nodes the devices are on is said in exactly one way.
fn nodes(spec: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut given = Vec::new();
    if let Some(node) = spec.at(&["nodeName"]).and_then(Value::as_str) {
        if node.is_empty() {
            let why = "must be either unset or set to a non-empty string";
            errors.push(FieldError::invalid(at.child("nodeName"), node, why));
        } else {
            given.push("`nodeName`");
            if let Some(problem) = names::subdomain(node) {
                errors.push(FieldError::invalid(at.child("nodeName"), node, problem));
            }
        }
    }
    if let Some(selector) = spec.at(&["nodeSelector"]) {
        given.push("`nodeSelector`");
        let at = at.child("nodeSelector");
        node_selector(selector, &at, errors);
        let terms = selector.list(&["nodeSelectorTerms"]);
        if terms.len() != 1 {
            let why = "must have exactly one node selector term";
            errors.push(FieldError::invalid(at.child("nodeSelectorTerms"), terms.to_vec(), why));
        }
    }
    for (field, quoted) in
        [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        if spec.flag(&[field]) {
            given.push(quoted);
        } else if spec.has(&[field]) {
            let why = "must be either unset or set to true";
            errors.push(FieldError::invalid(at.child(field), false, why));
        }
    }
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => errors.push(FieldError::required(at, one)),
        1 => {}
        _ => {
            let why = format!("{one}, but multiple fields are set");
            errors.push(FieldError::invalid(at, format!("{{{}}}", given.join(", ")), why));
        }
    }
}

fn device(device: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let name = device.text(&["name"]);
    if let Some(problem) = names::label_1123(name) {
        errors.push(FieldError::invalid(at.child("name"), name, problem));
    }
    let count = device.pairs(&["attributes"]).count() + device.pairs(&["capacity"]).count();
    if count > MAX_ATTRIBUTES {
        let why = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.push(FieldError::invalid(at, count, why));
    }
    let list = at.child("attributes");
    for (key, attribute) in device.pairs(&["attributes"]) {
        let given = attribute.pairs(&[]).filter(|(_, value)| !value.is_null()).count();
        if given != 1 {
            let why = "exactly one value must be specified";
            errors.push(FieldError::invalid(list.key(key), "", why));
        }
    }
    let list = at.child("taints");
    for (i, taint) in device.list(&["taints"]).iter().enumerate() {
        let at = list.index(i);
        let (key, effect) = (taint.text(&["key"]), taint.text(&["effect"]));
        if let Some(problem) = names::qualified(key) {
            errors.push(FieldError::invalid(at.child("key"), key, problem));
        }
        if !matches!(effect, "NoExecute" | "NoSchedule" | "None") {
            let all = ["NoExecute", "NoSchedule", "None"];
            errors.push(FieldError::not_supported(at.child("effect"), effect, &all));
        }
    }
}
