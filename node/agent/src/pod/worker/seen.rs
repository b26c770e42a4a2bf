//! The Pods as they are, for whoever asks the kubelet API.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Entry, Workers};
use crate::hosts::Hosts;
use crate::metrics::Metrics;
use crate::pod::lifecycle::Sandbox;

/// A Pod of this node, for metrics.
pub struct Seen {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `status.phase`, as the API was told last.
    pub phase: String,
    /// When the node took it on.
    pub start_time: Timestamp,
    /// Since when it is ready, as the API was told last; none while it is not.
    pub ready_since: Option<Timestamp>,
    /// Whether it uses the machine's network.
    pub on_host_network: bool,
    /// Whether its sandbox exists.
    pub has_sandbox: bool,
    /// Its containers, init containers first.
    pub containers: Vec<SeenContainer>,
}

/// A container of it.
pub struct SeenContainer {
    /// Its name.
    pub name: String,
    /// Which attempt is the last.
    pub attempt: u32,
    /// Since when it runs, if it does.
    pub running_since: Option<Timestamp>,
}

impl Seen {
    fn of(uid: &str, entry: &Entry) -> Seen {
        let containers = entry.state.containers.iter().map(|container| SeenContainer {
            name: container.rule.name.to_string(),
            attempt: container.restarts,
            running_since: container.phase.since(),
        });
        Seen {
            uid: uid.to_owned(),
            namespace: entry.namespace.to_string(),
            name: entry.name.to_string(),
            phase: entry.phase().to_owned(),
            start_time: entry.state.start_time,
            ready_since: entry.told.as_ref().and_then(|told| told.ready_since),
            on_host_network: entry.on_host_network,
            has_sandbox: entry.state.sandbox == Sandbox::Ready,
            containers: containers.collect(),
        }
    }

    /// Whether any container runs.
    pub fn is_running(&self) -> bool {
        self.containers.iter().any(|c| c.running_since.is_some())
    }

    /// Whether a container runs.
    pub fn runs(&self, container: &str) -> bool {
        self.containers.iter().any(|c| c.name == container && c.running_since.is_some())
    }
}

impl Workers {
    /// All of them.
    pub fn seen(&self) -> Vec<Seen> {
        let table = self.table();
        table.pods.iter().map(|(uid, entry)| Seen::of(uid, entry)).collect()
    }

    /// One of them.
    pub fn look(&self, uid: &str) -> Option<Seen> {
        self.table().pods.get(uid).map(|entry| Seen::of(uid, entry))
    }

    /// All of them, with the status that the API was told last.
    pub fn pods(&self) -> Vec<Pod> {
        let told = |entry: &Entry| entry.told.as_ref().map(|told| told.status.clone());
        let kept: Vec<_> =
            self.table().pods.values().map(|entry| (entry.pod.clone(), told(entry))).collect();
        let pods = kept.into_iter().map(|(pod, told)| Pod {
            status: told.map(|told| Arc::unwrap_or_clone(told.peek())),
            ..Arc::unwrap_or_clone(pod.peek())
        });
        pods.collect()
    }

    /// The hosts that they live in.
    pub fn hosts(&self) -> &Hosts {
        &self.inner.parts.hosts
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}
