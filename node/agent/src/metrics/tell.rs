//! Tells the server every second what changed of what the node and its Pods use, for `kubectl top` and autoscalers.
//!
//! Costs what runs, not what is there: Wasm hosts tell of those Pods that ran lately; of Pods with containers one number is
//! read, and more only where that moved. What changes little waits until something else is told, at most ten seconds. A
//! server that has missed something refuses, and is told everything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use coracle_api::metrics::{
    ContainerUsage, PATH, PodReport, PodUsage, QUIET, Report, Traffic, Used,
};
use coracle_sandbox::Usage;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, MissedTickBehavior};

use super::groups::{Groups, connections};
use super::rates::{Counters, Rates, Track};
use super::usage::Node;
use crate::pod::worker::{Seen, Workers};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// How long the server may take, and how soon it is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// A Pod that used no CPU for so long is not looked at any more closely.
const RESTS: SignedDuration = SignedDuration::from_secs(12);
/// Changes of less than this wait: thousandths of what was told, billionths of a core, bytes, thousandths of a request.
const SMALL: (u64, u64, u64, u64) = (20, 1_000_000, 1 << 20, 100);

/// Tells for ever.
pub async fn tell(client: kube::Client, workers: Workers) {
    let agent = uuid::Uuid::new_v4().to_string();
    let mut teller = Teller::default();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut all, mut not_before) = (0, true, Instant::now());
    loop {
        tick.tick().await;
        let look = teller.look(&workers).await;
        if Instant::now() < not_before {
            continue;
        }
        let Some(mut report) = teller.report(look, all) else { continue };
        number += 1;
        report.agent.clone_from(&agent);
        report.number = number;
        all = match send(&client, &report).await {
            Ok(()) => false,
            Err(Refusal::OutOfStep) => true,
            Err(Refusal::Failed(error)) => {
                tracing::debug!(error, "metrics were not told");
                not_before = Instant::now() + PATIENCE;
                true
            }
        };
    }
}

enum Refusal {
    OutOfStep,
    Failed(String),
}

async fn send(client: &kube::Client, report: &Report) -> Result<(), Refusal> {
    let failed = |error: String| Refusal::Failed(error);
    let body = serde_json::to_vec(report).map_err(|error| failed(error.to_string()))?;
    let request = http::Request::post(PATH)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| failed(error.to_string()))?;
    match tokio::time::timeout(PATIENCE, client.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(Refusal::OutOfStep),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {PATIENCE:?}"))),
    }
}

/// What was seen and told until now.
struct Teller {
    groups: Groups,
    node: Track,
    /// Pods that ran lately.
    active: HashMap<String, Active>,
    /// CPU of Pods with containers, when it was looked at last.
    cpu: HashMap<String, u64>,
    /// What the server was told and is not nothing.
    told: HashMap<String, PodReport>,
    told_node: (Used, Timestamp),
    /// Everything has been looked at once, also what does not run.
    begun: bool,
}

/// A Pod that ran lately.
#[derive(Default)]
struct Active {
    moved: Timestamp,
    containers: BTreeMap<String, Track>,
    connections: Track,
}

/// One container, as it is counted.
struct Counted {
    attempt: u32,
    since: Option<Timestamp>,
    counters: Counters,
    memory: u64,
}

/// One Pod, the same.
#[derive(Default)]
struct Counts {
    containers: BTreeMap<String, Counted>,
    /// All of its containers are Wasm's, whose requests are counted.
    http: bool,
    /// Connections that their hosts have open.
    open: u64,
    /// Of a network of its own: connections that were accepted, and that are open.
    connections: Option<(u64, u64)>,
}

/// What one look found.
struct Look {
    at: Timestamp,
    node: (Rates, u64),
    /// What Pods that ran lately use now.
    pods: Vec<PodReport>,
    gone: Vec<String>,
    unknown: Vec<String>,
}

impl Default for Teller {
    fn default() -> Self {
        Self {
            groups: Groups::find(),
            node: Track::default(),
            active: HashMap::new(),
            cpu: HashMap::new(),
            told: HashMap::new(),
            told_node: (Used::default(), Timestamp::MIN),
            begun: false,
        }
    }
}

impl Teller {
    /// Looks at what ran.
    async fn look(&mut self, workers: &Workers) -> Look {
        let mut pods: HashMap<String, Counts> = HashMap::new();
        let unknown = self.ask_hosts(workers, &mut pods).await;
        self.read_groups(workers, &mut pods);
        let at = Timestamp::now();
        let node = Node::read();
        let counters = Counters { cpu: node.cpu_nanoseconds, ..Counters::default() };
        self.node.add(at, counters, None);
        let rates = self.node.rates().unwrap_or(Rates { window: 1, ..Rates::default() });
        let mut look = Look {
            at,
            node: (rates, node.working_set()),
            pods: Vec::new(),
            gone: Vec::new(),
            unknown,
        };
        for (uid, counts) in pods {
            match workers.look(&uid) {
                Some(seen) if seen.is_running() => look.pods.extend(self.add(at, &seen, counts)),
                _ => look.gone.push(uid),
            }
        }
        if self.is_due(at) {
            let ran = |uid: &&String| !workers.look(uid).is_some_and(|seen| seen.is_running());
            look.gone.extend(self.told.keys().filter(ran).cloned());
        }
        self.active.retain(|_, active| at.duration_since(active.moved) < RESTS);
        self.begun = true;
        look
    }

    /// Those in Wasm hosts; the Pods of hosts that do not answer.
    async fn ask_hosts(
        &mut self,
        workers: &Workers,
        pods: &mut HashMap<String, Counts>,
    ) -> Vec<String> {
        let mut hosts = workers.hosts().all();
        // Pods with containers have a Wasm host only if they mix both.
        hosts.retain(|host| host.client().socket().exists());
        let begun = self.begun;
        let answers = join_all(hosts.iter().map(|host| async move {
            match begun {
                true => host.client().recent_usage().await,
                false => host.client().usage().await,
            }
        }));
        let mut unknown = Vec::new();
        for (host, answer) in hosts.iter().zip(answers.await) {
            match answer {
                Ok(usages) => {
                    // What neither holds nor serves anything is told of once it runs.
                    let idle =
                        |usage: &Usage| usage.memory_bytes == 0 && usage.active_requests == 0;
                    for it in usages.into_iter().filter(|it| begun || !idle(&it.usage)) {
                        let pod = pods.entry(it.sandbox).or_default();
                        pod.http = true;
                        let counters = Counters {
                            cpu: it.usage.cpu_nanoseconds,
                            requests: it.usage.requests,
                            busy: it.usage.busy_microseconds,
                            connections: it.connections,
                        };
                        pod.open += it.open_connections;
                        let counted = Counted {
                            attempt: it.attempt,
                            since: Some(it.started_at),
                            counters,
                            memory: it.usage.memory_bytes,
                        };
                        pod.containers.insert(it.container, counted);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a host tells no usage");
                    let is_in = |uid: &String| workers.hosts().is_in(uid, host);
                    unknown.extend(workers.uids().into_iter().filter(is_in));
                }
            }
        }
        unknown
    }

    /// Those with containers.
    fn read_groups(&mut self, workers: &Workers, pods: &mut HashMap<String, Counts>) {
        let mut cpu = HashMap::new();
        for uid in workers.hosts().pods_with_containers() {
            let group = workers.hosts().pod_cgroup(&uid);
            let Some(used) = self.groups.cpu(&group) else { continue };
            let moved = self.cpu.get(&uid) != Some(&used);
            if moved || self.active.contains_key(&uid) || pods.contains_key(&uid) {
                let Some(seen) = workers.look(&uid) else { continue };
                let counts = pods.entry(uid.clone()).or_default();
                counts.http = false;
                let mut process = None;
                for container in &seen.containers {
                    let group = group.join(format!("{}-{}", container.name, container.attempt));
                    let Some(cpu) = self.groups.cpu(&group) else { continue };
                    process = process.or_else(|| self.groups.process(&group));
                    let counted = Counted {
                        attempt: container.attempt,
                        since: container.running_since,
                        counters: Counters { cpu, ..Counters::default() },
                        memory: self.groups.memory(&group).unwrap_or(0),
                    };
                    counts.containers.insert(container.name.clone(), counted);
                }
                counts.connections =
                    process.filter(|_| !seen.on_host_network).and_then(connections);
            }
            cpu.insert(uid, used);
        }
        self.cpu = cpu;
    }

    /// What a Pod uses now, if that can be told already.
    fn add(&mut self, at: Timestamp, seen: &Seen, mut counts: Counts) -> Option<PodReport> {
        let was_active = self.active.contains_key(&seen.uid);
        let active = self.active.entry(seen.uid.clone()).or_default();
        counts.containers.retain(|name, _| seen.runs(name));
        active.containers.retain(|name, _| counts.containers.contains_key(name));
        let mut usage = PodUsage::default();
        let (mut requests, mut busy, mut accepted, mut moved) = (0, 0, 0, !was_active);
        let mut containers = Vec::with_capacity(counts.containers.len());
        let mut whole = true;
        for (name, counted) in counts.containers {
            // What has run for longer and was not looked at has no beginning that is known.
            let fresh = counted.since.filter(|since| *since + EVERY + EVERY > at);
            let track = active.containers.entry(name.clone()).or_default();
            if track.attempt() != counted.attempt || track.rates().is_none() && fresh.is_some() {
                *track = Track::new(counted.attempt, fresh);
            }
            track.add(at, counted.counters, seen.ready_since);
            let Some(rates) = track.rates() else {
                whole = false;
                continue;
            };
            moved |= rates.cpu > 0 || rates.busy > 0;
            usage.window = usage.window.max(rates.window);
            requests += rates.requests;
            busy += rates.busy;
            accepted += rates.connections;
            let used = Used { cpu: rates.cpu, memory: counted.memory };
            containers.push(ContainerUsage { name: name.into(), used });
        }
        if let Some((accepted, open)) = counts.connections {
            let counters = Counters { connections: accepted, ..Counters::default() };
            active.connections.add(at, counters, seen.ready_since);
            usage.traffic.connections = active.connections.rates().map(|rates| rates.connections);
            usage.traffic.open = Some(open * 1000);
        }
        if counts.http {
            usage.traffic = Traffic {
                requests: Some(requests),
                in_flight: Some(busy),
                connections: Some(accepted),
                open: Some(counts.open * 1000),
            };
        }
        if moved {
            active.moved = at;
        }
        usage.containers = containers.into();
        let (uid, namespace) = (seen.uid.clone(), seen.namespace.clone());
        (whole && !usage.containers.is_empty()).then_some(PodReport { uid, namespace, usage })
    }

    fn is_due(&self, at: Timestamp) -> bool {
        at.duration_since(self.told_node.1).unsigned_abs() >= QUIET
    }

    /// What of that the server is to be told; none if nothing.
    fn report(&mut self, look: Look, all: bool) -> Option<Report> {
        let Look { at, node: (rates, memory), pods, mut gone, unknown } = look;
        let node = Used { cpu: rates.cpu, memory };
        let due = self.is_due(at);
        let full = all || due;
        let worth = |new: &PodReport| match self.told.get(&new.uid) {
            Some(old) => old != new && (full || differs(&old.usage, &new.usage)),
            None => !new.usage.is_nothing(),
        };
        let mut changed: Vec<PodReport> = pods.iter().filter(|pod| worth(pod)).cloned().collect();
        if changed.is_empty() && !full && !far(self.told_node.0.cpu, node.cpu, 100, 100_000_000) {
            return None;
        }
        if due {
            // Those that rest are looked at no more; what they hold stays told until they are gone.
            let active: HashSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
            let rest = self.told.values_mut().filter(|pod| !active.contains(pod.uid.as_str()));
            for pod in rest {
                if pod.usage.containers.iter().any(|container| container.used.cpu > 0) {
                    pod.usage.containers.iter_mut().for_each(|container| container.used.cpu = 0);
                    changed.push(pod.clone());
                }
            }
        }
        for pod in &changed {
            match pod.usage.is_nothing() {
                true => self.told.remove(&pod.uid),
                false => self.told.insert(pod.uid.clone(), pod.clone()),
            };
        }
        gone.retain(|uid| self.told.remove(uid).is_some());
        self.told_node = (node, at);
        let pods = if all { self.told.values().cloned().collect() } else { changed };
        Some(Report {
            at,
            all,
            node,
            window: rates.window,
            pods,
            gone,
            unknown,
            ..Report::default()
        })
    }
}

/// Whether it is worth to be told by itself.
fn differs(old: &PodUsage, new: &PodUsage) -> bool {
    let (part, cpu, memory, requests) = SMALL;
    let known = |value: Option<u64>| value.unwrap_or(0);
    let traffic = |usage: &PodUsage| {
        let it = usage.traffic;
        [it.requests, it.in_flight, it.connections, it.open].map(known)
    };
    old.containers.len() != new.containers.len()
        || old.containers.iter().zip(&new.containers).any(|(old, new)| {
            old.name != new.name
                || far(old.used.cpu, new.used.cpu, part, cpu)
                || far(old.used.memory, new.used.memory, part, memory)
        })
        || traffic(old).iter().zip(traffic(new)).any(|(old, new)| far(*old, new, part, requests))
}

/// By more than so many thousandths, and by more than `least`.
fn far(old: u64, new: u64, thousandths: u64, least: u64) -> bool {
    let by = old.abs_diff(new);
    by > least && u128::from(by) * 1000 > u128::from(old) * u128::from(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("a time")
    }

    fn pod(uid: &str, cpu: u64, memory: u64) -> PodReport {
        let used = Used { cpu: cpu * 1_000_000, memory: memory << 20 };
        let containers = [ContainerUsage { name: "app".into(), used }].into();
        let usage = PodUsage { window: 1000, containers, traffic: Traffic::NONE };
        PodReport { uid: uid.into(), namespace: "ns".into(), usage }
    }

    /// What is told at a second of Pods that use so many thousandths of a core: their names and CPU, in order.
    fn told(teller: &mut Teller, second: i64, all: bool, pods: &[PodReport]) -> Option<String> {
        let look = Look {
            at: at(second),
            node: (Rates { window: 1000, ..Rates::default() }, 1 << 30),
            pods: pods.to_vec(),
            gone: Vec::new(),
            unknown: Vec::new(),
        };
        let report = teller.report(look, all)?;
        let cpu = |pod: &PodReport| pod.usage.containers[0].used.cpu / 1_000_000;
        let mut pods: Vec<String> =
            report.pods.iter().map(|pod| format!("{}={}", pod.uid, cpu(pod))).collect();
        pods.sort();
        Some(pods.join(" "))
    }

    #[test]
    fn only_what_changes_by_much_is_told_until_something_is_due() {
        let mut teller = Teller::default();
        let mut tell = |second, all, pods: &[PodReport]| told(&mut teller, second, all, pods);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(tell(0, true, &[pod("a", 100, 1), pod("b", 0, 0)]), some("a=100"));
        assert_eq!(tell(1, false, &[pod("a", 101, 1), pod("b", 0, 0)]), None);
        assert_eq!(tell(2, false, &[pod("a", 101, 1), pod("b", 50, 1)]), some("b=50"));
        assert_eq!(tell(3, false, &[pod("a", 101, 9), pod("b", 50, 1)]), some("a=101"));
        assert_eq!(tell(12, false, &[pod("a", 101, 9), pod("b", 51, 1)]), None);
        assert_eq!(tell(13, false, &[pod("a", 101, 9), pod("b", 51, 1)]), some("b=51"));
        assert_eq!(tell(14, true, &[]), some("a=101 b=51"), "the server asked for everything");
        // Both rest: one holds memory, the other nothing.
        assert_eq!(tell(24, false, &[pod("b", 0, 0)]), some("a=0 b=0"));
        assert_eq!(tell(25, true, &[]), some("a=0"));
        assert_eq!(tell(34, false, &[]), None);
        assert_eq!(tell(35, false, &[]), some(""), "the node is there");
    }

    #[test]
    fn connections_are_read_where_the_kernel_writes_them() {
        let text = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
            Tcp: RtoAlgorithm RtoMin ActiveOpens PassiveOpens CurrEstab\nTcp: 1 200 7 42 3\nUdp: A\nUdp: 1\n";
        assert_eq!(super::super::groups::parse_snmp(text), Some((42, 3)));
        assert!(connections(std::process::id()).is_some());
    }
}
