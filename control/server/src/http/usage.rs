//! `metrics.k8s.io/v1beta1`: what `kubectl top` and autoscalers read. Asked for, it is asked of the nodes' agents;
//! nothing is kept here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::{ApiError, Object, kinds};
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::answer::{Answer, json_response};
use super::logs;
use super::method_not_allowed;
use super::read::Selection;
use super::request::{RequestInfo, not_found_here};

/// The group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub(crate) const VERSION: &str = "v1beta1";
/// Its resources: name, singular, kind, whether namespaced.
pub(crate) const ALL: [(&str, &str, &str, bool); 2] =
    [("nodes", "", "NodeMetrics", false), ("pods", "", "PodMetrics", true)];

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a node's answer.
const LIMIT: usize = 256 << 20;
/// What usage is an average over, as far as its readers care.
const WINDOW: &str = "10s";

/// What is read of a node's `/stats/summary`.
#[derive(Deserialize)]
struct Summary {
    node: Stats,
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Deserialize)]
struct Stats {
    cpu: Cpu,
    memory: Memory,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: String,
    usage_nano_cores: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodRef,
    containers: Vec<ContainerStats>,
}

#[derive(Deserialize)]
struct PodRef {
    uid: String,
}

#[derive(Deserialize)]
struct ContainerStats {
    name: String,
    cpu: Cpu,
    memory: Memory,
}

/// GET of nodes or Pods, one or all.
pub(crate) async fn serve(app: &App, info: &RequestInfo) -> Answer {
    let known = ALL.iter().any(|(name, ..)| *name == info.resource);
    if info.version != VERSION || !known || !info.subresource.is_empty() {
        return Err(not_found_here().into());
    }
    if !matches!(info.verb, "get" | "list") {
        return Err(method_not_allowed().into());
    }
    app.registry.catch_up().await?;
    match info.resource.as_str() {
        "nodes" => nodes(app, info).await,
        _ => pods(app, info).await,
    }
}

async fn nodes(app: &App, info: &RequestInfo) -> Answer {
    let selected = selected(app, info, &kinds::NODE)?;
    let summaries = join_all(selected.iter().map(|node| summary(app, &node.meta.name))).await;
    let items = selected.iter().zip(summaries).filter_map(|(node, summary)| {
        let Stats { cpu, memory } = summary?.node;
        Some(json!({
            "metadata": metadata(node, &cpu.time),
            "timestamp": cpu.time,
            "window": WINDOW,
            "usage": usage(&cpu, &memory),
        }))
    });
    answer(info, "NodeMetrics", items.collect())
}

async fn pods(app: &App, info: &RequestInfo) -> Answer {
    let selected = selected(app, info, &kinds::POD)?;
    let mut nodes: Vec<&str> = selected.iter().filter_map(|p| p.node_name.as_deref()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let summaries = join_all(nodes.into_iter().map(|node| summary(app, node))).await;
    let mut by_uid: HashMap<String, Vec<ContainerStats>> = HashMap::new();
    for pod in summaries.into_iter().flatten().flat_map(|summary| summary.pods) {
        by_uid.insert(pod.pod_ref.uid, pod.containers);
    }
    let items = selected.iter().filter_map(|pod| {
        let containers = by_uid.remove(&pod.meta.uid)?;
        let time = &containers.first()?.cpu.time;
        let containers_told: Vec<Value> = containers
            .iter()
            .map(|it| json!({"name": it.name, "usage": usage(&it.cpu, &it.memory)}))
            .collect();
        Some(json!({
            "metadata": metadata(pod, time),
            "timestamp": time,
            "window": WINDOW,
            "containers": containers_told,
        }))
    });
    answer(info, "PodMetrics", items.collect())
}

fn selected(
    app: &App,
    info: &RequestInfo,
    kind: &'static coracle_api::Kind,
) -> Result<Vec<Arc<Object>>, ApiError> {
    if !info.name.is_empty() {
        let found = app.registry.cache.get(kind, info.scope(kind), &info.name);
        return Ok(vec![found.ok_or_else(|| missing(info))?]);
    }
    let selection = Selection::of(info, kind)?;
    let cluster = app.registry.cache.read();
    Ok(cluster.list(kind).filter(|object| selection.matches(object)).cloned().collect())
}

async fn summary(app: &App, node: &str) -> Option<Summary> {
    let asked = async {
        let response =
            logs::ask(&app.registry, &app.kubelets, node, "/stats/summary").await.ok()?;
        let body = axum::body::Body::new(response.into_body());
        let bytes = axum::body::to_bytes(body, LIMIT).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await.ok().flatten();
    if answer.is_none() {
        tracing::debug!(node, "a node tells no usage");
    }
    answer
}

fn metadata(object: &Object, time: &str) -> Value {
    let mut metadata = json!({"name": object.meta.name, "creationTimestamp": time});
    if !object.meta.namespace.is_empty() {
        metadata["namespace"] = object.meta.namespace.as_str().into();
    }
    if !object.meta.labels.is_empty() {
        metadata["labels"] = json!(object.meta.labels);
    }
    metadata
}

fn usage(cpu: &Cpu, memory: &Memory) -> Value {
    json!({
        "cpu": format!("{}n", cpu.usage_nano_cores),
        "memory": format!("{}Ki", memory.working_set_bytes >> 10),
    })
}

fn answer(info: &RequestInfo, kind: &str, mut items: Vec<Value>) -> Answer {
    let version = format!("{GROUP}/{VERSION}");
    if !info.name.is_empty() {
        let mut one = items.pop().ok_or_else(|| missing(info))?;
        one["kind"] = kind.into();
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

fn missing(info: &RequestInfo) -> ApiError {
    let what = match info.resource.as_str() {
        "nodes" => format!("nodemetrics.metrics.k8s.io \"{}\" not found", info.name),
        _ => format!("podmetrics.metrics.k8s.io \"{}/{}\" not found", info.namespace, info.name),
    };
    ApiError::new(404, "NotFound", what)
}
