//! HorizontalPodAutoscaler, stored as `autoscaling/v2`; [`v1`] is the older form of the same objects.

mod print;
pub(super) mod v1;
mod validate;

use serde_json::json;

use super::common::{AGE, NAME, prepare_with_labels, text};
use super::*;
use crate::json::{Fields, default_text, object, object_or_new, set_default};

/// CPU use that is aimed at where nothing is said of metrics, in percent of what is requested.
const USUAL_CPU: i64 = 80;

/// `horizontalpodautoscalers.autoscaling`.
pub static KIND: Kind = Kind {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    resource: "horizontalpodautoscalers.autoscaling",
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default,
    prepare: prepare_with_labels,
    validate: validate::validate,
    validate_create: validate::validate_create,
    validate_update: validate::validate_update,
    columns: &[
        NAME,
        text("Reference", "What is scaled."),
        text("Targets", "What metrics are and what they are to be."),
        text("MinPods", "The least replicas."),
        text("MaxPods", "The most replicas."),
        text("Replicas", "The replicas that there are."),
        AGE,
    ],
    cells: print::cells,
    ..Kind::BASE
};

fn default(autoscaler: &mut Value) {
    let Some(spec) = autoscaler.as_object_mut().and_then(|it| object(it, "spec")) else { return };
    set_default(spec, "minReplicas", || 1);
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("metrics".into(), json!([usual_metric()]));
    }
    if let Some(behavior) = object(spec, "behavior") {
        let policy =
            |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 15});
        if let Some(up) = object_or_new(behavior, "scaleUp") {
            set_default(up, "stabilizationWindowSeconds", || 0);
            rules(up, || json!([policy("Pods", 4), policy("Percent", 100)]));
        }
        if let Some(down) = object_or_new(behavior, "scaleDown") {
            rules(down, || json!([policy("Percent", 100)]));
        }
    }
}

fn rules(rules: &mut Fields, policies: impl FnOnce() -> Value) {
    default_text(rules, "selectPolicy", "Max");
    set_default(rules, "policies", policies);
}

/// What metric is meant where none is named.
fn usual_metric() -> Value {
    json!({
        "type": "Resource",
        "resource": {
            "name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": USUAL_CPU},
        },
    })
}

#[cfg(test)]
mod tests;
