//! Job: runs Pods until as many as declared have succeeded, and counts each exactly once.
//!
//! Upstream's way of counting: every Pod holds the finalizer [`FINALIZER`]. The UID of one that ended is first noted in
//! `status.uncountedTerminatedPods`, then its finalizer is taken off, and what is noted but holds no finalizer any more
//! moves into the counters. So a crash between any two writes neither loses a Pod nor counts it twice. Each run of
//! [`JobController::reconcile`] is one such step. What a Pod's failure means is in [`failure`], what the status says in
//! [`status`]; the next step of a Job's Pods is the scheduler.

mod failure;
mod status;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::indexes::Indexes;
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, LabelSelector, Object, Plan, kinds};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use self::failure::{Action, FailurePolicy};
pub(crate) use self::status::Status;
use self::work::Work;
use crate::{BURST, owners, pods};

/// Plans Pods for Jobs.
#[derive(Debug, Clone, Copy)]
pub struct JobController;

/// Held by a Job's Pods until they are counted.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const MANAGER: &str = "kubernetes.io/job-controller";
/// Keys of Pods that hold the finalizer and have no Job to count them; no Job is named so.
const STRAY: &str = "pod|";
/// UIDs noted in a status at most, which bounds its size.
const MOST_UNCOUNTED: usize = 500;

/// What controllers read of a Job.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct View {
    pub(crate) spec: Spec,
    pub(crate) status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    parallelism: Option<i64>,
    completions: Option<i64>,
    active_deadline_seconds: Option<i64>,
    backoff_limit: Option<i64>,
    backoff_limit_per_index: Option<i64>,
    max_failed_indexes: Option<i64>,
    ttl_seconds_after_finished: Option<i64>,
    completion_mode: Option<String>,
    suspend: Option<bool>,
    selector: Value,
    template: Value,
    pod_failure_policy: Option<FailurePolicy>,
    success_policy: Option<SuccessPolicy>,
    pod_replacement_policy: Option<String>,
    managed_by: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SuccessPolicy {
    rules: Vec<SuccessRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SuccessRule {
    succeeded_indexes: Option<String>,
    succeeded_count: Option<i64>,
}

impl Spec {
    fn is_indexed(&self) -> bool {
        self.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.suspend == Some(true)
    }

    fn completions(&self) -> i64 {
        self.completions.unwrap_or(0)
    }

    /// A Pod is replaced once it has ended, not as soon as it is told to.
    fn replaces_failed_only(&self) -> bool {
        self.pod_replacement_policy.as_deref() == Some("Failed")
            || self.pod_failure_policy.is_some()
    }
}

/// A Job's Pod and what was read of it.
#[derive(Clone)]
struct Pod<'a> {
    object: &'a Arc<Object>,
    view: std::borrow::Cow<'a, pods::PodView>,
    /// Its completion index, if it is one that the Job has.
    index: Option<i64>,
    /// It is still to be counted.
    tracked: bool,
    /// It counts as failed.
    failed: bool,
}

impl Pod<'_> {
    fn is_active(&self) -> bool {
        !self.object.is_deleting() && !self.view.is_finished()
    }

    fn is_terminating(&self) -> bool {
        self.object.is_deleting() && !self.view.is_finished() && !abandoned(self.object)
    }

    fn has_succeeded(&self) -> bool {
        self.view.phase() == "Succeeded"
    }

    fn uid(&self) -> &str {
        &self.object.meta.uid
    }

    /// When it ended, as well as can be told.
    fn finished_at(&self) -> Timestamp {
        let meta = &self.object.meta;
        let asked = || {
            let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
            meta.deletion_timestamp?.checked_sub(SignedDuration::from_secs(grace)).ok()
        };
        let unready = || self.view.condition("Ready")?.last_transition_time;
        self.view
            .finished_at()
            .or_else(asked)
            .or_else(unready)
            .or(meta.creation_timestamp)
            .unwrap_or_default()
    }
}

/// How a Job ends: the condition that says so first, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    success: bool,
    reason: String,
    message: String,
}

impl End {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.into(), message: message.into() }
    }

    /// The condition by which it is announced, while Pods still end, and the one that is final.
    fn conditions(&self) -> [&'static str; 2] {
        if self.success { ["SuccessCriteriaMet", "Complete"] } else { ["FailureTarget", "Failed"] }
    }
}

/// One reconciliation in progress.
struct Run<'a> {
    cluster: &'a Cluster,
    job: &'a Arc<Object>,
    spec: &'a Spec,
    old: &'a Status,
    /// All its Pods, by completion index if they have some.
    pods: Vec<Pod<'a>>,
    /// Succeeded and failed Pods, those not counted yet included.
    succeeded: i64,
    failed: i64,
    before: Indexes,
    succeeded_indexes: Indexes,
    failed_indexes: Option<Indexes>,
    /// Failed Pods that keep their finalizer until another one of their index knows how often it failed.
    held: BTreeMap<i64, usize>,
    /// The status to be written.
    status: Status,
    plan: Plan,
}

impl Controller for JobController {
    fn name(&self) -> &'static str {
        "job"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == kinds::JOB.resource {
            let mut keys = vec![Key::of(object)];
            let live = cluster.get(&kinds::JOB, &object.meta.namespace, &object.meta.name);
            if live.is_none_or(|live| live.meta.uid != object.meta.uid) {
                // Its Pods have nobody to count them any more; those that it was made to leave behind are nobody's.
                let owned = cluster.owned_of_kind(&object.meta.uid, &kinds::POD);
                let orphans = cluster.orphans_in(&kinds::POD, &object.meta.namespace);
                let left = owned.chain(orphans.filter(|pod| selects(object, pod)));
                keys.extend(left.filter(|pod| is_tracked(pod)).map(|pod| stray(pod)));
            }
            return keys;
        }
        if !object.kind.is_pod() {
            return Vec::new();
        }
        match object.controller() {
            Some(owner) if owner.kind == kinds::JOB.kind => {
                match owners::controller_of(cluster, object, &kinds::JOB) {
                    Some(job) => vec![Key::of(job)],
                    None if is_tracked(object) => vec![stray(object)],
                    None => Vec::new(),
                }
            }
            Some(_) => Vec::new(),
            None if object.meta.labels.is_empty() => Vec::new(),
            None => {
                let jobs = cluster.list_in(&kinds::JOB, &object.meta.namespace);
                let mut keys: Vec<_> =
                    jobs.filter(|job| selects(job, object)).map(|job| Key::of(job)).collect();
                if keys.is_empty() && is_tracked(object) {
                    keys.push(stray(object));
                }
                keys
            }
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        if let Some(name) = key.name.strip_prefix(STRAY) {
            let pod = cluster.get(&kinds::POD, &key.namespace, name);
            let counted_by = |pod: &Arc<Object>| owners::controller_of(cluster, pod, &kinds::JOB);
            if let Some(pod) = pod.filter(|pod| is_tracked(pod) && counted_by(pod).is_none()) {
                untrack(pod, &mut plan);
            }
            return plan;
        }
        let Some(job) = cluster.get(&kinds::JOB, &key.namespace, &key.name) else { return plan };
        let Ok(view) = job.decode::<View>() else { return plan };
        if view.spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGER) {
            return plan;
        }
        let Ok(selector) = LabelSelector::from_value(Some(&view.spec.selector)) else {
            return plan;
        };
        let finalizer = Some(FINALIZER);
        let pods =
            owners::claim(cluster, &kinds::POD, job, &selector, |_| true, finalizer, &mut plan);
        if !plan.writes.is_empty() {
            return plan;
        }
        if let Some(at) = view.status.finished_at() {
            for pod in pods.into_iter().filter(|pod| is_tracked(pod)) {
                untrack(pod, &mut plan);
            }
            expire(cluster, job, &view.spec, at, &mut plan);
            return plan;
        }
        Run::new(cluster, job, &view, pods, plan).step()
    }
}

/// A finished Job goes after `ttlSecondsAfterFinished`.
fn expire(cluster: &Cluster, job: &Object, spec: &Spec, at: Timestamp, plan: &mut Plan) {
    let Some(ttl) = spec.ttl_seconds_after_finished.filter(|_| !job.is_deleting()) else { return };
    let left = SignedDuration::from_secs(ttl).saturating_sub(cluster.now.duration_since(at));
    if left.is_positive() {
        plan.requeue(Duration::try_from(left).unwrap_or_default());
    } else if plan.writes.is_empty() {
        plan.delete(job, Propagation::Foreground);
    }
}

fn selects(job: &Object, pod: &Object) -> bool {
    job.decode::<View>().is_ok_and(|view| {
        LabelSelector::from_value(Some(&view.spec.selector))
            .is_ok_and(|selector| selector.matches(&pod.meta.labels))
    })
}

/// A deleted Pod that no node has, or has any more.
fn abandoned(pod: &Object) -> bool {
    pod.node_name.is_none() || pod.meta.deletion_grace_period_seconds == Some(0)
}

fn is_tracked(pod: &Object) -> bool {
    pod.meta.finalizers.iter().any(|f| f == FINALIZER)
}

fn stray(pod: &Object) -> Key {
    Key::new(pod.meta.namespace.as_str(), format!("{STRAY}{}", pod.meta.name))
}

fn untrack(pod: &Object, plan: &mut Plan) {
    let left: Vec<_> = pod.meta.finalizers.iter().filter(|f| *f != FINALIZER).collect();
    plan.patch(pod, json!({"metadata": {"finalizers": left}}));
}

/// A number in an annotation.
fn number(pod: &Object, annotation: &str) -> Option<i64> {
    pod.meta.annotations.get(annotation)?.parse().ok()
}

impl<'a> Run<'a> {
    fn new(
        cluster: &'a Cluster,
        job: &'a Arc<Object>,
        view: &'a View,
        claimed: Vec<&'a Arc<Object>>,
        plan: Plan,
    ) -> Self {
        let (spec, old) = (&view.spec, &view.status);
        let completions = spec.completions();
        let read = |object: &'a Arc<Object>| {
            let view = pods::view(object);
            let failed = match view.phase() {
                "Failed" => true,
                // One that was deleted may never have the chance to say that it failed.
                "Succeeded" => false,
                _ => object.is_deleting() && (abandoned(object) || !spec.replaces_failed_only()),
            };
            let index = number(object, INDEX).filter(|i| (0..completions).contains(i));
            let index = index.filter(|_| spec.is_indexed());
            Pod { object, view, index, tracked: is_tracked(object), failed }
        };
        let mut pods: Vec<Pod<'a>> = claimed.into_iter().map(read).collect();
        pods.sort_by_key(|pod| pod.index);
        Self {
            cluster,
            job,
            spec,
            old,
            pods,
            succeeded: 0,
            failed: 0,
            before: Indexes::read(&old.completed_indexes, completions),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            held: BTreeMap::new(),
            status: old.clone(),
            plan,
        }
    }

    fn step(mut self) -> Plan {
        if self.old.start_time.is_none() && !self.spec.is_suspended() {
            self.status.start_time = Some(self.cluster.now);
        }
        self.count();
        let mut end = self.end();
        let mut work = Work::default();
        let mut doomed = BTreeSet::new();
        if end.is_some() {
            doomed = self.active().take(BURST).collect();
            if self.active().count() > doomed.len() {
                // Not announced before none is left.
                end = None;
            }
        } else if !self.job.is_deleting() {
            work = self.manage();
            doomed.clone_from(&work.spared);
            end = self.completed(work.active);
            if end.is_none() {
                self.note_suspension();
            }
        }
        self.tell_counts(&doomed);
        let all_counted = self.track(end.as_ref(), &work.spared);
        if let Some(end) = &end {
            self.conclude(end, all_counted);
        }
        self.finish(&doomed, work.created)
    }

    /// Places of the active Pods.
    fn active(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.pods.len()).filter(|at| self.pods[*at].is_active())
    }

    /// What has succeeded and failed so far, Pods that are not counted yet included.
    fn count(&mut self) {
        let (spec, old) = (self.spec, self.old);
        let known = &old.uncounted_terminated_pods;
        self.succeeded = old.succeeded + known.succeeded.len() as i64;
        self.failed = old.failed + known.failed.len() as i64;
        let valid = |pod: &&Pod<'_>| pod.tracked && (!spec.is_indexed() || pod.index.is_some());
        for pod in self.pods.iter().filter(valid) {
            let noted = |list: &[String]| list.iter().any(|uid| uid == pod.uid());
            if pod.has_succeeded() && !noted(&known.succeeded) {
                self.succeeded += 1;
            } else if pod.failed && !noted(&known.failed) && self.counts(pod) {
                self.failed += 1;
            }
        }
        if !spec.is_indexed() {
            return;
        }
        let tracked = || self.pods.iter().filter(|pod| pod.tracked);
        let new = tracked().filter(|pod| pod.has_succeeded()).filter_map(|pod| pod.index);
        self.succeeded_indexes = self.before.union(&Indexes::of(new));
        self.succeeded = self.succeeded_indexes.count();
        if let Some(limit) = spec.backoff_limit_per_index {
            let gone = |pod: &&Pod<'_>| pod.failed && self.fails_index(pod, limit);
            let new = Indexes::of(tracked().filter(gone).filter_map(|pod| pod.index));
            let before = old.failed_indexes.as_deref().unwrap_or_default();
            self.failed_indexes = Some(Indexes::read(before, spec.completions()).union(&new));
            self.hold();
        }
    }

    /// Whether a failed Pod counts against `backoffLimit`.
    fn counts(&self, pod: &Pod<'_>) -> bool {
        self.action(pod) != Some(Action::Ignore)
    }

    fn action(&self, pod: &Pod<'_>) -> Option<Action> {
        let policy = self.spec.pod_failure_policy.as_ref()?;
        policy.verdict(pod.object).map(|verdict| verdict.action)
    }

    /// Whether and how the Job ends, by what its Pods did so far.
    fn end(&mut self) -> Option<End> {
        for (kind, success) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
            if let Some(known) = self.old.condition(kind).filter(|c| c.status == "True") {
                let (reason, message) = (known.reason.clone(), known.message.clone());
                return Some(End { success, reason, message });
            }
        }
        let policy = self.spec.pod_failure_policy.as_ref();
        let mut verdicts = policy.into_iter().flat_map(|policy| {
            self.pods.iter().filter(|pod| pod.failed).filter_map(|pod| policy.verdict(pod.object))
        });
        let fatal = verdicts.find(|verdict| verdict.action == Action::FailJob);
        if let Some(verdict) = fatal {
            return Some(End::failure("PodFailurePolicy", verdict.message));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed > limit || self.restarts_exceed(limit) {
            let why = "Job has reached the specified backoff limit";
            return Some(End::failure("BackoffLimitExceeded", why));
        }
        if let (Some(seconds), Some(from), false) =
            (self.spec.active_deadline_seconds, self.status.start_time, self.spec.is_suspended())
        {
            let ran = self.cluster.now.duration_since(from);
            let left = SignedDuration::from_secs(seconds).saturating_sub(ran);
            if !left.is_positive() {
                let why = "Job was active longer than specified deadline";
                return Some(End::failure("DeadlineExceeded", why));
            }
            self.plan.requeue(Duration::try_from(left).unwrap_or_default());
        }
        if let Some(failed) = &self.failed_indexes {
            let count = failed.count();
            if self.spec.max_failed_indexes.is_some_and(|most| count > most) {
                let why = "Job has exceeded the specified maximal number of failed indexes";
                return Some(End::failure("MaxFailedIndexesExceeded", why));
            }
            let all = count + self.succeeded_indexes.count() >= self.spec.completions();
            if count > 0 && all {
                return Some(End::failure("FailedIndexes", "Job has failed indexes"));
            }
        }
        self.success_policy()
    }

    /// Containers that are restarted in place count as failures do.
    fn restarts_exceed(&self, limit: i64) -> bool {
        if self.spec.template["spec"]["restartPolicy"] != "OnFailure" {
            return false;
        }
        let running = self.pods.iter().filter(|pod| !pod.view.is_finished());
        let restarts: i64 = running.map(|pod| i64::from(pod.view.restarts())).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn success_policy(&self) -> Option<End> {
        let policy = self.spec.success_policy.as_ref().filter(|_| self.spec.is_indexed())?;
        let done = &self.succeeded_indexes;
        if done.count() == 0 {
            return None;
        }
        let met = policy.rules.iter().position(|rule| match &rule.succeeded_indexes {
            Some(wanted) => {
                let wanted = Indexes::read(wanted, self.spec.completions());
                let common = done.count_common(&wanted);
                common >= rule.succeeded_count.unwrap_or(wanted.count())
            }
            None => rule.succeeded_count.is_some_and(|count| done.count() >= count),
        })?;
        let message = format!("Matched rules at index {met}");
        Some(End { success: true, reason: "SuccessPolicy".into(), message })
    }

    /// The Job is complete with so many active Pods left.
    fn completed(&self, active: usize) -> Option<End> {
        let enough = match self.spec.completions {
            None => self.succeeded > 0,
            Some(wanted) => self.succeeded >= wanted,
        };
        (enough && active == 0).then(|| End {
            success: true,
            reason: "CompletionsReached".into(),
            message: "Reached expected number of succeeded pods".into(),
        })
    }

    fn note_suspension(&mut self) {
        let now = self.cluster.now;
        if self.spec.is_suspended() {
            if self.status.set("Suspended", "True", "JobSuspended", "Job suspended", now) {
                self.plan.event(self.job, "Suspended", "Job suspended");
            }
        } else if self.old.condition("Suspended").is_some()
            && self.status.set("Suspended", "False", "JobResumed", "Job resumed", now)
        {
            self.plan.event(self.job, "Resumed", "Job resumed");
            // A deadline is counted from when it last began to run.
            self.status.start_time = Some(now);
        }
    }

    /// Active, ready and terminating Pods, as they will be once the doomed ones were told.
    fn tell_counts(&mut self, doomed: &BTreeSet<usize>) {
        let stays = |at: &usize| !doomed.contains(at);
        self.status.active = self.active().filter(stays).count() as i64;
        let ready = self.active().filter(stays).filter(|at| self.pods[*at].view.is_ready());
        self.status.ready = Some(ready.count() as i64);
        let going = self.pods.iter().filter(|pod| pod.is_terminating()).count();
        self.status.terminating = Some((going + doomed.len()) as i64);
    }
}

#[cfg(test)]
mod tests;
