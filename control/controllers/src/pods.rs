//! What controllers read of a Pod: few fields, kept decoded for many Pods, and the questions upstream's `podutil` answers.

use std::borrow::Cow;
use std::time::Duration;

use coracle_api::Object;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::nodes::Taint;
use crate::patch;

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
    pub(crate) container_statuses: Vec<ContainerStatus>,
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

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatus {
    pub(crate) restart_count: i32,
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
        self.status.container_statuses.iter().map(|c| c.restart_count).sum()
    }
}

/// Neither finished nor being deleted.
pub(crate) fn is_active(pod: &Object) -> bool {
    !pod.is_deleting() && !view(pod).is_finished()
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
