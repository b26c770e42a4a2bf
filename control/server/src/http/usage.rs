//! `metrics.k8s.io/v1beta1`: what `kubectl top` and autoscalers read. Nodes' agents tell it ([`tell`]) as it changes; nobody is
//! asked for it, and nothing of it is stored.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use coracle_api::metrics::{Report, Used};
use coracle_api::{ApiError, Cluster, Object, kinds};
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::App;
use super::accept::{self, Form, Offer};
use super::answer::{self, Answer, Failure, json_response};
use super::method_not_allowed;
use super::read::Selection;
use super::request::{RequestInfo, not_found_here};
use crate::auth::{Identity, node};

/// The group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub(crate) const VERSION: &str = "v1beta1";
/// Its resources: name, singular, kind, whether namespaced.
pub(crate) const ALL: [(&str, &str, &str, bool); 2] =
    [("nodes", "", "NodeMetrics", false), ("pods", "", "PodMetrics", true)];

/// Bytes of a node's report: some hundred of each Pod.
pub(crate) const LIMIT: usize = 64 << 20;

/// POST of a [`Report`], by a node, of itself. 409 asks for everything anew.
pub(crate) async fn tell(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    body: Bytes,
) -> Response {
    let answer = || {
        let node = node::name(&identity).ok_or_else(|| {
            let why = format!("user \"{}\" is no node, and only nodes tell metrics", identity.user);
            ApiError::new(403, "Forbidden", why)
        })?;
        let report: Report = serde_json::from_slice(&body).map_err(|error| {
            ApiError::bad_request(format!("the report is not readable: {error}"))
        })?;
        let taken = app.registry.cache.tell(node, report);
        taken.map_err(|error| ApiError::new(409, "Conflict", error.to_string()))
    };
    match answer() {
        Ok(()) => json_response(200, &json!({})),
        Err(error) => Failure(error).into_response(),
    }
}

/// GET of nodes or Pods, one or all.
pub(crate) async fn serve(app: &App, info: &RequestInfo, headers: &HeaderMap) -> Answer {
    let found = ALL.iter().find(|(name, ..)| *name == info.resource);
    let Some((.., kind, _)) =
        found.filter(|_| info.version == VERSION && info.subresource.is_empty())
    else {
        return Err(not_found_here().into());
    };
    if !matches!(info.verb, "get" | "list") {
        return Err(method_not_allowed().into());
    }
    let (form, _) = accept::negotiate(headers, Offer::JSON)?;
    app.registry.catch_up().await?;
    let now = Timestamp::now();
    let mut items = {
        let cluster = app.registry.cache.read();
        let selected = selected(&cluster, info)?;
        let item = if info.resource == "nodes" { of_node } else { of_pod };
        selected.iter().filter_map(|object| item(&cluster, object, now)).collect::<Vec<_>>()
    };
    if !info.name.is_empty() && items.is_empty() {
        return Err(missing(info).into());
    }
    if let Form::Table { v1 } = form {
        return Ok(json_response(200, &table(&items, v1)));
    }
    let version = format!("{GROUP}/{VERSION}");
    if info.verb == "get" {
        let mut one = items.pop().ok_or_else(|| missing(info))?;
        one["kind"] = (*kind).into();
        one["apiVersion"] = version.into();
        return Ok(json_response(200, &one));
    }
    let list = json!({
        "kind": format!("{kind}List"),
        "apiVersion": version,
        "metadata": {},
        "items": items,
    });
    Ok(json_response(200, &list))
}

fn selected(cluster: &Cluster, info: &RequestInfo) -> Result<Vec<Arc<Object>>, ApiError> {
    let kind = if info.resource == "nodes" { &kinds::NODE } else { &kinds::POD };
    if !info.name.is_empty() {
        let found = cluster.get(kind, info.scope(kind), &info.name);
        return Ok(vec![found.cloned().ok_or_else(|| missing(info))?]);
    }
    Ok(Selection::of(info, kind)?.collect(cluster, ""))
}

fn of_node(cluster: &Cluster, node: &Arc<Object>, now: Timestamp) -> Option<Value> {
    let (at, window, used) = cluster.metrics.node(&node.meta.name, now)?;
    let mut item = head(node, at, window);
    item["usage"] = usage(used);
    Some(item)
}

fn of_pod(cluster: &Cluster, pod: &Arc<Object>, now: Timestamp) -> Option<Value> {
    let sample = cluster.metrics.pod(pod, now)?;
    let mut item = head(pod, sample.at, sample.window);
    let told = sample.containers.iter();
    item["containers"] = told.map(|it| json!({"name": it.name, "usage": usage(it.used)})).collect();
    Some(item)
}

fn head(object: &Object, at: Timestamp, window: Duration) -> Value {
    // Times of the API have no fractions.
    let time = Timestamp::from_second(at.as_second()).unwrap_or(at).to_string();
    let mut metadata = json!({"name": object.meta.name, "creationTimestamp": time});
    if !object.meta.namespace.is_empty() {
        metadata["namespace"] = object.meta.namespace.as_str().into();
    }
    if !object.meta.labels.is_empty() {
        metadata["labels"] = json!(object.meta.labels);
    }
    json!({"metadata": metadata, "timestamp": time, "window": duration(window)})
}

/// As Go writes durations below a minute; no window is longer.
fn duration(window: Duration) -> String {
    format!("{}s", window.as_millis() as f64 / 1000.0)
}

fn usage(used: Used) -> Value {
    json!({"cpu": format!("{}n", used.cpu), "memory": format!("{}Ki", used.memory >> 10)})
}

/// As metrics-server prints them.
fn table(items: &[Value], v1: bool) -> Value {
    let columns = [
        ("Name", "string", "name"),
        ("cpu", "string", "quantity"),
        ("memory", "string", "quantity"),
        ("Window", "string", "duration"),
    ];
    answer::table(v1, &columns, items, |item| {
        let of = |name: &str| {
            let containers = item["containers"].as_array().into_iter().flatten();
            let all = containers.chain(item.get("usage").map(|_| item));
            let sum: coracle_api::Quantity =
                all.filter_map(|part| coracle_api::Quantity::of(&part["usage"][name])).sum();
            sum.to_string()
        };
        json!([item["metadata"]["name"], of("cpu"), of("memory"), item["window"]])
    })
}

fn missing(info: &RequestInfo) -> ApiError {
    let what = match info.resource.as_str() {
        "nodes" => format!("nodemetrics.metrics.k8s.io \"{}\" not found", info.name),
        _ => format!("podmetrics.metrics.k8s.io \"{}/{}\" not found", info.namespace, info.name),
    };
    ApiError::new(404, "NotFound", what)
}
