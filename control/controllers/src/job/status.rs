//! A Job's status: what was counted, and conditions.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{End, MOST_UNCOUNTED, Run, untrack};
use crate::patch::{count, time};

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(super) start_time: Option<Timestamp>,
    pub(crate) completion_time: Option<Timestamp>,
    pub(super) active: i64,
    pub(super) ready: Option<i64>,
    pub(super) terminating: Option<i64>,
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    pub(super) completed_indexes: String,
    pub(super) failed_indexes: Option<String>,
    pub(super) uncounted_terminated_pods: Uncounted,
    conditions: Vec<Condition>,
}

/// UIDs of Pods that ended and may still hold their finalizer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Uncounted {
    pub(super) succeeded: Vec<String>,
    pub(super) failed: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    pub(crate) r#type: String,
    pub(crate) status: String,
    last_probe_time: Option<Timestamp>,
    pub(crate) last_transition_time: Option<Timestamp>,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Status {
    pub(super) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.r#type == kind)
    }

    pub(super) fn is(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|c| c.status == "True")
    }

    /// The condition that says how it finished, if it has.
    pub(crate) fn finished(&self) -> Option<&Condition> {
        let mut ends = ["Complete", "Failed"].into_iter().filter_map(|kind| self.condition(kind));
        ends.find(|c| c.status == "True")
    }

    pub(super) fn finished_at(&self) -> Option<Timestamp> {
        self.finished().map(|c| c.last_transition_time.unwrap_or_default())
    }

    /// When it was started, for what sorts Jobs by that.
    pub(crate) fn started_at(&self) -> Option<Timestamp> {
        self.start_time
    }

    /// Sets a condition; whether it changed.
    pub(super) fn set(
        &mut self,
        kind: &str,
        status: &str,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> bool {
        let new = Condition {
            r#type: kind.into(),
            status: status.into(),
            last_probe_time: Some(now),
            last_transition_time: Some(now),
            reason: reason.into(),
            message: message.into(),
        };
        match self.conditions.iter_mut().find(|c| c.r#type == kind) {
            Some(known) => {
                let same =
                    known.status == status && known.reason == reason && known.message == message;
                if !same {
                    *known = new;
                }
                !same
            }
            None => {
                self.conditions.push(new);
                true
            }
        }
    }

    fn to_json(&self) -> Value {
        let stamp = |at: Option<Timestamp>| at.map_or(Value::Null, |at| time(at).into());
        let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        let list = |uids: &[String]| if uids.is_empty() { Value::Null } else { json!(uids) };
        let conditions: Vec<Value> = self
            .conditions
            .iter()
            .map(|c| {
                json!({
                    "type": c.r#type,
                    "status": c.status,
                    "lastProbeTime": stamp(c.last_probe_time),
                    "lastTransitionTime": stamp(c.last_transition_time),
                    "reason": text(&c.reason),
                    "message": text(&c.message),
                })
            })
            .collect();
        json!({
            "startTime": stamp(self.start_time),
            "completionTime": stamp(self.completion_time),
            "active": count(self.active),
            "ready": self.ready,
            "terminating": self.terminating,
            "succeeded": count(self.succeeded),
            "failed": count(self.failed),
            "completedIndexes": text(&self.completed_indexes),
            "failedIndexes": self.failed_indexes,
            "uncountedTerminatedPods": {
                "succeeded": list(&self.uncounted_terminated_pods.succeeded),
                "failed": list(&self.uncounted_terminated_pods.failed),
            },
            "conditions": if conditions.is_empty() { Value::Null } else { conditions.into() },
        })
    }
}

impl Run<'_> {
    /// Counts what is counted no more than once: see the head of [`super`]. Plans finalizers to be taken off (the status
    /// is put before them) and says whether nothing is left to count. Pods in `own` are not counted.
    pub(super) fn track(&mut self, end: Option<&End>, own: &BTreeSet<usize>) -> bool {
        self.move_counted();
        let (spec, old) = (self.spec, self.old);
        let known = &old.uncounted_terminated_pods;
        let mut new_indexes = Vec::new();
        let mut full = false;
        for (at, pod) in self.pods.iter().enumerate() {
            if !pod.tracked {
                continue;
            }
            if own.contains(&at) {
                untrack(pod.object, &mut self.plan);
                continue;
            }
            let held = pod.index.and_then(|index| self.held.get(&index)) == Some(&at);
            let ended = pod.has_succeeded() || (pod.failed && !held);
            if !self.job.is_deleting() && end.is_none() && !ended {
                continue;
            }
            untrack(pod.object, &mut self.plan);
            let uid = pod.uid().to_owned();
            let counts = !pod.failed || self.counts(pod);
            // One that was taken for failed when the Job ended stays so.
            let failed = known.failed.contains(&uid);
            let uncounted = &mut self.status.uncounted_terminated_pods;
            if pod.has_succeeded() && !failed {
                match pod.index {
                    // The index itself tells that it was counted.
                    Some(index) => new_indexes.push(index),
                    None if spec.is_indexed() || known.succeeded.contains(&uid) => {}
                    None => uncounted.succeeded.push(uid),
                }
            } else if (pod.failed || end.is_some_and(|end| !end.success))
                && (!spec.is_indexed() || pod.index.is_some())
                && !failed
                && counts
            {
                uncounted.failed.push(uid);
            }
            let uncounted = &self.status.uncounted_terminated_pods;
            if new_indexes.len() + uncounted.succeeded.len() + uncounted.failed.len()
                >= MOST_UNCOUNTED
            {
                full = true;
                break;
            }
        }
        if spec.is_indexed() {
            let all = self.before.union(&coracle_api::indexes::Indexes::of(new_indexes));
            self.status.succeeded = all.count();
            self.status.completed_indexes = all.to_string();
            self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
        }
        let uncounted = &self.status.uncounted_terminated_pods;
        !full && uncounted.succeeded.is_empty() && uncounted.failed.is_empty()
    }

    /// What was noted and holds no finalizer any more is counted.
    fn move_counted(&mut self) {
        let tracked: BTreeSet<&str> =
            self.pods.iter().filter(|pod| pod.tracked).map(|pod| pod.uid()).collect();
        let status = &mut self.status;
        let uncounted = &mut status.uncounted_terminated_pods;
        for (list, counter) in [
            (&mut uncounted.succeeded, &mut status.succeeded),
            (&mut uncounted.failed, &mut status.failed),
        ] {
            let before = list.len();
            list.retain(|uid| tracked.contains(uid.as_str()));
            *counter += (before - list.len()) as i64;
        }
    }

    /// Announces an end, and makes it final once nothing is left to wait for.
    pub(super) fn conclude(&mut self, end: &End, all_counted: bool) {
        let now = self.cluster.now;
        let [announced, last] = end.conditions();
        if !self.status.is(announced) {
            self.status.set(announced, "True", &end.reason, &end.message, now);
        }
        if !all_counted || self.status.terminating.unwrap_or(0) > 0 {
            return;
        }
        self.status.set(last, "True", &end.reason, &end.message, now);
        if end.success {
            self.status.completion_time = Some(now);
            if self.spec.completions.is_some_and(|wanted| self.status.succeeded > wanted) {
                let why = "Too many succeeded pods running after completion count reached";
                self.plan.warning(self.job, "TooManySucceededPods", why);
            }
            self.plan.event(self.job, "Completed", "Job completed");
        } else {
            self.plan.warning(self.job, &end.reason, end.message.clone());
        }
    }

    /// The status as a patch, if it changed.
    pub(super) fn status_patch(&self) -> Option<Value> {
        (self.status != *self.old).then(|| json!({"status": self.status.to_json()}))
    }
}
