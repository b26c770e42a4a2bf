//! What `kubectl rollout status` and `describe` are told: counts, and the conditions Available and Progressing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Condition, Rollout, Status};
use crate::patch::{count, time};
use crate::replica_set::REPLICA_FAILURE;

impl Status {
    pub(super) fn progressing(&self) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.r#type == "Progressing")
    }

    pub(super) fn to_json(&self) -> Value {
        let stamp = |at: Option<Timestamp>| at.map_or(Value::Null, |at| time(at).into());
        let conditions: Vec<Value> = self
            .conditions
            .iter()
            .map(|c| {
                json!({
                    "type": c.r#type,
                    "status": c.status,
                    "lastUpdateTime": stamp(c.last_update_time),
                    "lastTransitionTime": stamp(c.last_transition_time),
                    "reason": c.reason,
                    "message": c.message,
                })
            })
            .collect();
        json!({
            "observedGeneration": self.observed_generation,
            "replicas": count(self.replicas),
            "updatedReplicas": count(self.updated_replicas),
            "readyReplicas": count(self.ready_replicas),
            "availableReplicas": count(self.available_replicas),
            "unavailableReplicas": count(self.unavailable_replicas),
            "collisionCount": self.collision_count,
            "conditions": conditions,
        })
    }
}

impl Rollout<'_> {
    /// Sets a condition; one that says the same for the same reason stays as it is.
    pub(super) fn condition(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let now = self.cluster.now;
        let known = self.status.conditions.iter().position(|c| c.r#type == kind);
        let mut transition = now;
        if let Some(at) = known {
            let known = &self.status.conditions[at];
            if known.status == status {
                if known.reason == reason {
                    return;
                }
                transition = known.last_transition_time.unwrap_or(now);
            }
            self.status.conditions.remove(at);
        }
        self.status.conditions.push(Condition {
            r#type: kind.to_owned(),
            status: status.to_owned(),
            last_update_time: Some(now),
            last_transition_time: Some(transition),
            reason: reason.to_owned(),
            message,
        });
    }

    fn forget(&mut self, kind: &str) {
        self.status.conditions.retain(|c| c.r#type != kind);
    }

    /// Notes that the Deployment was paused or resumed, so that the pause does not count against its deadline.
    pub(super) fn note_pause(&mut self) {
        if self.spec.progress_deadline().is_none() {
            return;
        }
        let reason = self.status.progressing().map_or("", |c| c.reason.as_str());
        let was_paused = reason == "DeploymentPaused";
        if reason == "ProgressDeadlineExceeded" || was_paused == self.spec.is_paused() {
            return;
        }
        let (reason, message) = if was_paused {
            ("DeploymentResumed", "Deployment is resumed")
        } else {
            ("DeploymentPaused", "Deployment is paused")
        };
        self.condition("Progressing", "Unknown", reason, message.to_owned());
    }

    /// Counts Pods, and says whether enough are available.
    pub(super) fn count_status(&mut self) {
        let sum = |count: fn(&crate::replica_set::Status) -> i32| -> i32 {
            self.sets.iter().map(|set| count(&set.view.status)).sum()
        };
        let available = sum(|s| s.available_replicas);
        let declared: i32 = self.sets.iter().map(|set| set.size).sum();
        self.status = Status {
            observed_generation: self.deployment.meta.generation,
            replicas: sum(|s| s.replicas),
            updated_replicas: self.new.map_or(0, |i| self.sets[i].view.status.replicas),
            ready_replicas: sum(|s| s.ready_replicas),
            available_replicas: available,
            unavailable_replicas: (declared - available).max(0),
            ..std::mem::take(&mut self.status)
        };
        let enough = available >= self.spec.replicas() - self.spec.fenceposts().1;
        let (status, reason, message) = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        self.condition("Available", status, reason, message.to_owned());
    }

    /// All Pods are of the new template and available, and the status is about the current spec.
    pub(super) fn is_complete(&self, status: &Status) -> bool {
        let replicas = self.spec.replicas();
        status.updated_replicas == replicas
            && status.replicas == replicas
            && status.available_replicas == replicas
            && status.observed_generation >= self.deployment.meta.generation
    }

    /// Upstream's `syncRolloutStatus`: counts, then whether the rollout is done, moving or late.
    pub(super) fn progress_status(&mut self) {
        self.count_status();
        self.tell_failure();
        let Some(deadline) = self.spec.progress_deadline() else {
            return self.forget("Progressing");
        };
        let reason = self.status.progressing().map(|c| c.reason.clone());
        let status = &self.status;
        let done = status.replicas == status.updated_replicas
            && reason.as_deref() == Some("NewReplicaSetAvailable");
        if done {
            return;
        }
        let who = match self.new {
            Some(new) => format!("ReplicaSet \"{}\"", self.sets[new].object.meta.name),
            None => format!("Deployment \"{}\"", self.deployment.meta.name),
        };
        let due = self.due(deadline);
        if self.is_complete(&self.status) {
            let message = format!("{who} has successfully progressed.");
            self.condition("Progressing", "True", "NewReplicaSetAvailable", message);
        } else if self.is_moving() {
            // Replaced even if it says the same: its time is what the deadline is counted from.
            let known = self.status.progressing().filter(|c| c.status == "True");
            let transition = known.and_then(|c| c.last_transition_time);
            self.forget("Progressing");
            let message = format!("{who} is progressing.");
            self.condition("Progressing", "True", "ReplicaSetUpdated", message);
            if let (Some(at), Some(last)) = (transition, self.status.conditions.last_mut()) {
                last.last_transition_time = Some(at);
            }
        } else if reason.as_deref() != Some("NewReplicaSetAvailable")
            && due.is_some_and(|due| due < self.cluster.now)
        {
            let message = format!("{who} has timed out progressing.");
            self.condition("Progressing", "False", "ProgressDeadlineExceeded", message);
        }
        self.look_again_at_deadline(deadline);
    }

    /// What keeps a ReplicaSet from making Pods is told of the Deployment too, of the new one before others.
    fn tell_failure(&mut self) {
        let new = self.new.and_then(|new| self.sets[new].view.status.failure());
        let failure = new.or_else(|| self.sets.iter().find_map(|set| set.view.status.failure()));
        let Some(failure) = failure.cloned() else { return self.forget(REPLICA_FAILURE) };
        let same = |c: &&Condition| c.r#type == REPLICA_FAILURE && c.status == failure.status;
        if self.status.conditions.iter().find(same).is_some_and(|c| c.reason == failure.reason) {
            return;
        }
        self.forget(REPLICA_FAILURE);
        self.status.conditions.push(Condition {
            r#type: failure.r#type,
            status: failure.status,
            last_update_time: failure.last_transition_time,
            last_transition_time: failure.last_transition_time,
            reason: failure.reason,
            message: failure.message,
        });
    }

    fn due(&self, deadline: i32) -> Option<Timestamp> {
        let from = self.status.progressing()?.last_update_time?;
        from.checked_add(SignedDuration::from_secs(deadline.into())).ok()
    }

    fn is_moving(&self) -> bool {
        let (new, old) = (&self.status, self.old_status);
        new.updated_replicas > old.updated_replicas
            || new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
            || new.ready_replicas > old.ready_replicas
            || new.available_replicas > old.available_replicas
    }

    fn look_again_at_deadline(&mut self, deadline: i32) {
        let late = self.status.progressing().is_none_or(|c| c.reason == "ProgressDeadlineExceeded");
        if late || self.is_complete(&self.status) {
            return;
        }
        if let Some(due) = self.due(deadline) {
            let left = due.duration_since(self.cluster.now) + SignedDuration::from_secs(1);
            self.plan.requeue(Duration::try_from(left).unwrap_or(Duration::from_secs(1)));
        }
    }
}
