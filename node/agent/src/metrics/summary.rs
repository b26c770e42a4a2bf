//! `/stats/summary`, as the kubelet has it (`staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1/types.go`), as far as
//! there is something to tell.

use std::collections::HashMap;

use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;

use super::usage::Sample;
use crate::pod::worker::Workers;

/// The answer, in the name of this node.
pub async fn summary(workers: &Workers, node: &str) -> Response {
    let sample = Sample::take(workers).await;
    let rates = workers.metrics().rates.update(&sample);
    axum::Json(of(&sample, &rates, node)).into_response()
}

/// A Summary.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    node: NodeStats<'a>,
    pods: Vec<PodStats<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStats<'a> {
    node_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Timestamp>,
    cpu: Cpu,
    memory: Memory,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStats<'a> {
    pod_ref: PodRef<'a>,
    start_time: Timestamp,
    containers: Vec<ContainerStats<'a>>,
    cpu: Cpu,
    memory: Memory,
}

#[derive(Serialize)]
struct PodRef<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStats<'a> {
    name: &'a str,
    start_time: Timestamp,
    cpu: Cpu,
    memory: Memory,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Timestamp,
    usage_nano_cores: u64,
    usage_core_nano_seconds: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
}

pub(super) fn of<'a>(
    sample: &'a Sample,
    rates: &HashMap<(String, String), u64>,
    node: &'a str,
) -> Summary<'a> {
    let time = sample.at;
    let rate = |uid: &str, container: &str| {
        rates.get(&(uid.to_owned(), container.to_owned())).copied().unwrap_or(0)
    };
    let cpu = |nanocores, total| Cpu {
        time,
        usage_nano_cores: nanocores,
        usage_core_nano_seconds: total,
    };
    let memory = |bytes| Memory {
        time,
        available_bytes: None,
        usage_bytes: bytes,
        working_set_bytes: bytes,
    };
    let pods = sample.pods.iter().map(|pod| {
        let mut nanocores = 0;
        let containers = pod.containers.iter().map(|container| {
            let rate = rate(&pod.pod.uid, &container.container);
            nanocores += rate;
            ContainerStats {
                name: &container.container,
                start_time: container.started_at,
                cpu: cpu(rate, container.usage.cpu_nanoseconds),
                memory: memory(container.usage.memory_bytes),
            }
        });
        let containers = containers.collect();
        let (total, bytes) = pod.total();
        PodStats {
            pod_ref: PodRef {
                name: &pod.pod.name,
                namespace: &pod.pod.namespace,
                uid: &pod.pod.uid,
            },
            start_time: pod.pod.start_time,
            containers,
            cpu: cpu(nanocores, total),
            memory: memory(bytes),
        }
    });
    let machine = &sample.node;
    Summary {
        node: NodeStats {
            node_name: node,
            start_time: machine.booted,
            cpu: cpu(rate("", ""), machine.cpu_nanoseconds),
            memory: Memory {
                available_bytes: Some(machine.memory_available),
                ..memory(machine.working_set())
            },
        },
        pods: pods.collect(),
    }
}
