//! How many Pods a Job runs at a time: which to make, which to spare, when to wait.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use coracle_api::indexes::Indexes;
use coracle_api::plan::Propagation;
use coracle_api::{Plan, kinds};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{FINALIZER, INDEX, Run};
use crate::{BURST, owners, pods};

/// What to do about a Job that goes on.
#[derive(Default)]
pub(super) struct Work {
    /// Active Pods once it is done.
    pub(super) active: usize,
    /// Active Pods that are too many; they end uncounted.
    pub(super) spared: BTreeSet<usize>,
    pub(super) created: Vec<Value>,
}

impl Run<'_> {
    /// Upstream's `manageJob`: deletions first, creations when there is nothing to delete.
    pub(super) fn manage(&mut self) -> Work {
        let active = self.active().count();
        let wanted = if self.spec.is_suspended() { 0 } else { self.wanted(active) };
        let spared = self.spare(active.saturating_sub(wanted));
        if !spared.is_empty() || self.spec.is_suspended() {
            return Work { active: active - spared.len(), spared, created: Vec::new() };
        }
        let terminating = if self.spec.replaces_failed_only() {
            self.pods.iter().filter(|pod| pod.is_terminating()).count()
        } else {
            0
        };
        let missing = wanted.saturating_sub(terminating + active).min(BURST);
        let created =
            if missing == 0 || owners::is_terminating(self.cluster, &self.job.meta.namespace) {
                Vec::new()
            } else {
                self.create(missing)
            };
        // What waits for its back-off is on its way all the same.
        Work { active: active + missing, spared, created }
    }

    fn wanted(&self, active: usize) -> usize {
        let parallelism = usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0);
        match self.spec.completions {
            // Once one has succeeded, the others finish what they do.
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(wanted) => parallelism.min(usize::try_from(wanted - self.succeeded).unwrap_or(0)),
        }
    }

    /// The active Pods that can best be spared, at least so many: those without an index of their own, then the least far.
    fn spare(&self, at_least: usize) -> BTreeSet<usize> {
        let rank = |at: &usize| {
            let pod = &self.pods[*at];
            let phase = match pod.view.phase() {
                "Pending" => 0,
                "Running" => 2,
                _ => 1,
            };
            let age = std::cmp::Reverse(pod.object.meta.creation_timestamp);
            let place = (pod.object.node_name.is_some(), phase, pod.view.is_ready());
            (place, age, pod.object.meta.name.as_str())
        };
        let mut ranked: Vec<usize> = self.active().collect();
        ranked.sort_by_key(rank);
        let mut spared = BTreeSet::new();
        if self.spec.is_indexed() {
            let mut seen = HashSet::new();
            for at in ranked.iter().rev() {
                if !self.pods[*at].index.is_some_and(|index| seen.insert(index)) {
                    spared.insert(*at);
                }
            }
        }
        for at in ranked {
            if spared.len() >= at_least {
                break;
            }
            spared.insert(at);
        }
        while spared.len() > BURST {
            spared.pop_last();
        }
        spared
    }

    fn create(&mut self, missing: usize) -> Vec<Value> {
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !per_index {
            let wait = self.wait();
            if wait.is_positive() {
                self.look_again_in(wait);
                return Vec::new();
            }
        }
        let mut template = self.spec.template.clone();
        template["metadata"]["finalizers"] = {
            let known = template["metadata"]["finalizers"].as_array().into_iter().flatten();
            let known = known.filter_map(Value::as_str);
            json!(known.chain([FINALIZER]).collect::<BTreeSet<_>>())
        };
        let mut names = pods::Names::of(self.cluster, self.job);
        if !self.spec.is_indexed() {
            let base = format!("{}-", self.job.meta.name);
            let pod = pods::from_template(self.job, &template);
            let named = |_| {
                let mut pod = pod.clone();
                names.name(&mut pod, &base);
                pod
            };
            return (0..missing).map(named).collect();
        }
        add_index_variable(&mut template);
        let pod = pods::from_template(self.job, &template);
        let mut created = Vec::new();
        let mut shortest: Option<SignedDuration> = None;
        for index in self.pending(missing) {
            let replaced = self.held.get(&index).map(|at| &self.pods[*at]);
            let mut pod = pod.clone();
            let metadata = &mut pod["metadata"];
            if per_index {
                let wait = self.wait_for_index(replaced);
                if wait.is_positive() {
                    shortest = Some(shortest.map_or(wait, |known| known.min(wait)));
                    continue;
                }
                let [failures, ignored] = self.failure_counts(replaced);
                metadata["annotations"][failures.0] = failures.1.to_string().into();
                if ignored.1 > 0 {
                    metadata["annotations"][ignored.0] = ignored.1.to_string().into();
                }
            }
            for place in ["annotations", "labels"] {
                metadata[place][INDEX] = index.to_string().into();
            }
            let job = self.job.meta.name.as_str();
            pod["spec"]["hostname"] = format!("{job}-{index}").into();
            names.name(&mut pod, &base_of(job, index));
            created.push(pod);
        }
        if let Some(wait) = shortest {
            self.look_again_in(wait);
        }
        created
    }

    fn look_again_in(&mut self, wait: SignedDuration) {
        self.plan.requeue(Duration::try_from(wait).unwrap_or_default());
    }

    /// The first indexes that neither have ended nor run.
    fn pending(&self, most: usize) -> Vec<i64> {
        let waits = self.spec.replaces_failed_only();
        let busy = self.pods.iter().filter(|p| p.is_active() || (waits && p.is_terminating()));
        let mut taken =
            Indexes::of(busy.filter_map(|pod| pod.index)).union(&self.succeeded_indexes);
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.gaps(self.spec.completions()).take(most).collect()
    }

    /// Turns what was decided into writes: the status, which carries the precondition, before all others.
    pub(super) fn finish(mut self, doomed: &BTreeSet<usize>, created: Vec<Value>) -> Plan {
        if let Some(status) = self.status_patch() {
            self.plan.patch_status(self.job, status);
            self.plan.writes.rotate_right(1);
        }
        let doomed: Vec<_> = doomed.iter().map(|at| self.pods[*at].object).collect();
        for pod in &doomed {
            self.plan.delete(pod, Propagation::Background);
        }
        let gone = doomed.iter().map(|pod| pod.meta.name.as_str());
        pods::tell(&mut self.plan, self.job, "SuccessfulDelete", "Deleted", gone);
        let made = created.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
        pods::tell(&mut self.plan, self.job, "SuccessfulCreate", "Created", made);
        for pod in created {
            self.plan.create(&kinds::POD, pod);
        }
        self.plan
    }
}

/// `job-3-`, cut so that what is generated still tells the index.
fn base_of(job: &str, index: i64) -> String {
    const LIMIT: usize = 63 - 5;
    let end = format!("-{index}-");
    format!("{}{end}", &job[..job.len().min(LIMIT - end.len())])
}

/// Tells every container its index, unless it has a variable of that name.
fn add_index_variable(template: &mut Value) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let path = format!("metadata.labels['{INDEX}']");
    for list in ["containers", "initContainers"] {
        let containers = template["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if container["env"].is_null() {
                container["env"] = json!([]);
            }
            if let Some(env) = container["env"].as_array_mut()
                && !env.iter().any(|variable| variable["name"] == NAME)
            {
                env.push(json!({"name": NAME, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
            }
        }
    }
}
