//! `/metrics/resource`, as the kubelet has it (`pkg/kubelet/metrics/collectors/resource_metrics.go`): what
//! metrics-server scrapes. Written by hand, since its readers want the older Prometheus text format, with times in
//! milliseconds.

use std::fmt::Write;

use axum::response::Response;

use super::usage::{PodSample, Sample};
use super::{PROMETHEUS, typed};
use crate::pod::worker::Workers;

/// The answer.
pub async fn resource(workers: &Workers) -> Response {
    typed(PROMETHEUS, text(&Sample::take(workers).await))
}

pub(super) fn text(sample: &Sample) -> String {
    let mut out = Text { out: String::new(), at: sample.at.as_millisecond() };
    let node = &sample.node;
    out.family("node_cpu_usage_seconds_total", "counter", "cpu time consumed by the node");
    out.line("node_cpu_usage_seconds_total", "", seconds(node.cpu_nanoseconds));
    out.family("node_memory_working_set_bytes", "gauge", "working set of the node");
    out.line("node_memory_working_set_bytes", "", node.working_set() as f64);

    let name = "container_cpu_usage_seconds_total";
    out.family(name, "counter", "cpu time consumed by the container");
    out.containers(sample, name, |container| seconds(container.usage.cpu_nanoseconds));
    let name = "container_memory_working_set_bytes";
    out.family(name, "gauge", "working set of the container");
    out.containers(sample, name, |container| container.usage.memory_bytes as f64);
    let name = "container_start_time_seconds";
    out.family(name, "gauge", "start time of the container since unix epoch");
    out.containers(sample, name, |container| container.started_at.as_millisecond() as f64 / 1e3);

    let name = "pod_cpu_usage_seconds_total";
    out.family(name, "counter", "cpu time consumed by the pod");
    out.pods(sample, name, |pod| seconds(pod.total().0));
    let name = "pod_memory_working_set_bytes";
    out.family(name, "gauge", "working set of the pod");
    out.pods(sample, name, |pod| pod.total().1 as f64);

    let name = "resource_scrape_error";
    out.family(name, "gauge", "1 if some container's metrics are missing, 0 otherwise");
    let _ = writeln!(out.out, "{name} {}", u8::from(sample.incomplete));
    out.out
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Names of objects need no escaping: they are DNS labels.
struct Text {
    out: String,
    at: i64,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.out, "{name}{labels} {value} {}", self.at);
    }

    fn containers(
        &mut self,
        sample: &Sample,
        name: &str,
        value: impl Fn(&coracle_sandbox::ContainerUsage) -> f64,
    ) {
        for pod in &sample.pods {
            for container in &pod.containers {
                let labels = format!(
                    "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
                    container.container, pod.pod.namespace, pod.pod.name
                );
                self.line(name, &labels, value(container));
            }
        }
    }

    fn pods(&mut self, sample: &Sample, name: &str, value: impl Fn(&PodSample) -> f64) {
        for pod in &sample.pods {
            let labels =
                format!("{{namespace=\"{}\",pod=\"{}\"}}", pod.pod.namespace, pod.pod.name);
            self.line(name, &labels, value(pod));
        }
    }
}
