//! What controllers read of a Node and its Lease.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How long a node's Lease lasts, in seconds, unless there are very many nodes: these renew theirs less often.
pub(crate) const LEASE_SECONDS: i64 = 10;
/// The namespace of the Leases that nodes renew.
pub(crate) const LEASES: &str = "kube-node-lease";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct View {
    pub(crate) spec: Spec,
    pub(crate) status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub(crate) unschedulable: bool,
    pub(crate) taints: Vec<Taint>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Taint {
    pub(crate) key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    pub(crate) effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) time_added: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) conditions: Vec<Condition>,
    capacity: BTreeMap<Box<str>, Value>,
    allocatable: BTreeMap<Box<str>, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    pub(crate) r#type: String,
    pub(crate) status: String,
    pub(crate) last_heartbeat_time: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LeaseView {
    pub(crate) spec: LeaseSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LeaseSpec {
    pub(crate) lease_duration_seconds: i64,
    pub(crate) renew_time: Option<Timestamp>,
}

impl View {
    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| c.r#type == kind)
    }

    /// The status of condition Ready: `True`, `False`, `Unknown`, or empty if it never told.
    pub(crate) fn ready(&self) -> &str {
        self.condition("Ready").map_or("", |c| c.status.as_str())
    }

    /// How `allocatable` is to change for extended resources that somebody added to `capacity` by hand, or took away: a kubelet
    /// would see to that.
    pub(crate) fn advertised(&self) -> Option<Value> {
        let is_extended = |name: &str| name.contains('/') && !name.starts_with("kubernetes.io/");
        let Status { capacity, allocatable, .. } = &self.status;
        let mut change = Map::new();
        for name in capacity.keys().filter(|name| is_extended(name)) {
            if !allocatable.contains_key(name) {
                change.insert(name.to_string(), capacity[name].clone());
            }
        }
        for name in allocatable.keys().filter(|name| is_extended(name)) {
            if !capacity.contains_key(name) {
                change.insert(name.to_string(), Value::Null);
            }
        }
        (!change.is_empty()).then_some(Value::Object(change))
    }

    /// The taints that drive Pods away.
    pub(crate) fn evicting(&self) -> impl Iterator<Item = &Taint> {
        self.spec.taints.iter().filter(|taint| taint.effect == "NoExecute")
    }
}
