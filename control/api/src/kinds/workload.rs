//! What workloads (Deployment, ReplicaSet) share: a selector, a Pod template, replicas.

use serde_json::Value;

use super::Column;
use super::common::{container_cells, format_selector, wide};
use super::pod::defaults;
use crate::json::{Fields, Json, object, set_default};
use crate::object::Object;

/// The columns that `-o wide` adds.
pub(super) const WIDE: [Column; 3] = [
    wide("Containers", "Names of each container in the template."),
    wide("Images", "Images referenced by each container in the template."),
    wide("Selector", "Label selector for pods."),
];

/// The cells of [`WIDE`].
pub(super) fn wide_cells(workload: &Value) -> [Value; 3] {
    let [names, images] = container_cells(workload.at(&["spec", "template", "spec"]));
    [names, images, format_selector(workload.at(&["spec", "selector"])).into()]
}

/// Defaults of replicas and template.
pub(super) fn default_spec(workload: &mut Value) -> Option<&mut Fields> {
    let spec = object(workload.as_object_mut()?, "spec")?;
    set_default(spec, "replicas", || 1);
    if let Some(template) = object(spec, "template") {
        defaults::template(template);
    }
    Some(spec)
}

/// A count in `status`, absent reads as none.
pub(super) fn count(workload: &Value, field: &str) -> i64 {
    workload.int(&["status", field]).unwrap_or(0)
}

/// The tree of a workload and the replicas it wants.
pub(super) fn read(object: &Object) -> (Value, i64) {
    let workload = object.value();
    let desired = workload.int(&["spec", "replicas"]).unwrap_or(0);
    (workload, desired)
}
