//! What is measured, in the order of a cluster's life.

mod create;
mod list;
mod memory;
mod pod;
mod requests;
mod schedule;
mod start;

use std::future::Future;
use std::pin::Pin;

use crate::Bench;
use crate::report::Measured;

/// One line of the table.
pub(crate) struct Row {
    /// For `--only`.
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) goal: &'static str,
    pub(crate) compare: &'static str,
    pub(crate) measure: for<'a> fn(&'a Bench) -> Measuring<'a>,
}

type Measuring<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Measured>> + 'a>>;

/// Every row.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "start",
        what: "exec → `/readyz`, empty folder",
        goal: "≤ 150 ms",
        compare: "Kubernetes 1.36: 2.8 s",
        measure: |bench| Box::pin(start::measure(bench)),
    },
    Row {
        name: "memory",
        what: "idle memory of `up`, all processes, no Pods",
        goal: "≤ 60 MiB",
        compare: "Kubernetes' control plane: 503 MiB",
        measure: |bench| Box::pin(memory::measure(bench)),
    },
    Row {
        name: "create",
        what: "create 5,000 Pods, 32 clients, durable, scheduler off",
        goal: "≥ 3,000/s",
        compare: "Kubernetes: 500/s",
        measure: |bench| Box::pin(create::measure(bench)),
    },
    Row {
        name: "schedule",
        what: "schedule 5,000 pending Pods on 1,000 simulated nodes",
        goal: "≥ 5,000/s",
        compare: "Kubernetes: 370/s",
        measure: |bench| Box::pin(schedule::measure(bench)),
    },
    Row {
        name: "list",
        what: "list 12,500 Pods as JSON",
        goal: "≤ 100 ms",
        compare: "Kubernetes: 0.6–1.2 s",
        measure: |bench| Box::pin(list::measure(bench)),
    },
    Row {
        name: "pod",
        what: "Wasm Pod: create → first 200 through its Service, code cached, one at a time",
        goal: "p50 ≤ 15 ms, p99 ≤ 50 ms",
        compare: "containers: hundreds of ms",
        measure: |bench| Box::pin(pod::measure(bench)),
    },
    Row {
        name: "requests",
        what: "requests/s to a Wasm Pod, fresh instance per request, 64 connections, to bare hyper's",
        goal: "≥ 0.22",
        compare: "`wasmtime serve`, defaults: 0.05",
        measure: |bench| Box::pin(requests::measure(bench)),
    },
];

/// The arguments of a control plane in which only clients write.
const QUIET: &[&str] = &["server", "--no-scheduler", "--no-controllers"];
