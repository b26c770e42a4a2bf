//! What `kubectl get hpa` shows.

use jiff::Timestamp;
use serde_json::Value;

use super::super::common::object_age;
use crate::json::Json;
use crate::object::Object;

/// Metrics that are shown; of more, how many.
const SHOWN: usize = 2;

pub(super) fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let autoscaler = object.value();
    let spec = autoscaler.at(&["spec"]).unwrap_or(&Value::Null);
    let target =
        ["kind", "name"].map(|field| spec.text(&["scaleTargetRef", field]).to_owned()).join("/");
    let least = spec.int(&["minReplicas"]).map_or("<unset>".to_owned(), |n| n.to_string());
    let count = |value: Option<i64>| value.unwrap_or(0).to_string();
    vec![
        object.meta.name.as_str().into(),
        target.into(),
        targets(spec, autoscaler.list(&["status", "currentMetrics"])).into(),
        least.into(),
        count(spec.int(&["maxReplicas"])).into(),
        count(autoscaler.int(&["status", "currentReplicas"])).into(),
        object_age(object, now),
    ]
}

/// `cpu: 12%/70%, memory: 10Mi/20Mi`.
fn targets(spec: &Value, current: &[Value]) -> String {
    let metrics = spec.list(&["metrics"]);
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let all: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(n, metric)| one(metric, current.get(n).unwrap_or(&Value::Null)))
        .collect();
    let shown = all[..all.len().min(SHOWN)].join(", ");
    match all.len() {
        n if n > SHOWN => format!("{shown} + {} more...", n - SHOWN),
        _ => shown,
    }
}

fn one(metric: &Value, status: &Value) -> String {
    let field = match metric.text(&["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let of = |name: &str| {
        let current = status.at(&[field, "current", name]);
        (metric.at(&[field, "target", name]), current)
    };
    let text = |value: Option<&Value>, suffix: &str| match value {
        Some(Value::String(text)) => format!("{text}{suffix}"),
        Some(number) => format!("{number}{suffix}"),
        None => "<unknown>".to_owned(),
    };
    let (average, current_average) = of("averageValue");
    let is_resource = matches!(field, "resource" | "containerResource");
    let ratio = match (is_resource, average) {
        (true, None) => {
            let (percent, current) = of("averageUtilization");
            let target = percent.map_or("<auto>".to_owned(), |percent| text(Some(percent), "%"));
            format!("{}/{target}", text(current, "%"))
        }
        (_, Some(_)) => format!("{}/{}", text(current_average, ""), text(average, "")),
        (false, None) => {
            let (value, current) = of("value");
            format!("{}/{}", text(current, ""), text(value, ""))
        }
    };
    match field {
        "object" | "external" if average.is_some() => format!("{ratio} (avg)"),
        "resource" | "containerResource" => format!("{}: {ratio}", metric.text(&[field, "name"])),
        _ => ratio,
    }
}
