//! The Pods as they are, for whoever asks the kubelet API.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::Workers;
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
    /// Whether its sandbox exists.
    pub has_sandbox: bool,
    /// Its containers, init containers first.
    pub containers: Vec<SeenContainer>,
}

/// A container of it.
pub struct SeenContainer {
    /// Its name.
    pub name: String,
    /// Since when it runs, if it does.
    pub running_since: Option<Timestamp>,
}

impl Seen {
    /// Whether a container runs.
    pub fn runs(&self, container: &str) -> bool {
        self.containers.iter().any(|c| c.name == container && c.running_since.is_some())
    }
}

impl Workers {
    /// All of them.
    pub fn seen(&self) -> Vec<Seen> {
        let table = self.table();
        let seen = table.pods.iter().map(|(uid, entry)| Seen {
            uid: uid.clone(),
            namespace: entry.pod.metadata.namespace.clone().unwrap_or_default(),
            name: entry.pod.metadata.name.clone().unwrap_or_default(),
            phase: entry
                .told
                .as_ref()
                .and_then(|status| status.phase.clone())
                .unwrap_or_else(|| "Pending".to_owned()),
            start_time: entry.state.start_time,
            has_sandbox: entry.state.sandbox == Sandbox::Ready,
            containers: entry
                .state
                .containers
                .iter()
                .map(|container| SeenContainer {
                    name: container.rule.name.to_string(),
                    running_since: container.phase.since(),
                })
                .collect(),
        });
        seen.collect()
    }

    /// All of them, with the status that the API was told last.
    pub fn pods(&self) -> Vec<Pod> {
        let table = self.table();
        let pods = table.pods.values().map(|entry| Pod {
            metadata: entry.pod.metadata.clone(),
            spec: entry.pod.spec.clone(),
            status: entry.told.clone(),
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
