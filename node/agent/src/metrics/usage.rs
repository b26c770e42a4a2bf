//! CPU and memory of containers, as their hosts count them, and of the node, as the kernel does.

use std::collections::HashMap;
use std::fs;
use std::sync::{Mutex, PoisonError};

use coracle_sandbox::ContainerUsage;
use futures::future::join_all;
use jiff::Timestamp;

use crate::pod::worker::{Seen, Workers};

/// A rate is taken over at least this long.
const SHORTEST_SECONDS: f64 = 5.0;

/// What was used until a moment.
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) node: Node,
    pub(super) pods: Vec<PodSample>,
    /// Some host did not answer: its containers are missing.
    pub(super) incomplete: bool,
}

/// One Pod's part.
pub(super) struct PodSample {
    pub(super) pod: Seen,
    /// Those that run.
    pub(super) containers: Vec<ContainerUsage>,
}

impl Sample {
    /// Asks all hosts.
    pub(super) async fn take(workers: &Workers) -> Sample {
        let clients = workers.hosts().clients();
        let answers = join_all(clients.iter().map(|client| client.usage())).await;
        let incomplete = answers.iter().any(Result::is_err);
        let mut by_pod: HashMap<String, Vec<ContainerUsage>> = HashMap::new();
        for usage in answers.into_iter().flatten().flatten() {
            by_pod.entry(usage.sandbox.clone()).or_default().push(usage);
        }
        let pods = workers.seen().into_iter().map(|pod| {
            let mut containers = by_pod.remove(&pod.uid).unwrap_or_default();
            containers.retain(|usage| pod.runs(&usage.container));
            PodSample { pod, containers }
        });
        let pods = pods.filter(|sample| !sample.containers.is_empty()).collect();
        Sample { at: Timestamp::now(), node: Node::read(), pods, incomplete }
    }
}

impl PodSample {
    /// Nanoseconds of CPU, and bytes, of all its containers.
    pub(super) fn total(&self) -> (u64, u64) {
        self.containers.iter().fold((0, 0), |(cpu, memory), container| {
            (cpu + container.usage.cpu_nanoseconds, memory + container.usage.memory_bytes)
        })
    }
}

/// The machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Node {
    pub(super) cpu_nanoseconds: u64,
    pub(super) memory_total: u64,
    pub(super) memory_available: u64,
    pub(super) booted: Option<Timestamp>,
}

impl Node {
    pub(super) fn read() -> Node {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Node::parse(&read("/proc/stat"), &read("/proc/meminfo"))
    }

    pub(super) fn parse(stat: &str, memory: &str) -> Node {
        // user nice system idle iowait irq softirq steal; guests are counted in user already.
        let ticks: Vec<u64> = stat
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))
            .map(|line| line.split_whitespace().map_while(|n| n.parse().ok()).collect())
            .unwrap_or_default();
        let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|n| ticks.get(*n)).sum::<u64>();
        let booted = stat.lines().find_map(|line| line.strip_prefix("btime "));
        let field = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Node {
            // The kernel counts in hundredths of a second, for programs.
            cpu_nanoseconds: busy * 10_000_000,
            memory_total: field("MemTotal:").unwrap_or(0) << 10,
            memory_available: field("MemAvailable:").unwrap_or(0) << 10,
            booted: booted
                .and_then(|text| text.trim().parse().ok())
                .and_then(|seconds| Timestamp::from_second(seconds).ok()),
        }
    }

    pub(super) fn working_set(&self) -> u64 {
        self.memory_total.saturating_sub(self.memory_available)
    }
}

/// This process.
#[derive(Default)]
pub(super) struct Process {
    pub(super) resident: u64,
    pub(super) fds: u64,
    pub(super) cpu_seconds: f64,
}

impl Process {
    pub(super) fn read() -> Process {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
        let used = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
        let seconds =
            |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Process {
            resident: resident.unwrap_or(0_u64) << 10,
            fds: fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64),
            cpu_seconds: used.map_or(0.0, |u| seconds(u.user_time()) + seconds(u.system_time())),
        }
    }
}

/// CPU use as a rate, between one asking and the next.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<(String, String), Rate>>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    attempt: u32,
    at: Timestamp,
    nanoseconds: u64,
    nanocores: u64,
}

impl Rates {
    /// Nanocores of everything in the sample, by Pod and container; `("", "")` is the node. What is asked for the first
    /// time has its average since the start.
    pub(super) fn update(&self, sample: &Sample) -> HashMap<(String, String), u64> {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::new();
        let mut add = |key: (String, String), attempt, since: Option<Timestamp>, nanoseconds| {
            let before = rates.get(&key).copied().filter(|rate| rate.attempt == attempt);
            next.insert(key, rate(before, attempt, since, sample.at, nanoseconds));
        };
        let node = &sample.node;
        add(Default::default(), 0, node.booted, node.cpu_nanoseconds);
        for pod in &sample.pods {
            for container in pod.containers.iter().filter(|c| c.usage.cpu_nanoseconds > 0) {
                let key = (pod.pod.uid.clone(), container.container.clone());
                let since = Some(container.started_at);
                add(key, container.attempt, since, container.usage.cpu_nanoseconds);
            }
        }
        let told = next.iter().map(|(key, rate)| (key.clone(), rate.nanocores)).collect();
        *rates = next;
        told
    }
}

fn rate(
    before: Option<Rate>,
    attempt: u32,
    since: Option<Timestamp>,
    at: Timestamp,
    nanoseconds: u64,
) -> Rate {
    let seconds = |from: Timestamp| at.duration_since(from).as_secs_f64();
    let over = |used: u64, seconds: f64| (used as f64 / seconds.max(0.001)) as u64;
    match before {
        Some(rate) if seconds(rate.at) < SHORTEST_SECONDS => rate,
        Some(rate) => Rate {
            nanocores: over(nanoseconds.saturating_sub(rate.nanoseconds), seconds(rate.at)),
            attempt,
            at,
            nanoseconds,
        },
        None => {
            let nanocores = since.map_or(0, |since| over(nanoseconds, seconds(since)));
            Rate { attempt, at, nanoseconds, nanocores }
        }
    }
}
