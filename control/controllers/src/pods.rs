//! What controllers read of a Pod: few fields, kept decoded for many Pods, and the questions upstream's `podutil` answers.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use coracle_api::{Cluster, Object, Plan, kinds};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::nodes::Taint;
use crate::{names, patch};

/// The part of a Pod that controllers read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodView {
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) hostname: Option<Box<str>>,
    pub(crate) subdomain: Option<Box<str>>,
    pub(crate) containers: Vec<Container>,
    pub(crate) init_containers: Vec<Container>,
    pub(crate) tolerations: Vec<Toleration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) restart_policy: Option<Box<str>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub(crate) name: Option<Box<str>>,
    pub(crate) container_port: i32,
    pub(crate) protocol: Option<Box<str>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Toleration {
    pub(crate) key: Option<Box<str>>,
    pub(crate) operator: Option<Box<str>>,
    pub(crate) value: Option<Box<str>>,
    pub(crate) effect: Option<Box<str>>,
    pub(crate) toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether it tolerates a taint.
    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        fn given(field: &Option<Box<str>>) -> Option<&str> {
            field.as_deref().filter(|f| !f.is_empty())
        }
        given(&self.effect).is_none_or(|effect| effect == taint.effect)
            && given(&self.key).is_none_or(|key| key == taint.key)
            && (self.operator.as_deref() == Some("Exists")
                || given(&self.key).is_some()
                    && self.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""))
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: Option<Box<str>>,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Option<Box<str>>,
    pub(crate) conditions: Vec<PodCondition>,
    #[serde(deserialize_with = "sum_up")]
    container_statuses: Containers,
    #[serde(deserialize_with = "sum_up")]
    init_container_statuses: Containers,
}

/// All that is asked of containers' statuses, summed up when a Pod is read: it is kept for many.
#[derive(Debug, Clone, Default)]
struct Containers {
    restarts: i32,
    finished_at: Option<Box<Timestamp>>,
}

fn sum_up<'de, D: Deserializer<'de>>(statuses: D) -> Result<Containers, D::Error> {
    let statuses = Option::<Vec<ContainerStatus>>::deserialize(statuses)?.unwrap_or_default();
    let ended = statuses.iter().filter_map(|c| c.state.terminated.as_ref()?.finished_at).max();
    Ok(Containers {
        restarts: statuses.iter().map(|c| c.restart_count).sum(),
        finished_at: ended.map(Box::new),
    })
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodCondition {
    #[serde(rename = "type")]
    pub(crate) kind: Box<str>,
    pub(crate) status: Box<str>,
    pub(crate) reason: Option<Box<str>>,
    pub(crate) last_transition_time: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    restart_count: i32,
    state: ContainerState,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    terminated: Option<Terminated>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    finished_at: Option<Timestamp>,
}

/// The fields of a Pod. What is stored passed validation; anything else reads as a Pod without any.
pub(crate) fn view(pod: &Object) -> Cow<'_, PodView> {
    pod.decode().unwrap_or_default()
}

impl PodView {
    pub(crate) fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or("Pending")
    }

    /// Ran to its end.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<&PodCondition> {
        self.status.conditions.iter().find(|c| &*c.kind == kind)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|c| &*c.status == "True")
    }

    /// Since when it has been ready.
    pub(crate) fn ready_since(&self) -> Option<Timestamp> {
        self.condition("Ready").filter(|c| &*c.status == "True")?.last_transition_time
    }

    /// Ready for `min_ready` already, or how long until then; `None` if not ready.
    pub(crate) fn available_in(&self, min_ready: i64, now: Timestamp) -> Option<Duration> {
        if !self.is_ready() {
            return None;
        }
        if min_ready <= 0 {
            return Some(Duration::ZERO);
        }
        let ready = now.duration_since(self.ready_since()?);
        let left = jiff::SignedDuration::from_secs(min_ready) - ready;
        Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
    }

    pub(crate) fn restarts(&self) -> i32 {
        self.status.container_statuses.restarts + self.status.init_container_statuses.restarts
    }

    /// When the last of its containers ended, if they told.
    pub(crate) fn finished_at(&self) -> Option<Timestamp> {
        self.status.container_statuses.finished_at.as_deref().copied()
    }
}

/// Neither finished nor being deleted.
pub(crate) fn is_active(pod: &Object) -> bool {
    !pod.is_deleting() && !view(pod).is_finished()
}

/// Tells of Pods that a controller created or deleted: ten events, then one that stands for the rest, as upstream's
/// recorder combines them.
pub(crate) fn tell<'a>(
    plan: &mut Plan,
    owner: &Object,
    reason: &str,
    verb: &str,
    names: impl Iterator<Item = &'a str>,
) {
    for (i, name) in names.take(11).enumerate() {
        let combined = if i == 10 { "(combined from similar events): " } else { "" };
        plan.event(owner, reason, format!("{combined}{verb} pod: {name}"));
    }
}

/// A Pod made from a template, owned by its controller; it still lacks a name.
pub(crate) fn from_template(owner: &Object, template: &Value) -> Value {
    let mut metadata = json!({
        "namespace": owner.meta.namespace,
        "ownerReferences": [owner.owner_ref()],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field).filter(|v| !v.is_null()) {
            metadata[field] = value.clone();
        }
    }
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": template["spec"]})
}

/// Names for new Pods: the same as long as the owner is seen unchanged, so that creations planned twice collide.
pub(crate) struct Names<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    seed: String,
    taken: HashSet<String>,
    next: u64,
}

impl<'a> Names<'a> {
    pub(crate) fn of(cluster: &'a Cluster, owner: &'a Object) -> Self {
        let seed = format!("{}/{}", owner.meta.uid, owner.meta.resource_version);
        let namespace = owner.meta.namespace.as_str();
        Self { cluster, namespace, seed, taken: HashSet::new(), next: 0 }
    }

    /// Names a Pod: `base` and five characters.
    pub(crate) fn name(&mut self, pod: &mut Value, base: &str) {
        loop {
            let name = names::generated(base, &self.seed, self.next);
            self.next += 1;
            // Two numbers may give one name; the set sees that within this plan, the cluster across plans.
            let free = self.cluster.get(&kinds::POD, self.namespace, &name).is_none();
            if free && self.taken.insert(name.clone()) {
                pod["metadata"]["generateName"] = base.into();
                pod["metadata"]["name"] = name.into();
                return;
            }
        }
    }
}

/// A count, or a percentage of `total` rounded up or down.
pub(crate) fn share(value: &Value, total: i32, up: bool) -> i32 {
    if let Some(count) = value.as_i64() {
        return i32::try_from(count).unwrap_or(i32::MAX).max(0);
    }
    let percent = value.as_str().and_then(|s| s.strip_suffix('%')?.parse::<i64>().ok());
    let parts = percent.unwrap_or(0).max(0).saturating_mul(i64::from(total));
    let count = if up { (parts + 99) / 100 } else { parts / 100 };
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// `status.conditions` with one condition set, for a patch. A condition that had the status keeps its time.
pub(crate) fn with_condition(
    pod: &Object,
    now: Timestamp,
    [kind, status, reason, message]: [&str; 4],
) -> Value {
    let mut conditions = match pod.value()["status"]["conditions"].take() {
        Value::Array(conditions) => conditions,
        _ => Vec::new(),
    };
    let mut since = Value::from(patch::time(now));
    if let Some(at) = conditions.iter().position(|c| c["type"] == kind) {
        let known = conditions.remove(at);
        if known["status"] == status && known["reason"] == reason {
            since = known["lastTransitionTime"].clone();
        }
    }
    conditions.push(json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    }));
    conditions.into()
}
