//! What the agent tells of itself and of what it runs, on the kubelet API.
//!
//! | path | what | format |
//! |---|---|---|
//! | `/metrics` | the agent itself: Pods, what it did for them and how long it took, probes | OpenMetrics |
//! | `/metrics/resource` | CPU and memory of the node, Pods and containers | as the kubelet's, for metrics-server |
//! | `/metrics/host` | what the Wasm hosts tell: requests, latency, instances, traps | OpenMetrics |
//! | `/metrics/ingress` | what the proxy of Ingresses tells: requests by Ingress, connections | OpenMetrics |
//! | `/stats/summary` | CPU and memory again | as the kubelet's, JSON |
//!
//! Counters are added to where things happen; everything else is read when asked for. What autoscalers need is not asked for
//! but told to the server, as it changes: [`tell()`].

mod groups;
mod hosts;
mod rates;
mod resource;
mod summary;
mod tell;
mod usage;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::pod::lifecycle::{Action, ProbeKind};
use crate::pod::worker::Workers;

pub use hosts::of_hosts;
pub use resource::resource;
pub use summary::summary;
pub use tell::tell;
pub use usage::Rates;

/// Of what [`of_agent`] and [`of_hosts`] answer.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Of what [`resource`] answers.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Seconds that starting and ending Pods is told apart by.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// What is counted as it happens.
pub struct Metrics {
    actions: Family<Labels<1>, Histogram, fn() -> Histogram>,
    probes: Family<Labels<2>, Counter>,
    restarts: Counter,
    /// CPU use between two askings.
    pub rates: Rates,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            actions: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            probes: Family::default(),
            restarts: Counter::default(),
            rates: Rates::default(),
        }
    }
}

impl Metrics {
    /// Something is being done for a Pod, until what is returned is dropped.
    pub fn begin(&self, action: &Action) -> Timed {
        let name = match action {
            Action::CreateSandbox => "create-sandbox",
            Action::Pull { .. } => "pull",
            Action::Start { attempt, .. } => {
                if *attempt > 0 {
                    self.restarts.inc();
                }
                "start"
            }
            Action::Stop { .. } => "stop",
            Action::Probe { .. } => "probe",
            Action::Hook { .. } => "hook",
            Action::RemoveSandbox => "remove-sandbox",
            _ => "report",
        };
        let histogram = self.actions.get_or_create(&[("action", name)]).clone();
        Timed { histogram, begun: Instant::now() }
    }

    /// A probe's outcome.
    pub fn probed(&self, kind: ProbeKind, passed: bool) {
        let kind = match kind {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        };
        let result = if passed { "successful" } else { "failed" };
        self.probes.get_or_create(&[("probe_type", kind), ("result", result)]).inc();
    }
}

/// An action under way.
pub struct Timed {
    histogram: Histogram,
    begun: Instant,
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.histogram.observe(self.begun.elapsed().as_secs_f64());
    }
}

/// `/metrics/ingress`, of the process with that socket.
pub async fn of_ingress(socket: PathBuf) -> Response {
    let text = crate::ingress::metrics(socket).await;
    ([(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS))], text).into_response()
}

/// `/metrics`.
pub fn of_agent(workers: &Workers) -> Response {
    let metrics = workers.metrics();
    let mut registry = Registry::default();
    registry.register(
        "coracle_agent_action_duration_seconds",
        "What was done for Pods, and how long each took",
        metrics.actions.clone(),
    );
    registry.register(
        "coracle_agent_container_restarts",
        "Containers that were started again",
        metrics.restarts.clone(),
    );
    registry.register("prober_probe", "Probes of containers by result", metrics.probes.clone());
    registry.register_collector(Box::new(Now(workers.clone())));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &registry);
    typed(OPEN_METRICS, text)
}

fn typed(kind: &'static str, text: String) -> Response {
    let mut response = text.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What is the case when somebody asks.
struct Now(Workers);

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Now")
    }
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let seen = self.0.seen();
        let count = |test: &dyn Fn(&crate::pod::worker::Seen) -> bool| {
            seen.iter().filter(|pod| test(pod)).count() as i64
        };
        let name = "coracle_agent_pods";
        let mut pods =
            encoder.encode_descriptor(name, "Pods of this node.", None, MetricType::Gauge)?;
        for phase in ["Pending", "Running", "Succeeded", "Failed"] {
            let labels = [("phase", phase)];
            pods.encode_family(&labels)?.encode_gauge(&count(&|pod| pod.phase == phase))?;
        }
        let containers = seen.iter().flat_map(|pod| &pod.containers);
        let running = containers.filter(|container| container.running_since.is_some()).count();
        let process = usage::Process::read();
        let gauges = [
            ("kubelet_running_pods", "Pods that have a sandbox.", count(&|pod| pod.has_sandbox)),
            ("kubelet_running_containers", "Containers that run.", running as i64),
            ("process_resident_memory_bytes", "Memory of the agent.", process.resident as i64),
            ("process_open_fds", "Files and sockets of the agent.", process.fds as i64),
        ];
        for (name, help, value) in gauges {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode_gauge(&value)?;
        }
        let help = "CPU time of the agent.";
        let name = "process_cpu_seconds";
        let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter.encode_counter::<NoLabelSet, f64, f64>(&process.cpu_seconds, None)
    }
}

/// `/pods`: the Pods as this node has them.
pub fn pods(workers: &Workers) -> Response {
    let items: Vec<Arc<_>> = workers.pods().into_iter().map(Arc::new).collect();
    let list = serde_json::json!({
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {},
        "items": items,
    });
    axum::Json(list).into_response()
}

#[cfg(test)]
mod tests;
