//! CSIDriver.

use std::collections::BTreeSet;

use serde_json::json;

use super::common::{AGE, NAME, boolean, object_age, or, text};
use super::*;
use crate::json::{Json, default_text, object_or_new, set_default};
use crate::names;
use crate::path::Path;
use crate::status::FieldProblem;

/// `csidrivers.storage.k8s.io`.
pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    resource: "csidrivers.storage.k8s.io",
    namespaced: false,
    generation: Generation::Spec,
    default: |driver| {
        let Some(spec) = driver.as_object_mut().and_then(|d| object_or_new(d, "spec")) else {
            return;
        };
        set_default(spec, "attachRequired", || true);
        for field in ["podInfoOnMount", "requiresRepublish", "seLinuxMount", "storageCapacity"] {
            set_default(spec, field, || false);
        }
        default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.list(&["volumeLifecycleModes"]).is_empty() {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
    },
    validate,
    validate_update: |new, old| {
        let mut errors = Vec::new();
        // The first name is upstream's.
        for (field, name) in [
            ("attachRequired", "attachedRequired"),
            ("volumeLifecycleModes", "volumeLifecycleModes"),
        ] {
            let of = |driver: &Value| driver.at(&["spec", field]).cloned().unwrap_or_default();
            if of(new) != of(old) {
                errors.push(FieldError::immutable(Path::new("spec").child(name), of(new)));
            }
        }
        errors
    },
    columns: &[
        NAME,
        boolean("AttachRequired", "Whether volumes are attached to a node before they are mounted."),
        boolean("PodInfoOnMount", "Whether the driver is told of the pod when it mounts."),
        boolean("StorageCapacity", "Whether the scheduler heeds the capacity that the driver tells."),
        text("TokenRequests", "Audiences of the tokens that the driver is given."),
        boolean("RequiresRepublish", "Whether the driver wants to be called again and again."),
        text("Modes", "Kinds of volumes that the driver makes."),
        AGE,
    ],
    cells: |object, now| {
        let driver = object.value();
        let flag = |field| Value::from(driver.flag(&["spec", field]));
        let modes: Vec<_> = driver
            .list(&["spec", "volumeLifecycleModes"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let audiences = driver.at(&["spec", "tokenRequests"]).and_then(Value::as_array).map(|all| {
            all.iter().map(|request| request.text(&["audience"])).collect::<Vec<_>>().join(",")
        });
        vec![
            object.meta.name.as_str().into(),
            flag("attachRequired"),
            flag("podInfoOnMount"),
            flag("storageCapacity"),
            audiences.unwrap_or_else(|| "<unset>".into()).into(),
            flag("requiresRepublish"),
            or(&modes.join(","), "<none>").into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

/// Longest name of a driver, in bytes.
const MAX_NAME: usize = 63;
/// Shortest life of a driver's token, in seconds.
const SHORTEST_TOKEN: i64 = 600;

fn validate(driver: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    driver_name(driver.text(&["metadata", "name"]), "metadata.name", false, &mut errors);
    let at = Path::new("spec");
    let spec = driver.at(&["spec"]).unwrap_or(&Value::Null);
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    let policy = spec.text(&["fsGroupPolicy"]);
    if !policies.contains(&policy) {
        errors.push(FieldError::not_supported(at.child("fsGroupPolicy"), policy, &policies));
    }
    let list = at.child("tokenRequests");
    let mut audiences = BTreeSet::new();
    for (i, request) in spec.list(&["tokenRequests"]).iter().enumerate() {
        let at = list.index(i);
        let audience = request.text(&["audience"]);
        if !audiences.insert(audience) {
            errors.push(FieldError::duplicate(at.child("audience"), audience));
            continue;
        }
        let seconds = request.int(&["expirationSeconds"]);
        let problem = match seconds {
            Some(seconds) if seconds < SHORTEST_TOKEN => {
                "may not specify a duration less than 10 minutes"
            }
            Some(seconds) if seconds > 1 << 32 => {
                "may not specify a duration larger than 2^32 seconds"
            }
            _ => continue,
        };
        errors.push(FieldError::invalid(at.child("expirationSeconds"), seconds, problem));
    }
    let modes = ["Persistent", "Ephemeral"];
    for mode in spec.list(&["volumeLifecycleModes"]).iter().filter_map(Value::as_str) {
        if !modes.contains(&mode) {
            errors.push(FieldError::not_supported(at.child("volumeLifecycleModes"), mode, &modes));
        }
    }
    if let Some(seconds) = spec.int(&["nodeAllocatableUpdatePeriodSeconds"])
        && seconds < 10
    {
        errors.push(FieldError::invalid(
            at.child("nodeAllocatableUpdatePeriodSeconds"),
            seconds,
            "must be greater than or equal to 10 seconds",
        ));
    }
    errors
}

/// Checks the name of a driver, which may be written in capitals. The name of an object is checked for the rest elsewhere.
pub(super) fn driver_name(
    name: &str,
    at: impl Into<String>,
    whole: bool,
    errors: &mut Vec<FieldError>,
) {
    let at = at.into();
    if name.is_empty() && whole {
        errors.push(FieldError::required(at.clone(), ""));
    }
    if name.len() > MAX_NAME {
        errors.push(FieldError {
            problem: FieldProblem::TooLong,
            path: at.clone(),
            detail: format!("may not be more than {MAX_NAME} bytes"),
        });
    }
    if whole && let Some(problem) = names::subdomain(&name.to_lowercase()) {
        errors.push(FieldError::invalid(at, name, problem));
    }
}
