//! PodDisruptionBudget: how many Pods may be evicted at the moment.
//!
//! The eviction subresource counts down between two runs of this, so it never allows more than the last status did.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Kind, LabelSelector, Object, Plan, kinds};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::scales::Scaled;
use crate::{owners, patch, pods};

/// Plans statuses of PodDisruptionBudgets.
#[derive(Debug, Clone, Copy)]
pub struct DisruptionController;

/// How long a Pod that was allowed to go may take to be deleted.
const DELETION: SignedDuration = SignedDuration::from_mins(2);
/// Keys of Pods that were announced to go and did not; no budget is named so.
const STALE: &str = "pod|";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    selector: Option<Value>,
    min_available: Option<Value>,
    max_unavailable: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    current_healthy: i32,
    desired_healthy: i32,
    disruptions_allowed: i32,
    expected_pods: i32,
    observed_generation: i64,
    disrupted_pods: BTreeMap<String, Timestamp>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    status: String,
    observed_generation: i64,
    last_transition_time: Option<Timestamp>,
    reason: String,
    message: String,
}

impl Controller for DisruptionController {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == kinds::POD_DISRUPTION_BUDGET.resource {
            return vec![Key::of(object)];
        }
        if !object.kind.is_pod() {
            return Vec::new();
        }
        let namespace = object.meta.namespace.as_str();
        let mut keys: Vec<Key> = cluster
            .list_in(&kinds::POD_DISRUPTION_BUDGET, namespace)
            .filter(|budget| {
                budget.decode::<View>().is_ok_and(|view| {
                    LabelSelector::from_value(view.spec.selector.as_ref())
                        .is_ok_and(|selector| selector.matches(&object.meta.labels))
                })
            })
            .map(|budget| Key::of(budget))
            .collect();
        if announced_at(object).is_some() {
            keys.push(Key::new(namespace, format!("{STALE}{}", object.meta.name)));
        }
        keys
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        if let Some(name) = key.name.strip_prefix(STALE) {
            if let Some(pod) = cluster.get(&kinds::POD, &key.namespace, name) {
                withdraw(cluster, pod, &mut plan);
            }
        } else if let Some(budget) =
            cluster.get(&kinds::POD_DISRUPTION_BUDGET, &key.namespace, &key.name)
            && let Ok(view) = budget.decode::<View>()
        {
            count(cluster, budget, &view, &mut plan);
        }
        plan
    }
}

/// Since when a Pod has been announced to go, though nobody deletes it.
fn announced_at(pod: &Object) -> Option<Timestamp> {
    // Few Pods have the condition: the others need not be read for it.
    let has = |json: &str| json.contains("\"DisruptionTarget\"");
    if pod.is_deleting() || !std::str::from_utf8(pod.json()).is_ok_and(has) {
        return None;
    }
    let view = pods::view(pod);
    let condition = view.condition("DisruptionTarget").filter(|c| &*c.status == "True")?;
    let by_node = condition.reason.as_deref() == Some("TerminationByKubelet");
    (!by_node && !view.is_finished()).then(|| condition.last_transition_time.unwrap_or_default())
}

/// Takes an announcement back that nothing came of.
fn withdraw(cluster: &Cluster, pod: &Object, plan: &mut Plan) {
    let Some(since) = announced_at(pod) else { return };
    let left = DELETION - cluster.now.duration_since(since);
    if left.is_positive() {
        return plan.requeue(Duration::try_from(left).unwrap_or_default());
    }
    let conditions = pods::with_condition(pod, cluster.now, ["DisruptionTarget", "False", "", ""]);
    plan.patch_status(pod, json!({"status": {"conditions": conditions}}));
}

fn count(cluster: &Cluster, budget: &Arc<Object>, view: &View, plan: &mut Plan) {
    let (spec, old) = (&view.spec, &view.status);
    let selector = LabelSelector::from_value(spec.selector.as_ref());
    let selector = selector.unwrap_or(LabelSelector::NOTHING);
    let namespace = &budget.meta.namespace;
    let pods: Vec<_> = cluster.pods_where(namespace, |labels| selector.matches(labels)).collect();
    let mut status = Status {
        observed_generation: budget.meta.generation,
        conditions: old.conditions.clone(),
        ..Status::default()
    };
    let expected = match expected(cluster, spec, &pods) {
        Ok(expected) => expected,
        Err(why) => {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            plan.warning(budget, "CalculateExpectedPodCountFailed", message);
            // Nothing may go while it is not known what must stay.
            let mut failed = Status { disruptions_allowed: 0, ..old.clone() };
            failed.tell(cluster.now, "False", "SyncFailed", &why);
            return write(budget, old, &failed, plan);
        }
    };
    if expected.unmanaged {
        plan.warning(
            budget,
            "UnmanagedPods",
            "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
        );
    }
    if pods.is_empty() && old.observed_generation != budget.meta.generation {
        plan.event(budget, "NoPods", "No matching pods found");
    }
    for pod in pods.iter().filter(|pod| !pod.is_deleting()) {
        if let Some(at) = old.disrupted_pods.get(&pod.meta.name) {
            let left = DELETION - cluster.now.duration_since(*at);
            if left.is_positive() {
                status.disrupted_pods.insert(pod.meta.name.clone(), *at);
                plan.requeue(Duration::try_from(left).unwrap_or_default());
                continue;
            }
            let message =
                format!("Pod was expected by PDB {} to be deleted but it wasn't", budget.key());
            plan.warning(pod, "NotDeleted", message);
        }
        status.current_healthy += i32::from(pods::view(pod).is_ready());
    }
    status.expected_pods = expected.pods;
    status.desired_healthy = expected.healthy;
    if expected.pods > 0 {
        status.disruptions_allowed = (status.current_healthy - expected.healthy).max(0);
    }
    let (told, reason) = match status.disruptions_allowed {
        0 => ("False", "InsufficientPods"),
        _ => ("True", "SufficientPods"),
    };
    status.tell(cluster.now, told, reason, "");
    write(budget, old, &status, plan);
}

impl Status {
    /// Sets the only condition there is.
    fn tell(&mut self, now: Timestamp, status: &str, reason: &str, message: &str) {
        const KIND: &str = "DisruptionAllowed";
        let known = self.conditions.iter().find(|c| c.r#type == KIND);
        let since = known.filter(|c| c.status == status).and_then(|c| c.last_transition_time);
        let new = Condition {
            r#type: KIND.into(),
            status: status.into(),
            observed_generation: self.observed_generation,
            last_transition_time: Some(since.unwrap_or(now)),
            reason: reason.into(),
            message: message.into(),
        };
        self.conditions.retain(|c| c.r#type != KIND);
        self.conditions.push(new);
    }
}

fn write(budget: &Object, old: &Status, new: &Status, plan: &mut Plan) {
    if new == old {
        return;
    }
    let mut disrupted = serde_json::Map::new();
    for name in old.disrupted_pods.keys() {
        disrupted.insert(name.clone(), Value::Null);
    }
    for (name, at) in &new.disrupted_pods {
        disrupted.insert(name.clone(), patch::time(*at).into());
    }
    let conditions: Vec<Value> = new
        .conditions
        .iter()
        .map(|c| {
            let mut told = json!(c);
            told["lastTransitionTime"] =
                c.last_transition_time.map_or(Value::Null, |at| patch::time(at).into());
            told
        })
        .collect();
    let status = json!({
        "currentHealthy": new.current_healthy,
        "desiredHealthy": new.desired_healthy,
        "disruptionsAllowed": new.disruptions_allowed,
        "expectedPods": new.expected_pods,
        "observedGeneration": new.observed_generation,
        "disruptedPods": disrupted,
        "conditions": conditions,
    });
    plan.patch_status(budget, json!({"status": status}));
}

/// How many Pods there should be, and how many of them healthy.
struct Expected {
    pods: i32,
    healthy: i32,
    /// There are Pods without a controller, which shares cannot count.
    unmanaged: bool,
}

fn expected(cluster: &Cluster, spec: &Spec, pods: &[&Arc<Object>]) -> Result<Expected, String> {
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (pods, unmanaged) = scale(cluster, pods)?;
            let healthy = (pods - pods::share(most, pods, true)).max(0);
            Ok(Expected { pods, healthy, unmanaged })
        }
        (None, Some(least)) if least.is_string() => {
            let (pods, unmanaged) = scale(cluster, pods)?;
            Ok(Expected { pods, healthy: pods::share(least, pods, true), unmanaged })
        }
        (None, Some(least)) => {
            let healthy = pods::share(least, count, true);
            Ok(Expected { pods: count, healthy, unmanaged: false })
        }
        (None, None) => Ok(Expected { pods: 0, healthy: 0, unmanaged: false }),
    }
}

/// The declared sizes of all controllers that have some of the Pods; whether some have none.
fn scale(cluster: &Cluster, pods: &[&Arc<Object>]) -> Result<(i32, bool), String> {
    let mut sizes: HashMap<String, i32> = HashMap::new();
    let mut known = HashSet::new();
    let mut unmanaged = false;
    for pod in pods {
        let Some(owner) = pod.controller() else {
            unmanaged = true;
            continue;
        };
        if !known.insert(owner.uid.as_str()) {
            continue;
        }
        let find =
            |object: &Object, kind: &Kind| owners::controller_of(cluster, object, kind).cloned();
        // Of whatever kind has `/scale`; a ReplicaSet's size is its Deployment's.
        let kind = cluster.kind(group(&owner.api_version), &owner.kind);
        let found = kind.and_then(|kind| find(pod, kind));
        let found = found.map(|found| find(&found, &kinds::DEPLOYMENT).unwrap_or(found));
        let scaled = found.and_then(|found| Some((Scaled::of(cluster, &found)?, found)));
        let Some((scaled, controller)) = scaled else {
            return Err(match owner.kind.as_str() {
                "ReplicaSet" | "StatefulSet" | "ReplicationController" => {
                    format!("found no controllers for pod {:?}", pod.meta.name)
                }
                other => format!("{other} {} does not implement the scale subresource", owner.name),
            });
        };
        sizes.insert(controller.meta.uid.clone(), scaled.replicas);
    }
    Ok((sizes.values().sum(), unmanaged))
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests;
