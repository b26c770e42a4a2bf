//! CronJob: creates a Job whenever its schedule says so.
//!
//! A Job's name tells the minute that it is for, so that one planned twice collides with itself, and an annotation tells the
//! time: whether a time has been served is read off the Jobs, and the status follows.

use std::time::Duration;

use coracle_api::cron::{self, Schedule};
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan, kinds};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::job::View as JobView;
use crate::{owners, patch};

/// Plans Jobs for CronJobs.
#[derive(Debug, Clone, Copy)]
pub struct CronJobController;

/// On a Job: the time that it was created for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// How long after its time a key runs: clocks are not that exact.
const SLACK: SignedDuration = SignedDuration::from_millis(100);
/// More missed times than these are a sign that something is wrong.
const MANY: i64 = 100;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    schedule: String,
    time_zone: Option<String>,
    starting_deadline_seconds: Option<i64>,
    concurrency_policy: String,
    suspend: Option<bool>,
    job_template: Value,
    successful_jobs_history_limit: Option<i64>,
    failed_jobs_history_limit: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    active: Vec<Reference>,
    last_schedule_time: Option<Timestamp>,
    last_successful_time: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Reference {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    api_version: String,
    resource_version: String,
}

impl Reference {
    fn to(job: &Object) -> Self {
        Self {
            kind: job.kind.kind.into(),
            namespace: job.meta.namespace.clone(),
            name: job.meta.name.clone(),
            uid: job.meta.uid.clone(),
            api_version: job.kind.api_version(),
            resource_version: job.meta.resource_version.to_string(),
        }
    }
}

/// One reconciliation in progress.
struct Run<'a> {
    cluster: &'a Cluster,
    object: &'a Object,
    spec: &'a Spec,
    status: Status,
    /// Jobs to be deleted.
    doomed: Vec<&'a Object>,
    created: Option<Value>,
    plan: Plan,
}

impl Controller for CronJobController {
    fn name(&self) -> &'static str {
        "cronjob"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == kinds::CRON_JOB.resource {
            return vec![Key::of(object)];
        }
        let owner = object.controller().filter(|_| object.kind.resource == kinds::JOB.resource);
        owner
            .filter(|owner| owner.kind == kinds::CRON_JOB.kind)
            .map(|owner| Key::new(object.meta.namespace.as_str(), owner.name.as_str()))
            .into_iter()
            .collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let Some(object) = cluster.get(&kinds::CRON_JOB, &key.namespace, &key.name) else {
            return Plan::none();
        };
        let Ok(view) = object.decode::<View>() else { return Plan::none() };
        let mut run = Run {
            cluster,
            object,
            spec: &view.spec,
            status: view.status.clone(),
            doomed: Vec::new(),
            created: None,
            plan: Plan::none(),
        };
        let jobs = run.jobs();
        run.follow(&jobs);
        run.forget(&jobs);
        if !object.is_deleting() && view.spec.suspend != Some(true) {
            run.schedule();
        }
        run.finish(&view.status)
    }
}

impl<'a> Run<'a> {
    /// Its Jobs, with what they say of themselves.
    fn jobs(&self) -> Vec<(&'a Object, JobView)> {
        let meta = &self.object.meta;
        self.cluster
            .owned_of_kind(&meta.uid, &kinds::JOB)
            .filter(|job| job.meta.namespace == meta.namespace)
            .filter(|job| job.controller().is_some_and(|owner| owner.uid == meta.uid))
            .filter_map(|job| Some((&**job, job.decode::<JobView>().ok()?.into_owned())))
            .collect()
    }

    /// Brings the status up to date with the Jobs.
    fn follow(&mut self, jobs: &[(&Object, JobView)]) {
        for (job, view) in jobs {
            let (name, uid) = (&job.meta.name, &job.meta.uid);
            let listed = self.status.active.iter().position(|known| known.uid == *uid);
            let finished = view.status.finished();
            let scheduled: Option<Timestamp> =
                job.meta.annotations.get(SCHEDULED).and_then(|time| time.parse().ok());
            self.status.last_schedule_time = self.status.last_schedule_time.max(scheduled);
            match (listed, finished) {
                (Some(at), Some(end)) => {
                    self.status.active.remove(at);
                    let message = format!("Saw completed job: {name}, condition: {}", end.r#type);
                    self.plan.event(self.object, "SawCompletedJob", message);
                }
                (None, None) if job.is_deleting() => {}
                (None, None) if scheduled.is_some() => {
                    self.status.active.push(Reference::to(job));
                }
                (None, None) => {
                    let message =
                        format!("Saw a job that the controller did not create or forgot: {name}");
                    self.plan.warning(self.object, "UnexpectedJob", message);
                }
                _ => {}
            }
            if finished.is_some_and(|end| end.r#type == "Complete") {
                let done = view.status.completion_time;
                self.status.last_successful_time = self.status.last_successful_time.max(done);
            }
        }
        let (plan, object) = (&mut self.plan, self.object);
        self.status.active.retain(|known| {
            let there = jobs.iter().any(|(job, _)| job.meta.uid == known.uid);
            if !there {
                let message = format!("Active job went missing: {}", known.name);
                plan.event(object, "MissingJob", message);
            }
            there
        });
    }

    /// Finished Jobs beyond the limits go, oldest first.
    fn forget(&mut self, jobs: &[(&'a Object, JobView)]) {
        for (kind, limit) in [
            ("Complete", self.spec.successful_jobs_history_limit),
            ("Failed", self.spec.failed_jobs_history_limit),
        ] {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
            let ended = |view: &JobView| view.status.finished().is_some_and(|c| c.r#type == kind);
            let mut ended: Vec<_> = jobs.iter().filter(|(_, view)| ended(view)).collect();
            ended.sort_by_key(|(job, view)| (view.status.started_at(), job.meta.name.as_str()));
            let excess = ended.len().saturating_sub(limit);
            let old = ended[..excess].iter().map(|(job, _)| *job);
            self.doomed.extend(old.filter(|job| !job.is_deleting()));
        }
    }

    /// Creates the Job that is due, if one is, and looks again when the next one will be.
    fn schedule(&mut self) {
        let spec = self.spec;
        let zone = match cron::zone(spec.time_zone.as_deref()) {
            Ok(zone) => zone,
            Err(why) => {
                let name = spec.time_zone.as_deref().unwrap_or_default();
                let message = format!("invalid timeZone: {name:?}: {why}");
                return self.plan.warning(self.object, "UnknownTimeZone", message);
            }
        };
        let schedule: Schedule = match spec.schedule.parse() {
            Ok(schedule) => schedule,
            Err(why) => {
                let message = format!("unparseable schedule: {:?} : {why}", spec.schedule);
                return self.plan.warning(self.object, "UnparseableSchedule", message);
            }
        };
        let now = self.cluster.now;
        let created = self.object.meta.creation_timestamp.unwrap_or(now);
        let last = self.status.last_schedule_time.unwrap_or(created);
        let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        let earliest = deadline.and_then(|deadline| now.checked_sub(deadline).ok());
        let (due, missed) = latest(&schedule, &zone, earliest.unwrap_or(last).max(last), now);
        if missed > MANY {
            self.plan.warning(
                self.object,
                "TooManyMissedTimes",
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
            );
        }
        if let Some(due) = due {
            self.start(due, deadline, &zone);
        }
        let base = latest(&schedule, &zone, last, now).0.unwrap_or(last);
        if let Some(next) = schedule.next(base, &zone) {
            let wait = (next.duration_since(now) + SLACK).max(SLACK);
            self.plan.requeue(Duration::try_from(wait).unwrap_or_default());
        }
    }

    /// Creates the Job for a time, unless it is too late, was done already, or another one is in the way.
    fn start(&mut self, due: Timestamp, deadline: Option<SignedDuration>, zone: &TimeZone) {
        let meta = &self.object.meta;
        if deadline.is_some_and(|deadline| self.cluster.now.duration_since(due) > deadline) {
            let time = due.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {time}");
            return self.plan.warning(self.object, "MissSchedule", message);
        }
        let name = format!("{}-{}", meta.name, due.as_second() / 60);
        if self.status.last_schedule_time == Some(due)
            || owners::is_terminating(self.cluster, &meta.namespace)
        {
            return;
        }
        if self.cluster.get(&kinds::JOB, &meta.namespace, &name).is_some() {
            // Not ours, or its time would be the last that was served.
            let message = format!("Error creating job: jobs.batch \"{name}\" already exists");
            return self.plan.warning(self.object, "FailedCreate", message);
        }
        match self.spec.concurrency_policy.as_str() {
            "Forbid" if !self.status.active.is_empty() => {
                return self.plan.event(
                    self.object,
                    "JobAlreadyActive",
                    "Not starting job because prior execution is running and concurrency policy is Forbid",
                );
            }
            "Replace" => {
                for known in std::mem::take(&mut self.status.active) {
                    let job = self.cluster.get(&kinds::JOB, &known.namespace, &known.name);
                    let job = job.filter(|job| job.meta.uid == known.uid && !job.is_deleting());
                    self.doomed.extend(job.map(|job| &**job));
                }
            }
            _ => {}
        }
        self.created = Some(self.job(&name, due, zone));
    }

    fn job(&self, name: &str, due: Timestamp, zone: &TimeZone) -> Value {
        let template = &self.spec.job_template;
        let mut metadata = json!({
            "name": name,
            "namespace": self.object.meta.namespace,
            "ownerReferences": [self.object.owner_ref()],
        });
        for field in ["labels", "annotations"] {
            if let Some(value) = template["metadata"].get(field).filter(|v| !v.is_null()) {
                metadata[field] = value.clone();
            }
        }
        let due = due.to_zoned(zone.clone());
        let format = if due.offset().is_zero() { "%FT%TZ" } else { "%FT%T%:z" };
        metadata["annotations"][SCHEDULED] = due.strftime(format).to_string().into();
        json!({"kind": "Job", "apiVersion": "batch/v1", "metadata": metadata, "spec": template["spec"]})
    }

    /// Turns what was decided into writes. Creations of Jobs tell their own stories, in the status of the next run.
    fn finish(mut self, old: &Status) -> Plan {
        if self.status != *old {
            let stamp = |at: Option<Timestamp>| at.map_or(Value::Null, |at| patch::time(at).into());
            let status = json!({
                "active": if self.status.active.is_empty() { Value::Null } else { json!(self.status.active) },
                "lastScheduleTime": stamp(self.status.last_schedule_time),
                "lastSuccessfulTime": stamp(self.status.last_successful_time),
            });
            self.plan.patch_status(self.object, json!({"status": status}));
        }
        for job in &self.doomed {
            self.plan.delete(job, Propagation::Background);
            let message = format!("Deleted job {}", job.meta.name);
            self.plan.event(self.object, "SuccessfulDelete", message);
        }
        if let Some(job) = self.created {
            let name = job["metadata"]["name"].as_str().unwrap_or_default();
            self.plan.event(self.object, "SuccessfulCreate", format!("Created job {name}"));
            self.plan.create(&kinds::JOB, job);
        }
        self.plan
    }
}

/// The last time that it was due after `earliest` and no later than `now`, and about how many there were: like upstream's
/// `mostRecentScheduleTime`, without a walk over years of missed minutes.
fn latest(
    schedule: &Schedule,
    zone: &TimeZone,
    earliest: Timestamp,
    now: Timestamp,
) -> (Option<Timestamp>, i64) {
    let Some(first) = schedule.next(earliest, zone).filter(|first| *first <= now) else {
        return (None, 0);
    };
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return (Some(first), 1);
    };
    let period = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / period + 1;
    // From a little before now, then from further back: schedules need not be regular.
    let mut back = SignedDuration::from_secs(period * 2);
    loop {
        let from = now.checked_sub(back).map_or(second, |from| from.max(second));
        let mut last = None;
        let mut at = from;
        while let Some(next) = schedule.next(at, zone).filter(|next| *next <= now) {
            last = Some(next);
            at = next;
        }
        if last.is_some() || from == second {
            return (last.or(Some(second)), missed);
        }
        back = back.saturating_mul(4);
    }
}

#[cfg(test)]
mod tests;
