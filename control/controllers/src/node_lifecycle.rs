//! Node lifecycle: a node that is not heard of becomes Unknown, its Pods not ready, and its taints follow its conditions.
//!
//! A node is heard of by its Lease in `kube-node-lease` and by its Ready condition. Silence is measured from when
//! this view began at the earliest, so that a control plane that was away does not blame its nodes.
//!
//! Pods are driven off nodes that are lost one node after the other, zone by zone, and not at all where most are lost: that is
//! more often a network that is cut than so many machines; see [`zones`].

mod zones;

use std::time::Duration;

use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan, kinds};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use self::zones::Turn;
use crate::nodes::{LEASE_SECONDS, LEASES, LeaseView, Taint, View};
use crate::{BURST, patch, pods};

/// Plans conditions and taints of Nodes.
#[derive(Debug, Clone, Copy)]
pub struct NodeLifecycle {
    /// How long a node may be silent.
    pub grace: Duration,
    /// How long a new node may take to speak at all.
    pub startup_grace: Duration,
    /// Lost nodes a second from which Pods are driven away, in each zone.
    pub eviction_rate: f64,
    /// The same in a zone that is unhealthy but large.
    pub secondary_eviction_rate: f64,
    /// The share of lost nodes that makes a zone unhealthy.
    pub unhealthy_zone: f64,
    /// Nodes up to which a zone is small: no Pods are driven away in a small one that is unhealthy.
    pub large_zone: usize,
}

impl Default for NodeLifecycle {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            startup_grace: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            unhealthy_zone: 0.55,
            large_zone: 50,
        }
    }
}

/// Conditions that turn Unknown together with the node.
const OBSERVED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// (condition, its status, taint) that keep new Pods away.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The taints that drive Pods off lost nodes.
const EVICTING: [&str; 2] = [NOT_READY, UNREACHABLE];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// No node is believed that it will be silent for longer than this, in seconds.
const MOST_LEASE_SECONDS: u64 = 600;
/// How often a node that is not ready is looked at, because what becomes of it depends on the others.
const UNREADY_PERIOD: Duration = Duration::from_secs(10);

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        // Not for Leases: a renewal only moves the time at which the key runs again anyway.
        if object.kind.resource == kinds::NODE.resource {
            vec![Key::of(object)]
        } else {
            Vec::new()
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(node) = cluster.get(&kinds::NODE, "", &key.name) else { return plan };
        let Ok(view) = node.decode::<View>() else { return plan };
        if let Some(change) = view.advertised() {
            plan.patch_status(node, json!({"status": {"allocatable": change}}));
            return plan;
        }

        let lease = cluster.get(&kinds::LEASE, LEASES, &node.meta.name);
        let lease = lease.and_then(|lease| lease.decode::<LeaseView>().ok());
        let heard = last_heard(lease.as_deref(), &view);
        let grace = match heard {
            Some(_) => {
                // Where there are very many, they speak less often, and say so.
                let lasts = lease.map_or(0, |lease| lease.spec.lease_duration_seconds);
                let longer = u64::try_from(lasts - LEASE_SECONDS).unwrap_or(0);
                self.grace + Duration::from_secs(longer.min(MOST_LEASE_SECONDS))
            }
            None => self.startup_grace,
        };
        let from = [heard, node.meta.creation_timestamp, Some(cluster.since())];
        let from = from.into_iter().flatten().max().unwrap_or(cluster.now);
        let left =
            SignedDuration::try_from(grace).unwrap_or_default() - cluster.now.duration_since(from);
        if left.is_positive() {
            plan.requeue(Duration::try_from(left).unwrap_or(grace));
        } else if view.ready() != "Unknown" {
            plan.patch_status(node, json!({"status": {"conditions": unknown(cluster.now, node)}}));
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            plan.event(node, "NodeNotReady", message);
            return plan;
        }

        let evict = self.eviction(cluster, node, &view, &mut plan);
        let taints = taints(cluster, &view, evict);
        if taints != view.spec.taints {
            plan.patch(node, json!({"spec": {"taints": taints}}));
        }
        if view.ready() != "True" {
            plan.requeue(UNREADY_PERIOD);
        }
        if view.ready() == "Unknown" {
            mark_pods(cluster, &key.name, &mut plan);
        }
        plan
    }
}

impl NodeLifecycle {
    /// The taint that drives Pods away, if the node is to have one by now.
    fn eviction(
        &self,
        cluster: &Cluster,
        node: &Object,
        view: &View,
        plan: &mut Plan,
    ) -> Option<&'static str> {
        let taint = match view.ready() {
            "True" => return None,
            "Unknown" => UNREACHABLE,
            _ => NOT_READY,
        };
        match zones::turn(self, cluster, node) {
            Turn::Now => Some(taint),
            Turn::Later(wait) => {
                plan.requeue(wait);
                None
            }
            // What was begun is gone through with, unless it is us who hear nobody.
            Turn::NotWhileSoManyAreLost => {
                view.evicting().any(|t| EVICTING.contains(&t.key.as_str())).then_some(taint)
            }
            Turn::NotWhileAllAreLost => None,
        }
    }
}

/// The last sign of life, if there ever was one.
fn last_heard(lease: Option<&LeaseView>, view: &View) -> Option<Timestamp> {
    let told = view.condition("Ready").and_then(|c| c.last_heartbeat_time);
    lease.and_then(|lease| lease.spec.renew_time).max(told)
}

/// All conditions, those that the node used to tell now Unknown.
fn unknown(now: Timestamp, node: &Object) -> Value {
    let mut conditions = match node.value()["status"]["conditions"].take() {
        Value::Array(conditions) => conditions,
        _ => Vec::new(),
    };
    let now = patch::time(now);
    for kind in OBSERVED {
        match conditions.iter_mut().find(|c| c["type"] == kind) {
            Some(known) if known["status"] == "Unknown" => {}
            Some(known) => {
                known["status"] = "Unknown".into();
                known["reason"] = "NodeStatusUnknown".into();
                known["message"] = "Kubelet stopped posting node status.".into();
                known["lastTransitionTime"] = now.as_str().into();
            }
            None => conditions.push(json!({
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": patch::time(node.meta.creation_timestamp.unwrap_or_default()),
                "lastTransitionTime": now,
            })),
        }
    }
    conditions.into()
}

/// The taints as they should be: those that follow from conditions, and all that are not this controller's.
fn taints(cluster: &Cluster, view: &View, evict: Option<&'static str>) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    if view.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    for (condition, status, taint) in CONDITION_TAINTS {
        if view.condition(condition).is_some_and(|c| c.status == status) {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if view.ready().is_empty() {
        wanted.push((NOT_READY, "NoSchedule"));
    }
    wanted.extend(evict.map(|taint| (taint, "NoExecute")));

    let ours = |taint: &Taint| {
        let key = taint.key.as_str();
        key == UNSCHEDULABLE && taint.effect == "NoSchedule"
            || CONDITION_TAINTS.iter().any(|(_, _, k)| *k == key)
                && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
    };
    let mut taints: Vec<Taint> = Vec::new();
    for taint in &view.spec.taints {
        let known = wanted.iter().position(|(k, e)| *k == taint.key && *e == taint.effect);
        if let Some(known) = known {
            wanted.remove(known);
            taints.push(taint.clone());
        } else if !ours(taint) {
            taints.push(taint.clone());
        }
    }
    let now = patch::time(cluster.now).parse().ok();
    taints.extend(wanted.into_iter().map(|(key, effect)| Taint {
        key: key.to_owned(),
        value: None,
        effect: effect.to_owned(),
        time_added: now,
    }));
    taints
}

/// Pods of a node that is not heard of get no traffic. The node tells again when it returns.
fn mark_pods(cluster: &Cluster, node: &str, plan: &mut Plan) {
    for pod in cluster.pods_on(node).filter(|pod| pods::view(pod).is_ready()) {
        if plan.writes.len() >= BURST {
            plan.requeue(Duration::ZERO);
            return;
        }
        let told = ["Ready", "False", "NodeNotReady", "The node of this Pod is not heard of."];
        let conditions = pods::with_condition(pod, cluster.now, told);
        plan.patch_status(pod, json!({"status": {"conditions": conditions}}));
        plan.warning(pod, "NodeNotReady", "Node is not ready");
    }
}
