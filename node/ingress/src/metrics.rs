//! What is counted, by Ingress, and what one request adds to it when it is over.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::log::{AccessLog, Line};
use crate::state::{Route, State};

/// Upper bounds of the histogram of durations, in seconds.
const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// An Ingress's counters. Each worker has its own, as far as there are so many: processors that write to the same memory wait for
/// each other.
#[derive(Default)]
pub(crate) struct Traffic {
    by_worker: [Counts; SHARES],
}

/// Most parts of an Ingress's counters.
const SHARES: usize = 8;

impl Traffic {
    pub(crate) fn of(&self, worker: usize) -> &Counts {
        &self.by_worker[worker % SHARES]
    }

    fn sum(&self, pick: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        self.by_worker.iter().map(|counts| pick(counts).load(Relaxed)).sum()
    }
}

/// A worker's.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    /// By the first digit of the status, from 1.
    answers: [AtomicU64; 5],
    /// Answers that took no longer than each of [`SECONDS`], and those that did.
    within: [AtomicU64; SECONDS.len() + 1],
    microseconds: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// Requests that were sent again, to another endpoint or on another connection.
    retries: AtomicU64,
    /// Answers that were broken off.
    broken: AtomicU64,
}

/// What is counted of the process.
#[derive(Default)]
pub(crate) struct Counters {
    /// Connections that are open.
    pub(crate) open: AtomicU64,
    /// Connections that were taken.
    pub(crate) accepted: AtomicU64,
    /// Connections that were closed at once, because there were too many.
    pub(crate) turned_away: AtomicU64,
    /// Requests that were refused as they stood.
    pub(crate) bad: AtomicU64,
    /// Requests to hosts and paths that no Ingress has.
    pub(crate) unknown: AtomicU64,
    /// TLS handshakes that came to nothing.
    pub(crate) handshakes: AtomicU64,
}

/// One request, until its answer has left.
pub(crate) struct Record {
    worker: usize,
    pub(crate) begun: Instant,
    pub(crate) status: u16,
    pub(crate) route: Option<Arc<Route>>,
    sent: u64,
    pub(crate) broken: bool,
    /// What the access log is to say, where there is to be one.
    pub(crate) line: Option<(Box<Line>, AccessLog)>,
    pub(crate) upload: Option<crate::body::Progress>,
}

impl Record {
    pub(crate) fn begin(worker: usize) -> Self {
        Self {
            worker,
            begun: Instant::now(),
            status: 0,
            route: None,
            sent: 0,
            broken: false,
            line: None,
            upload: None,
        }
    }

    /// It is sent again, to another endpoint or on another connection.
    pub(crate) fn again(&self) {
        if let Some(route) = &self.route {
            route.traffic.of(self.worker).retries.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(route) = &self.route else { return };
        let took = self.begun.elapsed();
        let traffic = route.traffic.of(self.worker);
        let class = usize::from(self.status / 100).clamp(1, 5) - 1;
        traffic.answers[class].fetch_add(1, Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        traffic.within[bucket].fetch_add(1, Relaxed);
        traffic.microseconds.fetch_add(took.as_micros() as u64, Relaxed);
        traffic.sent.fetch_add(self.sent, Relaxed);
        let received = self.upload.as_ref().map_or(0, |upload| upload.bytes());
        if received > 0 {
            traffic.received.fetch_add(received, Relaxed);
        }
        if self.broken {
            traffic.broken.fetch_add(1, Relaxed);
        }
        if let Some((mut line, log)) = self.line.take() {
            line.status = self.status;
            line.bytes_sent = self.sent;
            line.bytes_received = received;
            line.duration_ms = seconds * 1000.0;
            line.broken = self.broken;
            log.write(*line);
        }
    }
}

/// Everything, as OpenMetrics.
pub(crate) fn text(state: &State, counters: &Counters) -> String {
    let mut out = String::new();
    let mut one = |name: &str, kind: &str, help: &str, value: &AtomicU64| {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let value = value.load(Relaxed);
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{suffix} {value}\n");
    };
    one("coracle_ingress_connections_open", "gauge", "Open connections.", &counters.open);
    one("coracle_ingress_connections", "counter", "Connections.", &counters.accepted);
    one(
        "coracle_ingress_connections_turned_away",
        "counter",
        "Connections closed because there were too many.",
        &counters.turned_away,
    );
    one(
        "coracle_ingress_bad_requests",
        "counter",
        "Requests refused as they stood.",
        &counters.bad,
    );
    one(
        "coracle_ingress_unknown_requests",
        "counter",
        "Requests to hosts and paths that no Ingress has.",
        &counters.unknown,
    );
    one(
        "coracle_ingress_handshake_failures",
        "counter",
        "TLS handshakes that came to nothing.",
        &counters.handshakes,
    );
    let all = state.traffic();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    };
    head(&mut out, "coracle_ingress_requests", "counter", "Requests, by class of their answer.");
    for (ingress, traffic) in &all {
        for class in 1..=5 {
            let count = traffic.sum(|counts| &counts.answers[class - 1]);
            let _ = writeln!(
                out,
                "coracle_ingress_requests_total{{ingress=\"{ingress}\",code=\"{class}xx\"}} {count}"
            );
        }
    }
    for (name, help, pick) in [
        ("sent_bytes", "Bytes of answers.", (|t| &t.sent) as fn(&Counts) -> &AtomicU64),
        ("received_bytes", "Bytes of requests' bodies.", |t| &t.received),
        ("retries", "Requests that were sent again.", |t| &t.retries),
        ("broken_answers", "Answers that were broken off.", |t| &t.broken),
    ] {
        head(&mut out, &format!("coracle_ingress_{name}"), "counter", help);
        for (ingress, traffic) in &all {
            let value = traffic.sum(pick);
            let _ = writeln!(out, "coracle_ingress_{name}_total{{ingress=\"{ingress}\"}} {value}");
        }
    }
    let name = "coracle_ingress_request_seconds";
    head(&mut out, name, "histogram", "From a request's head to its answer's end.");
    for (ingress, traffic) in &all {
        let mut sum = 0;
        for (place, bound) in SECONDS.iter().map(f64::to_string).chain(["+Inf".into()]).enumerate()
        {
            sum += traffic.sum(|counts| &counts.within[place]);
            let _ = writeln!(out, "{name}_bucket{{ingress=\"{ingress}\",le=\"{bound}\"}} {sum}");
        }
        let seconds = traffic.sum(|counts| &counts.microseconds) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{ingress=\"{ingress}\"}} {seconds}");
        let _ = writeln!(out, "{name}_count{{ingress=\"{ingress}\"}} {sum}");
    }
    out.push_str("# EOF\n");
    out
}
