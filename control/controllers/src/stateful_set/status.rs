//! What `kubectl rollout status` is told of a StatefulSet.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Run;
use crate::patch::count;

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    observed_generation: i64,
    replicas: i64,
    ready_replicas: i64,
    available_replicas: i64,
    current_replicas: i64,
    updated_replicas: i64,
    pub(super) current_revision: String,
    pub(super) update_revision: String,
    pub(super) collision_count: i32,
}

impl Status {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "observedGeneration": self.observed_generation,
            "replicas": self.replicas,
            "readyReplicas": count(self.ready_replicas),
            "availableReplicas": self.available_replicas,
            "currentReplicas": count(self.current_replicas),
            "updatedReplicas": count(self.updated_replicas),
            "currentRevision": self.current_revision,
            "updateRevision": self.update_revision,
            "collisionCount": self.collision_count,
        })
    }
}

impl Run<'_> {
    /// The status while the plan is performed: Pods that are about to go are no longer of any revision.
    pub(super) fn status(&mut self, old: &Status) -> Status {
        let mut status = Status {
            observed_generation: self.set.meta.generation,
            replicas: self.pods.len() as i64,
            current_revision: self.current.revision.clone(),
            update_revision: self.update.revision.clone(),
            collision_count: old.collision_count,
            ..Status::default()
        };
        for at in 0..self.pods.len() {
            let available = self.is_available(at);
            let pod = &self.pods[at];
            status.ready_replicas += i64::from(pod.is_ready());
            status.available_replicas += i64::from(pod.is_ready() && available);
            let going = self.deleted.iter().any(|gone| gone.meta.uid == pod.object.meta.uid);
            if going || pod.object.is_deleting() {
                continue;
            }
            status.current_replicas += i64::from(pod.revision() == self.current.revision);
            status.updated_replicas += i64::from(pod.revision() == self.update.revision);
        }
        let wanted = self.spec.replicas();
        let done = [status.replicas, status.ready_replicas, status.updated_replicas];
        if self.spec.update_strategy.r#type == "RollingUpdate"
            && done.iter().all(|count| *count == wanted)
        {
            status.current_revision.clone_from(&status.update_revision);
            status.current_replicas = status.updated_replicas;
        }
        status
    }
}
