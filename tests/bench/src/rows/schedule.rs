//! How fast a backlog of Pods is bound to nodes.
//!
//! Nodes and Pods are created while nothing schedules; then the server starts with its scheduler. Time runs from the
//! moment before that start is complete until a watcher has seen the last binding, which is durable by then.

use std::time::{Duration, Instant};

use anyhow::bail;
use futures::StreamExt;
use http_body_util::BodyStream;
use hyper::Method;
use serde_json::json;

use super::{QUIET, create};
use crate::Bench;
use crate::api::Connection;
use crate::cluster::Cluster;
use crate::report::{Measured, quantile};

const NODES: usize = 1000;
const PODS: usize = 5000;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let mut rates = Vec::new();
    let mut used = 0;
    for _ in 0..ROUNDS {
        let cluster = Cluster::start(bench, QUIET).await?;
        let mut connection = cluster.connect().await?;
        for number in 0..NODES {
            connection.create("/api/v1/nodes", node(number)).await?;
        }
        create::pods(&cluster, PODS).await?;
        let list = connection.read("/api/v1/pods?limit=1").await?;
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        drop(connection);

        let cluster = cluster.restart(&["server", "--no-controllers"]).await?;
        let time = tokio::time::timeout(PATIENCE, bound(&cluster, &revision)).await??;
        rates.push(PODS as f64 / time.as_secs_f64());
        used = check(cluster.connect().await?).await?;
    }
    let rate = quantile(&mut rates, 0.5);
    Ok(Measured {
        value: format!("{rate:.0}/s"),
        met: rate >= 5000.0,
        notes: format!(
            "from the start of a server with {PODS} pending Pods and {NODES} Nodes in its store until a watcher has seen \
             the last durable binding; median of {ROUNDS} ({:.0} to {:.0}/s). The Pods spread over {used} nodes.",
            rates[0],
            rates[ROUNDS - 1],
        ),
    })
}

/// A Node that is ready, as its agent would report it.
fn node(number: usize) -> String {
    let room = json!({"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": format!("sim-{number:04}"),
            "labels": {
                "kubernetes.io/hostname": format!("sim-{number:04}"),
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
            },
        },
        "spec": {"podCIDR": format!("10.{}.{}.0/24", 100 + number / 256, number % 256)},
        "status": {
            "capacity": room, "allocatable": room,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    });
    node.to_string()
}

/// Follows Pods from a revision until all are bound.
async fn bound(cluster: &Cluster, revision: &str) -> anyhow::Result<Duration> {
    let mut connection = cluster.connect().await?;
    let path = format!("/api/v1/pods?watch=true&resourceVersion={revision}");
    let response = connection.send(Method::GET, &path, "").await?;
    if !response.status().is_success() {
        bail!("{path}: {}", response.status());
    }
    let mut frames = BodyStream::new(response.into_body());
    let mut line = Vec::new();
    let mut seen = 0;
    // Looked for, not parsed: the watcher shares the cores with what it measures.
    while let Some(frame) = frames.next().await {
        let Ok(data) = frame?.into_data() else { continue };
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if part.last() == Some(&b'\n') {
                seen += usize::from(contains(&line, b"\"nodeName\":\"sim-"));
                line.clear();
            }
        }
        if seen >= PODS {
            return Ok(Instant::now() - cluster.born);
        }
    }
    bail!("the watch ended after {seen} bindings")
}

fn contains(text: &[u8], pattern: &[u8]) -> bool {
    text.windows(pattern.len()).any(|window| window == pattern)
}

/// That every Pod has a node; over how many nodes they spread.
async fn check(mut connection: Connection) -> anyhow::Result<usize> {
    let list = connection.read("/api/v1/pods").await?;
    let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut nodes: Vec<&str> = pods.iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    if nodes.len() != PODS {
        bail!("only {} of {PODS} Pods are bound", nodes.len());
    }
    nodes.sort();
    nodes.dedup();
    Ok(nodes.len())
}
