//! ReplicaSet, and ReplicationController, its forerunner, whose selector is a map of labels: keeps as many Pods as declared,
//! made from one template.
//!
//! The next step of the apply trace is the scheduler, which binds these Pods.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Kind, LabelSelector, Object, Plan, kinds};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::patch::{count, time};
use crate::{BURST, owners, pods};

/// Plans Pods for ReplicaSets, or for ReplicationControllers.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaSetController {
    name: &'static str,
    kind: &'static Kind,
    selector: fn(&Value) -> Option<LabelSelector>,
}

impl ReplicaSetController {
    /// That of ReplicaSets.
    pub const REPLICA_SETS: Self = Self {
        name: "replicaset",
        kind: &kinds::REPLICA_SET,
        selector: |selector| LabelSelector::from_value(Some(selector)).ok(),
    };
    /// That of ReplicationControllers.
    pub const REPLICATION_CONTROLLERS: Self = Self {
        name: "replication",
        kind: &kinds::REPLICATION_CONTROLLER,
        selector: |labels| LabelSelector::from_value(Some(&json!({"matchLabels": labels}))).ok(),
    };
}

/// The condition that tells that Pods cannot be made: set where a creation is refused, taken off here when none is missing.
pub(crate) const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What controllers read of a ReplicaSet.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct View {
    pub(crate) spec: Spec,
    pub(crate) status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) replicas: Option<i32>,
    pub(crate) min_ready_seconds: Option<i32>,
    pub(crate) selector: Value,
    pub(crate) template: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled_replicas: i32,
    pub(crate) ready_replicas: i32,
    pub(crate) available_replicas: i32,
    pub(crate) observed_generation: i64,
    pub(crate) conditions: Vec<Condition>,
}

/// Nearly always there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    pub(crate) r#type: String,
    pub(crate) status: String,
    pub(crate) last_transition_time: Option<Timestamp>,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Status {
    /// That Pods cannot be made or deleted, as whoever performs plans noted it.
    pub(crate) fn failure(&self) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.r#type == REPLICA_FAILURE)
    }

    fn conditions_json(&self) -> Value {
        let told = |c: &Condition| {
            let mut told = json!(c);
            told["lastTransitionTime"] =
                c.last_transition_time.map_or(Value::Null, |at| time(at).into());
            told
        };
        match &self.conditions[..] {
            [] => Value::Null,
            some => some.iter().map(told).collect(),
        }
    }

    /// All Pods that there are or will be in a moment.
    pub(crate) fn at_most(&self) -> i32 {
        self.replicas.max(self.fully_labeled_replicas)
    }
}

impl Spec {
    pub(crate) fn replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }
}

impl Controller for ReplicaSetController {
    fn name(&self) -> &'static str {
        self.name
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == self.kind.resource {
            return vec![Key::of(object)];
        }
        if !object.kind.is_pod() {
            return Vec::new();
        }
        owners::wakes(cluster, self.kind, object, |set| {
            (self.selector)(&set.decode::<View>().ok()?.spec.selector)
        })
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        if let Some(set) = cluster.get(self.kind, &key.namespace, &key.name)
            && let Ok(view) = set.decode::<View>()
            && let Some(selector) = (self.selector)(&view.spec.selector)
        {
            reconcile(cluster, set, &view, &selector, &mut plan);
        }
        plan
    }
}

fn reconcile(
    cluster: &Cluster,
    set: &Object,
    view: &View,
    selector: &LabelSelector,
    plan: &mut Plan,
) {
    let mut mine = owners::claim(cluster, &kinds::POD, set, selector, pods::is_active, None, plan);
    let wanted = usize::try_from(view.spec.replicas()).unwrap_or(0);
    let mut created = Vec::new();
    let mut doomed = Vec::new();
    if !set.is_deleting() {
        if mine.len() < wanted && !owners::is_terminating(cluster, &set.meta.namespace) {
            created = new_pods(cluster, set, view, (wanted - mine.len()).min(BURST));
        } else if mine.len() > wanted {
            let excess = (mine.len() - wanted).min(BURST);
            rank(cluster, set, &mut mine);
            doomed = mine.drain(..excess).collect();
        }
    }

    // First, because it carries the precondition: an outdated ReplicaSet stops here. It counts what is not yet gone,
    // as available only what stays, and as fully labelled what is about to come, too: so a Deployment which sizes its
    // ReplicaSets by these numbers keeps its limits while the rest of this plan is still being performed. `replicas`
    // does not tell of what may yet be refused, for people read that.
    let mut status = status(cluster.now, set, view, &mine, (created.len(), doomed.len()), plan);
    status.conditions.clone_from(&view.status.conditions);
    if created.is_empty() {
        // What was missing is there, or is not asked for any more.
        status.conditions.retain(|c| c.r#type != REPLICA_FAILURE);
    }
    if status != view.status {
        let mut told = json!({
            "replicas": status.replicas,
            "fullyLabeledReplicas": count(status.fully_labeled_replicas),
            "readyReplicas": count(status.ready_replicas),
            "availableReplicas": count(status.available_replicas),
            "observedGeneration": status.observed_generation,
        });
        if status.conditions != view.status.conditions {
            told["conditions"] = status.conditions_json();
        }
        plan.patch_status(set, json!({"status": told}));
    }
    for pod in &created {
        plan.create(&kinds::POD, pod.clone());
    }
    for pod in &doomed {
        plan.delete(pod, Propagation::Background);
    }
    let created = created.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    pods::tell(plan, set, "SuccessfulCreate", "Created", created);
    let deleted = doomed.iter().map(|pod| pod.meta.name.as_str());
    pods::tell(plan, set, "SuccessfulDelete", "Deleted", deleted);
}

fn new_pods(cluster: &Cluster, set: &Object, view: &View, n: usize) -> Vec<Value> {
    let base = format!("{}-", set.meta.name);
    let mut names = pods::Names::of(cluster, set);
    let pod = pods::from_template(set, &view.spec.template);
    let named = |_| {
        let mut pod = pod.clone();
        names.name(&mut pod, &base);
        pod
    };
    (0..n).map(named).collect()
}

/// Puts the Pods that can best be spared first: upstream's `ActivePodsWithRanks`.
fn rank(cluster: &Cluster, set: &Object, mine: &mut [&Arc<Object>]) {
    let crowd = neighbours(cluster, set);
    mine.sort_by_cached_key(|pod| {
        let view = pods::view(pod);
        let phase = match view.phase() {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let cost = pod.meta.annotations.get("controller.kubernetes.io/pod-deletion-cost");
        let cost = cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0);
        let crowd = pod.node_name.as_ref().and_then(|n| crowd.get(&**n)).copied().unwrap_or(0);
        let age = |at: Option<Timestamp>| {
            // Ages in powers of two, so that nearly equal ones fall to the next criterion.
            at.map_or(0, |at| {
                64 - (cluster.now.duration_since(at).as_secs().max(0) as u64 + 1).leading_zeros()
            })
        };
        (
            (pod.node_name.is_some(), phase, view.is_ready(), cost),
            (Reverse(crowd), age(view.ready_since()), Reverse(view.restarts())),
            (Reverse(pod.meta.creation_timestamp), pod.meta.name.clone()),
        )
    });
}

/// How many active Pods of this set and its siblings (same controller) each node has.
fn neighbours<'a>(cluster: &'a Cluster, set: &'a Object) -> HashMap<&'a str, usize> {
    let siblings: Vec<&str> = match set.controller() {
        Some(owner) => cluster
            .owned_of_kind(&owner.uid, &kinds::REPLICA_SET)
            .map(|sibling| sibling.meta.uid.as_str())
            .collect(),
        None => vec![&set.meta.uid],
    };
    let mut crowd = HashMap::new();
    for pod in siblings.into_iter().flat_map(|uid| cluster.owned_of_kind(uid, &kinds::POD)) {
        if let Some(node) = pod.node_name.as_deref()
            && pods::is_active(pod)
        {
            *crowd.entry(node).or_default() += 1;
        }
    }
    crowd
}

/// The status while the plan is performed: `kept` Pods stay, so many more come and go.
fn status(
    now: Timestamp,
    set: &Object,
    view: &View,
    kept: &[&Arc<Object>],
    (coming, going): (usize, usize),
    plan: &mut Plan,
) -> Status {
    let labels = view.spec.template["metadata"]["labels"].as_object();
    let fully_labeled = |pod: &Object| {
        labels
            .into_iter()
            .flatten()
            .all(|(key, value)| pod.meta.labels.get(key).map(String::as_str) == value.as_str())
    };
    let min_ready = i64::from(view.spec.min_ready_seconds.unwrap_or(0));
    let mut status = Status {
        replicas: (kept.len() + going) as i32,
        fully_labeled_replicas: (coming + going) as i32,
        observed_generation: set.meta.generation,
        ..Status::default()
    };
    for pod in kept {
        status.fully_labeled_replicas += i32::from(fully_labeled(pod));
        match pods::view(pod).available_in(min_ready, now) {
            None => {}
            Some(wait) => {
                status.ready_replicas += 1;
                if wait.is_zero() {
                    status.available_replicas += 1;
                } else {
                    plan.requeue(wait);
                }
            }
        }
    }
    status
}
