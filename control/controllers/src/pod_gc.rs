//! Pod collection: Pods whose node is gone or out of service, and ended Pods beyond a limit.

use std::time::Duration;

use coracle_api::plan::{Controller, Key, Propagation, Write};
use coracle_api::{Cluster, Object, Plan, kinds};
use jiff::SignedDuration;
use serde_json::json;

use crate::nodes::View;
use crate::{BURST, pods};

/// Plans the end of Pods that no node will ever report on again.
#[derive(Debug, Clone, Copy)]
pub struct PodCollector {
    /// How long a node must be gone, since it may just be registering anew.
    pub quarantine: Duration,
    /// How many ended Pods are kept.
    pub ended_limit: usize,
    /// How often ended Pods are counted.
    pub period: Duration,
}

impl Default for PodCollector {
    fn default() -> Self {
        Self {
            quarantine: Duration::from_secs(40),
            ended_limit: 12_500,
            period: Duration::from_secs(20),
        }
    }
}

/// The key under which ended Pods are counted, in the namespace of nodes' keys: none.
const ENDED: &str = "|ended";
const REASON: &str = "DeletionByPodGC";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl Controller for PodCollector {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let node = match &object.node_name {
            Some(node) => node,
            None if object.kind.resource == kinds::NODE.resource => object.meta.name.as_str(),
            // There is always a namespace to start the counting, which then repeats by itself.
            None if object.kind.resource == kinds::NAMESPACE.resource => {
                return vec![Key::new("", ENDED)];
            }
            None => return Vec::new(),
        };
        let matters = match cluster.get(&kinds::NODE, "", node) {
            None => true,
            // Of Pods only those matter that are to end there.
            Some(found) => {
                (object.node_name.is_none() || object.is_deleting()) && is_out_of_service(found)
            }
        };
        if matters { vec![Key::new("", node)] } else { Vec::new() }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        if key.name == ENDED {
            self.collect_ended(cluster, &mut plan);
            plan.requeue(self.period);
            return plan;
        }
        let node = cluster.get(&kinds::NODE, "", &key.name);
        if node.is_some_and(|node| is_out_of_service(node)) {
            for pod in cluster.pods_on(&key.name).filter(|pod| pod.is_deleting()) {
                if plan.writes.len() >= BURST {
                    plan.requeue(Duration::ZERO);
                    break;
                }
                collect(pod, &mut plan);
            }
        } else if node.is_none() {
            for pod in cluster.pods_on(&key.name) {
                if plan.writes.len() >= BURST {
                    plan.requeue(Duration::ZERO);
                    break;
                }
                self.collect_lost(cluster, pod, &mut plan);
            }
        }
        plan
    }
}

impl PodCollector {
    /// A Pod of a node that is gone is marked first; the mark's time is what the quarantine is counted from.
    fn collect_lost(&self, cluster: &Cluster, pod: &Object, plan: &mut Plan) {
        let view = pods::view(pod);
        let marked = view
            .condition("DisruptionTarget")
            .filter(|c| c.reason.as_deref() == Some(REASON))
            .and_then(|c| c.last_transition_time);
        let Some(marked) = marked else {
            let mark = ["DisruptionTarget", "True", REASON, "PodGC: node no longer exists"];
            let conditions = pods::with_condition(pod, cluster.now, mark);
            plan.patch_status(pod, json!({"status": {"conditions": conditions}}));
            return plan.requeue(self.quarantine);
        };
        let quarantine = SignedDuration::try_from(self.quarantine).unwrap_or_default();
        let left = quarantine - cluster.now.duration_since(marked);
        if left.is_positive() {
            return plan.requeue(Duration::try_from(left).unwrap_or_default());
        }
        collect(pod, plan);
    }

    fn collect_ended(&self, cluster: &Cluster, plan: &mut Plan) {
        if cluster.count(&kinds::POD) <= self.ended_limit {
            return;
        }
        let ended = cluster.list(&kinds::POD).filter(|pod| pods::view(pod).is_finished());
        let mut ended: Vec<_> = ended.collect();
        let excess = ended.len().saturating_sub(self.ended_limit).min(BURST);
        ended.sort_by_key(|pod| pod.meta.creation_timestamp);
        for pod in &ended[..excess] {
            delete_now(pod, plan);
        }
    }
}

/// Somebody has said that the machine is off and stays so (`node.kubernetes.io/out-of-service`), and it is not heard of:
/// Pods that are being deleted have ended.
fn is_out_of_service(node: &Object) -> bool {
    node.decode::<View>().is_ok_and(|view| {
        view.ready() != "True" && view.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
    })
}

/// Takes a Pod away that nobody will report on.
fn collect(pod: &Object, plan: &mut Plan) {
    if !pods::view(pod).is_finished() {
        plan.patch_status(pod, json!({"status": {"phase": "Failed"}}));
    }
    delete_now(pod, plan);
}

/// Without grace: there is nobody left to stop it.
fn delete_now(pod: &Object, plan: &mut Plan) {
    plan.delete(pod, Propagation::Background);
    if let Some(Write::Delete { grace_seconds, .. }) = plan.writes.last_mut() {
        *grace_seconds = Some(0);
    }
}
