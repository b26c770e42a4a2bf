//! What nodes tell of CPU, memory and traffic, and the view of it that readers have.
//!
//! Every agent looks once a second and tells what changed since it told last: of a Pod that does nothing, nothing is told
//! and nothing kept here, however many there are. So a Pod that was not mentioned used nothing until the node's last report,
//! if its containers ran by then. Kept in memory alone, beside the objects of a [`crate::Cluster`]; a server that has lost
//! count asks the agent for all of it again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::object::Object;

/// Where agents send their [`Report`]s, with POST.
pub const PATH: &str = "/coracle/v1/metrics";
/// How often an agent tells that it has nothing to tell.
pub const QUIET: Duration = Duration::from_secs(10);
/// What was told longer ago says nothing of now.
const STALE: SignedDuration = SignedDuration::from_secs(45);
/// What the use of a Pod that did nothing is an average over.
const IDLE_WINDOW: Duration = Duration::from_secs(1);

/// What a node tells at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Which start of the agent.
    pub agent: String,
    /// Its reports are counted: one that follows no other is refused unless it tells all.
    pub number: u64,
    /// Whether Pods that are not mentioned have nothing to be told of, rather than nothing new.
    #[serde(default)]
    pub all: bool,
    /// When it looked.
    pub at: Timestamp,
    /// The machine.
    pub node: Used,
    /// Over how many milliseconds the machine's CPU is an average.
    pub window: u32,
    /// Pods whose use is another than was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodReport>,
    /// UIDs of Pods that are no longer there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
    /// UIDs of Pods of which it is not known what they use: all of them, every time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// A Pod in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodReport {
    /// Its UID.
    #[serde(rename = "u")]
    pub uid: String,
    /// Its namespace.
    #[serde(rename = "n")]
    pub namespace: String,
    /// What it uses.
    #[serde(flatten)]
    pub usage: PodUsage,
}

/// What a Pod uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodUsage {
    /// Over how many milliseconds its rates are averages.
    #[serde(rename = "w")]
    pub window: u32,
    /// Its containers that run.
    #[serde(rename = "c")]
    pub containers: Box<[ContainerUsage]>,
    /// What it serves.
    #[serde(rename = "t")]
    pub traffic: Traffic,
}

/// A container of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// Its name.
    #[serde(rename = "n")]
    pub name: Box<str>,
    /// What it uses.
    #[serde(flatten)]
    pub used: Used,
}

/// CPU and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Billionths of a core.
    #[serde(rename = "p")]
    pub cpu: u64,
    /// Bytes of memory, without what the kernel can take back (`workingSetBytes`).
    #[serde(rename = "m")]
    pub memory: u64,
}

/// What a Pod serves, in thousandths; what is not known of it is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// HTTP requests a second.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// HTTP requests that were being served at a time.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Connections that were accepted a second.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Connections that are open.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
}

impl Traffic {
    /// Nothing at all, and that is known.
    pub const NONE: Traffic =
        Traffic { requests: Some(0), in_flight: Some(0), connections: Some(0), open: Some(0) };

    /// A Pods metric by its name, in thousandths; `None` for names that nobody provides.
    pub fn metric(&self, name: &str) -> Option<Option<u64>> {
        match name {
            "http_requests_per_second" => Some(self.requests),
            "http_requests_in_flight" => Some(self.in_flight),
            "connections_per_second" => Some(self.connections),
            "open_connections" => Some(self.open),
            _ => None,
        }
    }
}

impl PodUsage {
    /// Whether it uses and serves nothing: then nothing is kept of it.
    pub fn is_nothing(&self) -> bool {
        let idle = |container: &ContainerUsage| container.used == Used::default();
        self.traffic == Traffic::NONE && self.containers.iter().all(idle)
    }
}

/// What is known of a Pod at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When the node looked.
    pub at: Timestamp,
    /// What the rates are averages over, up to then.
    pub window: Duration,
    /// Its containers that run.
    pub containers: Box<[ContainerUsage]>,
    /// What it serves.
    pub traffic: Traffic,
}

/// What all nodes told.
#[derive(Debug, Default)]
pub struct Metrics {
    nodes: HashMap<Box<str>, Node>,
}

#[derive(Debug)]
struct Node {
    agent: String,
    number: u64,
    at: Timestamp,
    /// By this machine's clock: the node's may be another.
    heard: Timestamp,
    used: Used,
    window: u32,
    pods: HashMap<Box<str>, PodUsage>,
    unknown: HashSet<Box<str>>,
}

/// The report follows none that was seen: the agent has to tell all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the report follows none that was received: tell everything")]
pub struct OutOfStep;

impl Metrics {
    /// Takes a report in; the namespaces of Pods whose use changed. `most`: Pods that the node can have, and no more are kept.
    ///
    /// # Errors
    /// The report tells changes to something else than what was told last.
    pub fn apply(
        &mut self,
        name: &str,
        report: Report,
        most: usize,
        now: Timestamp,
    ) -> Result<BTreeSet<String>, OutOfStep> {
        let known = self.nodes.remove(name);
        let mut pods = match known {
            _ if report.all => HashMap::new(),
            Some(known) if known.agent == report.agent && known.number + 1 == report.number => {
                known.pods
            }
            _ => return Err(OutOfStep),
        };
        let mut changed = BTreeSet::new();
        for uid in &report.gone {
            pods.remove(uid.as_str());
        }
        for pod in report.pods {
            changed.insert(pod.namespace);
            if pod.usage.is_nothing() {
                pods.remove(pod.uid.as_str());
            } else if pods.len() < most || pods.contains_key(pod.uid.as_str()) {
                pods.insert(pod.uid.into(), pod.usage);
            }
        }
        let node = Node {
            agent: report.agent,
            number: report.number,
            at: report.at,
            heard: now,
            used: report.node,
            window: report.window,
            pods,
            unknown: report.unknown.into_iter().take(most).map(Into::into).collect(),
        };
        self.nodes.insert(name.into(), node);
        Ok(changed)
    }

    /// Forgets a node that is not there any more.
    pub fn forget(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// What a machine uses: when, over which time, and how much.
    pub fn node(&self, name: &str, now: Timestamp) -> Option<(Timestamp, Duration, Used)> {
        let node = self.fresh(name, now)?;
        Some((node.at, Duration::from_millis(node.window.into()), node.used))
    }

    /// What a Pod uses; none as long as its node has not told.
    pub fn pod(&self, pod: &Object, now: Timestamp) -> Option<Sample> {
        let node = self.fresh(pod.node_name.as_deref()?, now)?;
        let uid = pod.meta.uid.as_str();
        if node.unknown.contains(uid) {
            return None;
        }
        if let Some(usage) = node.pods.get(uid) {
            return Some(Sample {
                at: node.at,
                window: Duration::from_millis(usage.window.into()),
                containers: usage.containers.clone(),
                traffic: usage.traffic,
            });
        }
        let containers = running(pod, node.at)?;
        Some(Sample { at: node.at, window: IDLE_WINDOW, containers, traffic: Traffic::NONE })
    }

    fn fresh(&self, name: &str, now: Timestamp) -> Option<&Node> {
        self.nodes.get(name).filter(|node| now.duration_since(node.heard) < STALE)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodHead {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: Box<str>,
    state: State,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    running: Option<Running>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    started_at: Option<Timestamp>,
}

/// The containers that a Pod's status says run, if any does and all of them did before `at`.
fn running(pod: &Object, at: Timestamp) -> Option<Box<[ContainerUsage]>> {
    let head: PodHead = serde_json::from_slice(pod.json()).ok()?;
    let all = head.status.container_statuses.into_iter().chain(head.status.init_container_statuses);
    let mut containers = Vec::new();
    for container in all {
        let Some(running) = container.state.running else { continue };
        if running.started_at.is_none_or(|since| since + IDLE_WINDOW > at) {
            return None;
        }
        containers.push(ContainerUsage { name: container.name, used: Used::default() });
    }
    (!containers.is_empty()).then(|| containers.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn pod(uid: &str, started: i64) -> Object {
        let value = json!({
            "metadata": {"name": uid, "namespace": "ns", "uid": uid},
            "spec": {"nodeName": "n"},
            "status": {"containerStatuses": [
                {"name": "app", "state": {"running": {"startedAt": at(started).to_string()}}}]},
        });
        Object::from_value(&kinds::POD, &value).expect("a Pod")
    }

    fn told(uid: &str, cpu: u64) -> PodReport {
        let used = Used { cpu, memory: 0 };
        let containers = [ContainerUsage { name: "app".into(), used }].into();
        let usage = PodUsage { window: 2000, containers, traffic: Traffic::NONE };
        PodReport { uid: uid.into(), namespace: "ns".into(), usage }
    }

    fn report(number: u64, all: bool, pods: Vec<PodReport>) -> Report {
        let at = at(100 + number as i64);
        Report { agent: "a".into(), number, all, at, window: 1000, pods, ..Report::default() }
    }

    fn apply(
        metrics: &mut Metrics,
        report: Report,
        most: usize,
    ) -> Result<BTreeSet<String>, OutOfStep> {
        let heard = report.at;
        metrics.apply("n", report, most, heard)
    }

    #[test]
    fn only_what_changes_is_told_and_what_is_not_told_uses_nothing() {
        let mut metrics = Metrics::default();
        let cpu = |metrics: &Metrics, uid: &str| {
            let sample = metrics.pod(&pod(uid, 50), at(110))?;
            Some((sample.containers[0].used.cpu, sample.window.as_millis()))
        };
        assert_eq!(apply(&mut metrics, report(7, false, vec![]), 9), Err(OutOfStep));
        assert_eq!(cpu(&metrics, "a"), None);
        let changed = apply(&mut metrics, report(7, true, vec![told("a", 5)]), 9).expect("told");
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), ["ns"]);
        assert_eq!((cpu(&metrics, "a"), cpu(&metrics, "b")), (Some((5, 2000)), Some((0, 1000))));
        apply(&mut metrics, report(8, false, vec![told("b", 3)]), 9).expect("told");
        assert_eq!((cpu(&metrics, "a"), cpu(&metrics, "b")), (Some((5, 2000)), Some((3, 2000))));
        // One was lost.
        assert_eq!(apply(&mut metrics, report(10, false, vec![]), 9), Err(OutOfStep));
        assert_eq!(cpu(&metrics, "a"), None);
        apply(&mut metrics, report(11, true, vec![told("a", 0), told("b", 4)]), 9).expect("told");
        assert_eq!((cpu(&metrics, "a"), cpu(&metrics, "b")), (Some((0, 1000)), Some((4, 2000))));
        assert_eq!(metrics.nodes["n"].pods.len(), 1, "nothing is kept of what does nothing");
        let last = Report {
            gone: vec!["b".into()],
            unknown: vec!["a".into()],
            ..report(12, false, vec![])
        };
        apply(&mut metrics, last, 9).expect("told");
        assert_eq!((cpu(&metrics, "a"), cpu(&metrics, "b")), (None, Some((0, 1000))));
        metrics.forget("n");
        assert_eq!(cpu(&metrics, "b"), None);
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let mut metrics = Metrics::default();
        apply(&mut metrics, report(1, true, vec![]), 9).expect("told");
        let known = |started: i64, now: i64| metrics.pod(&pod("a", started), at(now)).is_some();
        assert!(known(90, 102));
        assert!(!known(101, 102), "it may have begun to run after the node looked");
        assert!(!known(90, 200), "the node has not told for long");
        assert!(metrics.node("n", at(102)).is_some() && metrics.node("m", at(102)).is_none());
    }

    #[test]
    fn no_more_is_kept_than_a_node_can_have() {
        let mut metrics = Metrics::default();
        let many = (0..100).map(|n| told(&n.to_string(), 1)).collect();
        apply(&mut metrics, report(1, true, many), 10).expect("told");
        assert_eq!(metrics.nodes["n"].pods.len(), 10);
    }
}
