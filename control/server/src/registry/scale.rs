//! `autoscaling/v1` Scale, the view of an object that `kubectl scale` and autoscalers write to.

use coracle_api::custom::Scale;
use coracle_api::{ApiError, FieldError, Object, kinds};
use serde_json::{Value, json};

/// The Scale of an object; `paths` say where a custom kind has its numbers.
pub(crate) fn from_object(object: &Object, paths: Option<&Scale>) -> Value {
    of(&object.value(), paths)
}

/// The same, of a tree.
pub(crate) fn of(tree: &Value, paths: Option<&Scale>) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = tree["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    if let Some(paths) = paths {
        let at = |path: &[String]| path.iter().try_fold(tree, |tree, name| tree.get(name));
        let number = |path: &[String]| at(path).and_then(Value::as_i64).unwrap_or(0);
        let mut scale = json!({
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": metadata,
            "spec": {"replicas": number(&paths.spec)},
            "status": {"replicas": number(&paths.status)},
        });
        if let Some(selector) = paths.selector.as_deref().and_then(at).and_then(Value::as_str) {
            scale["status"]["selector"] = selector.into();
        }
        return scale;
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": tree["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {
            "replicas": tree["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": selector(tree),
        },
    })
}

/// The object with what a Scale says of its replicas.
pub(crate) fn into_object(
    object: &Object,
    paths: Option<&Scale>,
    mut tree: Value,
    scale: &Value,
) -> Result<Value, ApiError> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let error =
            FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(object.kind, &object.meta.name, &[error]));
    }
    match paths {
        Some(paths) => put(&mut tree, &paths.spec, replicas),
        None => tree["spec"]["replicas"] = replicas.into(),
    }
    for field in ["resourceVersion", "uid"] {
        if let Some(given) = scale["metadata"].get(field) {
            tree["metadata"][field] = given.clone();
        }
    }
    Ok(tree)
}

/// Puts a number where the names lead, making objects on the way.
fn put(tree: &mut Value, path: &[String], number: i64) {
    let mut at = tree;
    for name in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[name];
    }
    *at = number.into();
}

/// A label selector in text form, as autoscalers expect it; a ReplicationController's is nothing but labels.
fn selector(tree: &Value) -> String {
    let selector = &tree["spec"]["selector"];
    let is_map = tree["kind"] == kinds::REPLICATION_CONTROLLER.kind;
    let labels = if is_map { selector } else { &selector["matchLabels"] };
    let mut terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for term in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = term["key"].as_str().unwrap_or_default();
        let values: Vec<_> =
            term["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        terms.push(match term["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}
