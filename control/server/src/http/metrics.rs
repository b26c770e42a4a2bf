//! `/metrics`: the API server's own, in the OpenMetrics text format, with upstream's names where upstream has one.
//!
//! Requests are counted at the gate. Names of what does not exist never become labels, so that nobody can fill the
//! server's memory by asking for nonsense.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Instant;

use axum::body::Body;
use axum::response::Response;
use coracle_api::kinds;
use coracle_store::Stats;
use http_body_util::BodyExt;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabel;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry as Samples;

use super::App;
use super::answer::bytes_response;
use super::health::{self, Check};
use super::request::RequestInfo;
use crate::flow::Flow;
use crate::registry::Registry;

/// Seconds, as upstream has them for `apiserver_request_duration_seconds`, fewer.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a request is about, as far as that is one of few.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct About {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    code: u16,
}

impl EncodeLabelSet for About {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        let text = [
            ("verb", self.verb),
            ("group", self.group),
            ("version", self.version),
            ("resource", self.resource),
        ];
        for label in text {
            label.encode(encoder.encode_label())?;
        }
        // Not known yet where it is timed or under way.
        if self.code != 0 {
            ("code", self.code.to_string()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// What is counted as it happens; clones share it.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Counted>);

struct Counted {
    requests: Family<About, Counter>,
    durations: Family<About, Histogram, fn() -> Histogram>,
    long_running: Family<About, Gauge>,
    inflight: AtomicI64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Counted {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            long_running: Family::default(),
            inflight: AtomicI64::new(0),
        }))
    }
}

/// A request under way.
pub(crate) struct Timed {
    metrics: Metrics,
    about: About,
    begun: Instant,
}

impl Metrics {
    /// A request came.
    pub(crate) fn begin(&self, info: &RequestInfo) -> Timed {
        self.0.inflight.fetch_add(1, Relaxed);
        let custom = || Some(info.custom.as_ref()?.kind());
        let about = match kinds::by_resource(&info.group, &info.resource).or_else(custom) {
            Some(kind) if info.is_resource => About {
                verb: verb(info.verb),
                group: kind.group,
                version: kind.version,
                resource: kind.plural,
                code: 0,
            },
            _ => About { verb: verb(info.verb), group: "", version: "", resource: "", code: 0 },
        };
        Timed { metrics: self.clone(), about, begun: Instant::now() }
    }
}

impl Timed {
    /// It is answered. What goes on for long is counted until its last byte.
    pub(crate) fn finish(self, response: Response) -> Response {
        let counted = &self.metrics.0;
        let answered = About { code: response.status().as_u16(), ..self.about.clone() };
        counted.requests.get_or_create(&answered).inc();
        if self.about.verb != "WATCH" {
            let seconds = self.begun.elapsed().as_secs_f64();
            counted.durations.get_or_create(&self.about).observe(seconds);
            return response;
        }
        let open = LongRunning(counted.long_running.get_or_create(&self.about).clone());
        open.0.inc();
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &open;
                frame
            }))
        })
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.metrics.0.inflight.fetch_sub(1, Relaxed);
    }
}

struct LongRunning(Gauge);

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn verb(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

/// The answer.
pub(crate) async fn get(metrics: &Metrics, registry: &Registry, flow: &Flow) -> Response {
    let counted = &metrics.0;
    let mut samples = Samples::default();
    let help = "Requests by verb, resource and code";
    samples.register("apiserver_request", help, counted.requests.clone());
    let help = "How long requests took that are not watches";
    samples.register("apiserver_request_duration_seconds", help, counted.durations.clone());
    let help = "Watches that are open";
    samples.register("apiserver_longrunning_requests", help, counted.long_running.clone());
    samples.register_collector(Box::new(Now {
        inflight: counted.inflight.load(Relaxed),
        objects: {
            let cluster = registry.cache.read();
            cluster.kinds().map(|kind| (kind.plural, kind.group, cluster.count(kind))).collect()
        },
        seats: flow.nominal_seats(),
        revision: registry.cache.revision(),
        store: registry.store.stats().await.ok(),
    }));
    written(&samples)
}

/// `/metrics/slis`: how the server's health is.
pub(crate) fn health(app: &App) -> Response {
    let of =
        |name: &'static str| health::checks(app, name).into_iter().map(move |check| (name, check));
    let mut samples = Samples::default();
    samples.register_collector(Box::new(Healthy(
        ["healthz", "livez", "readyz"].into_iter().flat_map(of).collect(),
    )));
    written(&samples)
}

fn written(samples: &Samples) -> Response {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, samples);
    bytes_response(200, OPEN_METRICS, text.into())
}

/// Checks by where they are asked for.
#[derive(Debug)]
struct Healthy(Vec<(&'static str, Check)>);

impl Collector for Healthy {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (name, help) = ("kubernetes_healthcheck", "Whether a check passes.");
        let mut checks = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, (check, result)) in &self.0 {
            let labels = [("name", *check), ("type", *of)];
            checks.encode_family(&labels)?.encode_gauge(&i64::from(result.is_ok()))?;
        }
        Ok(())
    }
}

/// What is the case when somebody asks.
#[derive(Debug)]
struct Now {
    inflight: i64,
    objects: Vec<(&'static str, &'static str, usize)>,
    /// Priority levels with the seats that are theirs.
    seats: Vec<(String, u64)>,
    revision: u64,
    store: Option<Stats>,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let name = "apiserver_storage_objects";
        let help = "Objects by resource.";
        let mut objects = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (resource, group, count) in &self.objects {
            // As upstream: the group belongs to the resource's name.
            let full = match group.is_empty() {
                true => (*resource).to_owned(),
                false => format!("{resource}.{group}"),
            };
            objects.encode_family(&[("resource", full)])?.encode_gauge(&(*count as i64))?;
        }
        let name = "apiserver_flowcontrol_nominal_limit_seats";
        let help = "Seats that are a priority level's own.";
        let mut seats = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (level, count) in &self.seats {
            let labels = [("priority_level", level.as_str())];
            seats.encode_family(&labels)?.encode_gauge(&(*count as i64))?;
        }
        let mut gauges = vec![
            ("apiserver_current_inflight_requests", "Requests under way.", self.inflight),
            ("coracle_cache_revision", "Revision of the watch cache.", self.revision as i64),
        ];
        if let Some(store) = &self.store {
            gauges.extend([
                ("coracle_store_keys", "Keys in the store.", store.live_keys as i64),
                ("coracle_store_bytes", "Bytes of keys and values.", store.live_bytes as i64),
                ("coracle_store_history", "Superseded values kept.", store.history_records as i64),
                ("coracle_store_file_bytes", "Bytes on disk.", store.file_bytes as i64),
            ]);
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident =
            resident.and_then(|text| text.split_whitespace().next()?.parse::<i64>().ok());
        gauges.push((
            "process_resident_memory_bytes",
            "Memory of the server's process.",
            resident.unwrap_or(0) << 10,
        ));
        for (name, help, value) in gauges {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode_gauge(&value)?;
        }
        let Some(store) = &self.store else { return Ok(()) };
        let name = "coracle_store_commits";
        let help = "Commits since the store was made.";
        let mut commits = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        commits.encode_counter::<NoLabelSet, u64, f64>(&store.revision, None)
    }
}
