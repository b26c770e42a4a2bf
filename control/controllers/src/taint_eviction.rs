//! Taint eviction: Pods that do not tolerate a `NoExecute` taint of their node go, after `tolerationSeconds`.

use std::time::Duration;

use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan, kinds};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::nodes::{Taint, View};
use crate::pods::{self, PodView};
use crate::{BURST, patch};

/// Plans evictions from tainted Nodes.
#[derive(Debug, Clone, Copy)]
pub struct TaintEviction;

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let node = match &object.node_name {
            Some(name) => cluster.get(&kinds::NODE, "", name).map(|node| &**node),
            None if object.kind.resource == kinds::NODE.resource => Some(object),
            None => None,
        };
        node.filter(|node| node.decode::<View>().is_ok_and(|view| view.evicting().next().is_some()))
            .map(Key::of)
            .into_iter()
            .collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(node) = cluster.get(&kinds::NODE, "", &key.name) else { return plan };
        let Ok(view) = node.decode::<View>() else { return plan };
        if view.evicting().next().is_none() {
            return plan;
        }
        if view.evicting().any(|taint| taint.time_added.is_none()) {
            // Made by hand: what is tolerated for a while is counted from now.
            let mut taints = view.spec.taints.clone();
            let now = patch::time(cluster.now).parse().ok();
            for taint in taints.iter_mut().filter(|taint| taint.effect == "NoExecute") {
                taint.time_added = taint.time_added.or(now);
            }
            plan.patch(node, json!({"spec": {"taints": taints}}));
            return plan;
        }
        let taints: Vec<&Taint> = view.evicting().collect();
        for pod in cluster.pods_on(&key.name).filter(|pod| !pod.is_deleting()) {
            if plan.writes.len() >= BURST {
                plan.requeue(Duration::ZERO);
                break;
            }
            let Some(due) = due(&pods::view(pod), &taints) else { continue };
            let left = due.duration_since(cluster.now);
            if left.is_positive() {
                plan.requeue(Duration::try_from(left).unwrap_or_default());
            } else {
                evict(cluster, pod, &mut plan);
            }
        }
        plan
    }
}

/// When a Pod must go; `None` if it may stay.
fn due(pod: &PodView, taints: &[&Taint]) -> Option<Timestamp> {
    let mut due: Option<Timestamp> = None;
    for taint in taints {
        let added = taint.time_added.unwrap_or_default();
        let mut matching = pod.spec.tolerations.iter().filter(|t| t.tolerates(taint)).peekable();
        let seconds = match matching.peek() {
            None => Some(0),
            Some(_) => matching.filter_map(|t| t.toleration_seconds).min(),
        };
        if let Some(seconds) = seconds {
            let at = added.checked_add(SignedDuration::from_secs(seconds.max(0)));
            let at = at.unwrap_or(Timestamp::MAX);
            due = Some(due.map_or(at, |due| due.min(at)));
        }
    }
    due
}

fn evict(cluster: &Cluster, pod: &Object, plan: &mut Plan) {
    let told = pods::view(pod)
        .condition("DisruptionTarget")
        .is_some_and(|c| c.reason.as_deref() == Some("DeletionByTaintManager"));
    if !told {
        let conditions = pods::with_condition(
            pod,
            cluster.now,
            [
                "DisruptionTarget",
                "True",
                "DeletionByTaintManager",
                "Taint manager: deleting due to NoExecute taint",
            ],
        );
        plan.patch_status(pod, json!({"status": {"conditions": conditions}}));
    }
    plan.delete(pod, Propagation::Background);
    let message = format!("Marking for deletion Pod {}", pod.key());
    plan.event(pod, "TaintManagerEviction", message);
}
