//! What is measured, in the order of a cluster's life.

mod admitted;
mod apply;
mod autoscale;
mod commands;
mod create;
mod crowd;
mod density;
mod fleet;
mod ingress;
mod killed;
mod list;
mod machines;
mod memory;
mod neighbours;
mod oci_cycle;
mod oci_pods;
mod pod;
mod pod_memory;
mod push;
mod requests;
mod restart;
mod rival;
mod schedule;
mod services;
mod start;
mod watchers;

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
        name: "create-admitted",
        what: "the same with a quota, a LimitRange, `restricted` Pod security and three policies in CEL in their namespace",
        goal: "≥ 3,000/s",
        compare: "—",
        measure: |bench| Box::pin(admitted::measure(bench)),
    },
    Row {
        name: "apply",
        what: "server-side apply of a Deployment: the server's CPU time, nothing new; a change",
        goal: "≤ 300 µs",
        compare: "—",
        measure: |bench| Box::pin(apply::measure(bench)),
    },
    Row {
        name: "watchers",
        what: "a committed change → the last of 1,000 watchers of all Pods, half in JSON, half in protobuf",
        goal: "p99 ≤ 20 ms",
        compare: "—",
        measure: |bench| Box::pin(watchers::many(bench)),
    },
    Row {
        name: "node-watchers",
        what: "the server's CPU time for a created Pod with 5,000 watchers of other nodes' Pods, to that with none",
        goal: "≤ 1.1",
        compare: "—",
        measure: |bench| Box::pin(watchers::of_nodes(bench)),
    },
    Row {
        name: "pod-memory",
        what: "memory of the server for an idle Pod, beyond the size of its JSON",
        goal: "≤ 6 kB",
        compare: "—",
        measure: |bench| Box::pin(pod_memory::measure(bench)),
    },
    Row {
        name: "restart-100000",
        what: "exec → `/readyz` over a store with 100,000 objects",
        goal: "≤ 1.5 s",
        compare: "—",
        measure: |bench| Box::pin(restart::measure(bench)),
    },
    Row {
        name: "schedule",
        what: "schedule 5,000 pending Pods on 1,000 simulated nodes",
        goal: "≥ 5,000/s",
        compare: "Kubernetes: 370/s",
        measure: |bench| Box::pin(schedule::measure(bench)),
    },
    Row {
        name: "replicas-1000",
        what: "Deployment of 1,000 replicas on 1,000 simulated nodes: create → every Pod created and bound",
        goal: "≤ 0.8 s",
        compare: "—",
        measure: |bench| Box::pin(fleet::replicas(bench)),
    },
    Row {
        name: "fleet-5000",
        what: "150,000 Pods on 5,000 simulated nodes: placed; all Ready again after 500 nodes fall silent; memory of the server",
        goal: "≥ 3,000/s; all; ≤ 3 GiB",
        compare: "Kubernetes' limits: 5,000 nodes, 150,000 Pods",
        measure: |bench| Box::pin(fleet::large(bench)),
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
        goal: "p50 ≤ 8 ms, p99 ≤ 30 ms",
        compare: "Kubernetes' SLO: 5 s",
        measure: |bench| Box::pin(pod::alone(bench)),
    },
    Row {
        name: "pod-10000",
        what: "the same with 10,000 Pods present",
        goal: "p50 ≤ 8 ms, p99 ≤ 30 ms",
        compare: "—",
        measure: |bench| Box::pin(pod::among_many(bench)),
    },
    Row {
        name: "push",
        what: "a Pod with a new 40 kB component: push → first 200",
        goal: "≤ 150 ms",
        compare: "—",
        measure: |bench| Box::pin(push::measure(bench)),
    },
    Row {
        name: "density",
        what: "10,000 Wasm HTTP Pods through the API, all Ready and answering: rate, memory a Pod over all processes",
        goal: "≥ 500 Pods/s, ≤ 50 kB",
        compare: "Kubernetes: 110 Pods a node",
        measure: |bench| Box::pin(density::ten_thousand(bench)),
    },
    Row {
        name: "density-50000",
        what: "the same with 50,000: every Pod answers; p99 of a request to that at 100 Pods",
        goal: "≤ 2 ×",
        compare: "—",
        measure: |bench| Box::pin(density::fifty_thousand(bench)),
    },
    Row {
        name: "commands",
        what: "5,000 running command Pods, each with a timer: memory, CPU",
        goal: "≤ 150 kB each, ≤ 15 % of a core",
        compare: "the engine alone: 97 kB, 5 %",
        measure: |bench| Box::pin(commands::measure(bench)),
    },
    Row {
        name: "killed",
        what: "host killed with 10,000 HTTP Pods on it → all answer",
        goal: "≤ 3 s",
        compare: "—",
        measure: |bench| Box::pin(killed::measure(bench)),
    },
    Row {
        name: "requests",
        what: "requests/s to a Wasm Pod, fresh instance per request, 64 connections, to bare hyper's; to `wasmtime serve`'s",
        goal: "≥ 0.25; ≥ 4 ×",
        compare: "`wasmtime serve`, defaults: 0.05",
        measure: |bench| Box::pin(requests::fresh(bench)),
    },
    Row {
        name: "reuse",
        what: "the same with reuse on, to `wasmtime serve`'s with reuse",
        goal: "≥ 1.0 ×",
        compare: "—",
        measure: |bench| Box::pin(requests::reused(bench)),
    },
    Row {
        name: "clusterip",
        what: "ClusterIP against the Pod's address: requests/s on new connections; on kept ones",
        goal: "≥ 0.7; ≥ 0.98",
        compare: "—",
        measure: |bench| Box::pin(services::cluster_ip(bench)),
    },
    Row {
        name: "endpoints",
        what: "an endpoint's change → the kernel's table, 5,000 Services × 10 endpoints",
        goal: "p99 ≤ 100 ms",
        compare: "—",
        measure: |bench| Box::pin(services::endpoints(bench)),
    },
    Row {
        name: "join",
        what: "a machine joins → first Wasm Pod on it answers",
        goal: "≤ 1 s",
        compare: "—",
        measure: |bench| Box::pin(machines::join(bench)),
    },
    Row {
        name: "node-lost",
        what: "a machine is lost → replacement Wasm Pods Ready, once that is detected; detection",
        goal: "≤ 1 s; ≤ 10 s",
        compare: "Kubernetes: detection 40 s",
        measure: |bench| Box::pin(machines::lost(bench)),
    },
    Row {
        name: "ingress",
        what: "requests/s through an Ingress to a Wasm Pod, to those through Debian's nginx to the same, 64 connections",
        goal: "≥ 1.0 ×",
        compare: "—",
        measure: |bench| Box::pin(ingress::measure(bench)),
    },
    Row {
        name: "neighbours",
        what: "requests/s of a Pod beside a guest that spins, traps, allocates, floods its log, … to those alone: the lowest",
        goal: "≥ 0.9",
        compare: "spinning guests, without naps: 0.01",
        measure: |bench| Box::pin(neighbours::measure(bench)),
    },
    Row {
        name: "shares",
        what: "CPU of a spinning Pod with a limit of 100m; of two that request 100m and 300m",
        goal: "100m ± 20 %; 1 : 3 ± 20 %",
        compare: "—",
        measure: |bench| Box::pin(neighbours::shares(bench)),
    },
    Row {
        name: "autoscale",
        what: "load step 10 × → enough ready replicas",
        goal: "≤ 4 s",
        compare: "Kubernetes: asks for metrics every 15 s",
        measure: |bench| Box::pin(autoscale::wasm(bench)),
    },
    Row {
        name: "oci-autoscale",
        what: "the same with containers",
        goal: "≤ 6 s",
        compare: "the same",
        measure: |bench| Box::pin(autoscale::oci(bench)),
    },
    Row {
        name: "oci-cycle",
        what: "container: create → start → exit → delete of `true`",
        goal: "≤ 1.3 × crun, less than runc",
        compare: "crun and runc, measured beside it",
        measure: |bench| Box::pin(oci_cycle::measure(bench)),
    },
    Row {
        name: "oci-pod",
        what: "Pod of busybox: create → Ready, image present, one at a time",
        goal: "p50 ≤ 100 ms",
        compare: "—",
        measure: |bench| Box::pin(oci_pods::alone(bench)),
    },
    Row {
        name: "oci-pods",
        what: "200 Pods of busybox at once → Ready: rate, memory a Pod beyond its own processes",
        goal: "≥ 30/s, ≤ 2 MiB",
        compare: "—",
        measure: |bench| Box::pin(oci_pods::at_once(bench)),
    },
    Row {
        name: "oci-exec",
        what: "exec of `true` in a container, by kubectl's protocol",
        goal: "p50 ≤ 40 ms",
        compare: "—",
        measure: |bench| Box::pin(oci_pods::exec(bench)),
    },
];

/// The arguments of a control plane in which only clients write.
const QUIET: &[&str] = &["server", "--no-scheduler", "--no-controllers"];
