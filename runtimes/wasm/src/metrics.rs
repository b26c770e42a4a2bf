//! What the host tells of itself and of its containers: `GET /v1/metrics`, in the OpenMetrics text
//! format, which Prometheus reads.
//!
//! A container that has done nothing yet has no series: ten thousand idle Pods cost nothing here.
//! Values are read from the containers' own counters when asked for, never kept twice.

use std::fmt;
use std::fs;
use std::sync::Arc;

use coracle_sandbox::{LABEL_NAME, Usage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::container::{Container, Sandbox};
use crate::host::Node;
use crate::http::{BUCKETS, CLASSES};
use crate::logs;

/// Everything, as text.
pub(crate) fn text(node: &Arc<Node>, sandboxes: &[Arc<Sandbox>]) -> String {
    let containers = sandboxes.iter().flat_map(|sandbox| sandbox.containers());
    let containers = containers.map(|container| (container.used(), container));
    let containers = containers.filter(|(usage, _)| *usage != Usage::default()).collect();
    let mut registry = Registry::with_prefix("coracle_wasm");
    let sandboxes = sandboxes.len() as u64;
    registry.register_collector(Box::new(Seen { node: node.clone(), sandboxes, containers }));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// What there is to tell, at one moment.
struct Seen {
    node: Arc<Node>,
    sandboxes: u64,
    containers: Vec<(Usage, Arc<Container>)>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seen({} sandboxes)", self.sandboxes)
    }
}

impl Collector for Seen {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.process(&mut encoder)?;
        self.engines(&mut encoder)?;
        self.counters(&mut encoder)?;
        self.gauges(&mut encoder)?;
        self.classes(&mut encoder)?;
        self.durations(&mut encoder)
    }
}

impl Seen {
    fn process(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let process = Process::read();
        let gauges = [
            ("process_resident_memory_bytes", "Memory of the host's process.", process.resident),
            ("process_open_fds", "Files and sockets that the host has open.", process.fds),
            ("process_threads", "Threads of the host.", process.threads),
            ("log_queued_bytes", "What Pods' logs wait for the disk with.", logs::queued() as u64),
            ("sandboxes", "Pods in this host.", self.sandboxes),
        ];
        for (name, help, value) in gauges {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode_gauge(&(value as i64))?;
        }
        let name = "process_cpu_seconds";
        let help = "CPU time of the host's process.";
        let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter.encode_counter::<NoLabelSet, f64, f64>(&process.cpu_seconds, None)
    }

    fn engines(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let classes: Vec<_> = self.node.engines.made().collect();
        type OfClass = fn(&crate::engine::Class) -> usize;
        let gauges: [(_, _, OfClass); 2] = [
            ("pool_slots", "Instances that the class has room for.", |class| class.slots.total()),
            ("pool_slots_used", "Instances that exist, idle ones included.", |class| {
                class.slots.total() - class.slots.free()
            }),
        ];
        for (name, help, value) in gauges {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for class in &classes {
                gauge
                    .encode_family(&[("class", class.name())])?
                    .encode_gauge(&(value(class) as i64))?;
            }
        }
        Ok(())
    }

    fn counters(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        type OfUsage = fn(&Usage) -> u64;
        let whole: [(_, _, OfUsage); 4] = [
            ("container_requests", "HTTP requests.", |usage| usage.requests),
            ("container_failed_requests", "HTTP requests that failed in the component.", |usage| {
                usage.failed_requests
            }),
            ("container_refused_requests", "HTTP requests refused for want of room.", |usage| {
                usage.refused_requests
            }),
            ("container_traps", "Traps.", |usage| usage.traps),
        ];
        for (name, help, value) in whole {
            let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (usage, container) in &self.containers {
                let labels = labels(container);
                let mut one = counter.encode_family(&labels)?;
                one.encode_counter::<NoLabelSet, u64, f64>(&value(usage), None)?;
            }
        }
        let name = "container_cpu_seconds";
        let help = "CPU time of the guest.";
        let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (usage, container) in &self.containers {
            let seconds = usage.cpu_nanoseconds as f64 / 1e9;
            let labels = labels(container);
            let mut one = counter.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        type Bytes = fn((u64, u64)) -> u64;
        let bytes: [(_, _, Bytes); 2] = [
            ("container_received_bytes", "Bytes of requests' bodies.", |(received, _)| received),
            ("container_sent_bytes", "Bytes of answers' bodies.", |(_, sent)| sent),
        ];
        for (name, help, value) in bytes {
            let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (_, container) in &self.containers {
                let Some(counts) = container.traffic.counted() else { continue };
                let labels = labels(container);
                let mut one = counter.encode_family(&labels)?;
                one.encode_counter::<NoLabelSet, u64, f64>(&value(counts.bytes()), None)?;
            }
        }
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        type Value = fn(&Usage, &Container) -> u64;
        let gauges: [(_, _, Value); 5] = [
            ("container_memory_bytes", "Memory of the guest's instances.", |usage, _| {
                usage.memory_bytes
            }),
            ("container_active_requests", "HTTP requests in service.", |usage, _| {
                usage.active_requests
            }),
            (
                "container_waiting_requests",
                "HTTP requests that wait for a place.",
                |_, container| container.traffic.waiting(),
            ),
            ("container_instances", "Instances of the component.", |usage, _| usage.instances),
            ("container_connections", "Open connections.", |_, container| {
                container.traffic.connections()
            }),
        ];
        for (name, help, value) in gauges {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (usage, container) in &self.containers {
                let labels = labels(container);
                let mut one = gauge.encode_family(&labels)?;
                one.encode_gauge(&(value(usage, container) as i64))?;
            }
        }
        Ok(())
    }

    fn classes(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let name = "container_answers";
        let help = "Finished HTTP requests, by class of status; aborted: the client left before.";
        let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (_, container) in &self.containers {
            let Some(counts) = container.traffic.counted() else { continue };
            for (class, count) in CLASSES.iter().zip(counts.by_class()) {
                if count > 0 {
                    let [namespace, pod, name] = labels(container);
                    let labels = [namespace, pod, name, ("code", *class)];
                    let mut one = counter.encode_family(&labels)?;
                    one.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
                }
            }
        }
        Ok(())
    }

    fn durations(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let name = "container_request_duration_seconds";
        let help = "From a request's head to its answer's last byte.";
        let mut histogram = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (usage, container) in &self.containers {
            let Some(counts) = container.traffic.counted() else { continue };
            let times = counts.by_time();
            let bounds = BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(times).collect();
            let sum = usage.request_microseconds as f64 / 1e6;
            let labels = labels(container);
            let mut one = histogram.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(sum, times.iter().sum(), &buckets, None)?;
        }
        Ok(())
    }
}

fn labels(container: &Container) -> [(&'static str, &str); 3] {
    let sandbox = &container.sandbox;
    let pod = sandbox.spec.labels.get(LABEL_NAME).map_or("", String::as_str);
    [("namespace", &sandbox.namespace), ("pod", pod), ("container", &container.spec.name)]
}

/// The host's process, as the kernel tells; zeros where it does not.
#[derive(Default)]
struct Process {
    resident: u64,
    fds: u64,
    threads: u64,
    cpu_seconds: f64,
}

impl Process {
    fn read() -> Process {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        let used = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
        let seconds =
            |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Process {
            resident: field("VmRSS:").unwrap_or(0) << 10,
            fds: fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64),
            threads: field("Threads:").unwrap_or(0),
            cpu_seconds: used.map_or(0.0, |u| seconds(u.user_time()) + seconds(u.system_time())),
        }
    }
}
