//! `autoscaling/v1`: the same autoscalers with one metric, CPU in percent of requests. What else there is stands in annotations,
//! in the words of that version's types (`pkg/apis/autoscaling/v1/conversion.go`), so that nothing is lost on the way there and back.

use serde_json::{Value, json};

use super::usual_metric;
use crate::json::{Fields, Json};

/// The version.
pub const VERSION: &str = "v1";

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// From how it is stored to how this version shows it.
pub fn show(autoscaler: &mut Value) {
    let Some(fields) = autoscaler.as_object_mut() else { return };
    fields.insert("apiVersion".into(), "autoscaling/v1".into());
    let mut annotations: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = take(spec, "metrics");
        let is_cpu = |metric: &&Value| {
            metric.text(&["type"]) == "Resource" && metric.text(&["resource", "name"]) == "cpu"
        };
        let percent = |metric: &Value| {
            metric.at(&["resource", "target", "averageUtilization"]).cloned()
        };
        if let Some(percent) = metrics.iter().find(is_cpu).and_then(percent) {
            spec.insert("targetCPUUtilizationPercentage".into(), percent);
        }
        let others = metrics.iter().filter(|m| !is_cpu(m) || percent(m).is_none());
        annotations.push((METRICS, others.map(|m| flat(m, "target", "target")).collect()));
        annotations.push((BEHAVIOR, spec.remove("behavior").unwrap_or_default()));
    }
    if let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) {
        let current = take(status, "currentMetrics");
        let percent = current.iter().filter(|m| m.text(&["resource", "name"]) == "cpu").find_map(|m| {
            m.at(&["resource", "current", "averageUtilization"]).cloned()
        });
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".into(), percent);
        }
        let told = current.iter().map(|metric| flat(metric, "current", "current")).collect();
        annotations.push((CURRENT, told));
        annotations.push((CONDITIONS, take(status, "conditions").into()));
        for field in ["currentReplicas", "desiredReplicas"] {
            status.entry(field).or_insert_with(|| 0.into());
        }
    }
    annotations.retain(|(_, value)| !matches!(value, Value::Null) && value.as_array().is_none_or(|a| !a.is_empty()));
    if annotations.is_empty() {
        return;
    }
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else { return };
    let all = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(all) = all.as_object_mut() {
        all.extend(annotations.into_iter().map(|(name, it)| (name.into(), it.to_string().into())));
    }
}

/// From how this version writes it to how it is stored. An annotation that is not readable counts as none.
pub fn store(autoscaler: &mut Value) {
    let Some(fields) = autoscaler.as_object_mut() else { return };
    fields.insert("apiVersion".into(), "autoscaling/v2".into());
    let mut annotations = Fields::new();
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(all) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
    {
        for name in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
            let value = all.remove(name);
            let value = value.as_ref().and_then(Value::as_str).map(serde_json::from_str);
            if let Some(Ok(value)) = value {
                annotations.insert(name.into(), value);
            }
        }
        if all.is_empty() {
            metadata.remove("annotations");
        }
    }
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics = Vec::new();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null())
        {
            let mut cpu = usual_metric();
            cpu["resource"]["target"]["averageUtilization"] = percent;
            metrics.push(cpu);
        }
        let others = annotations.list(&[METRICS]).iter();
        metrics.extend(others.map(|metric| deep(metric, "target", "target")));
        if metrics.is_empty() {
            metrics.push(usual_metric());
        }
        spec.insert("metrics".into(), metrics.into());
        if let Some(behavior) = annotations.remove(BEHAVIOR).filter(Value::is_object) {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null());
        let told = annotations.list(&[CURRENT]).iter();
        let mut current: Vec<Value> =
            told.map(|metric| deep(metric, "current", "current")).collect();
        if let Some(percent) = percent.filter(|_| current.is_empty()) {
            current.push(json!({
                "type": "Resource",
                "resource": {"name": "cpu", "current": {"averageUtilization": percent}},
            }));
        }
        status.insert("currentMetrics".into(), current.into());
        if let Some(conditions) = annotations.remove(CONDITIONS) {
            status.insert("conditions".into(), conditions);
        }
    }
}

fn take(fields: &mut Fields, name: &str) -> Vec<Value> {
    match fields.remove(name) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// The field of a metric that says what it is about.
fn source(metric: &Value) -> &'static str {
    match metric.text(&["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        _ => "external",
    }
}

/// What values are called: within `target` or `current`, and flat, behind one of these words.
fn names(source: &str, prefix: &str) -> [(&'static str, String); 3] {
    let average = match source {
        // The odd one out.
        "object" => "averageValue".to_owned(),
        _ => format!("{prefix}AverageValue"),
    };
    [
        ("averageUtilization", format!("{prefix}AverageUtilization")),
        ("averageValue", average),
        ("value", format!("{prefix}Value")),
    ]
}

/// How the older version's selectors are called.
fn selector(source: &str) -> &'static str {
    if source == "external" { "metricSelector" } else { "selector" }
}

/// A metric in the older words: its values side by side with what they are values of.
fn flat(metric: &Value, group: &str, prefix: &str) -> Value {
    let source = source(metric);
    let mut out = Fields::new();
    let old = &metric[source];
    for field in ["name", "container"] {
        out.extend(old.at(&[field]).map(|value| (field.to_owned(), value.clone())));
    }
    let mut put = |name: &str, value: Option<&Value>| {
        out.extend(value.map(|value| (name.to_owned(), value.clone())));
    };
    put("target", old.at(&["describedObject"]));
    put("metricName", old.at(&["metric", "name"]));
    put(selector(source), old.at(&["metric", "selector"]));
    for (deep, flat) in names(source, prefix) {
        put(&flat, old.at(&[group, deep]));
    }
    json!({"type": metric["type"], source: out})
}

/// The way back.
fn deep(metric: &Value, group: &str, prefix: &str) -> Value {
    let source = source(metric);
    let old = &metric[source];
    let mut values = Fields::new();
    for (deep, flat) in names(source, prefix) {
        values.extend(old.at(&[&flat]).map(|value| (deep.to_owned(), value.clone())));
    }
    if group == "target" {
        let kind = match () {
            () if values.contains_key("averageUtilization") => "Utilization",
            () if values.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        values.insert("type".into(), kind.into());
    }
    let mut out = Fields::new();
    for field in ["name", "container"] {
        out.extend(old.at(&[field]).map(|value| (field.to_owned(), value.clone())));
    }
    out.extend(old.at(&["target"]).map(|value| ("describedObject".to_owned(), value.clone())));
    if let Some(name) = old.at(&["metricName"]) {
        let mut identifier = Fields::from_iter([("name".to_owned(), name.clone())]);
        let selected = old.at(&[selector(source)]);
        identifier.extend(selected.map(|it| ("selector".to_owned(), it.clone())));
        out.insert("metric".into(), identifier.into());
    }
    out.insert(group.into(), values.into());
    json!({"type": metric["type"], source: out})
}
