//! DaemonSet: a Pod on every node that its template allows.
//!
//! Its Pods name their node by affinity, and the scheduler binds them. What is on which node is in [`place`], how a new
//! template gets there in [`update`].

mod back_off;
mod place;
mod update;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::plan::{Controller, Key, Memory, Propagation};
use coracle_api::{Cluster, LabelSelector, Object, Plan, kinds};
use serde::Deserialize;
use serde_json::{Value, json};

use self::back_off::BackOffs;
use self::place::Place;
use crate::history::{HASH, History};
use crate::patch::count;
use crate::{BURST, owners, pods};

/// Plans Pods for DaemonSets.
#[derive(Debug, Clone, Copy)]
pub struct DaemonSetController;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    selector: Value,
    template: Value,
    update_strategy: Strategy,
    min_ready_seconds: i64,
    revision_history_limit: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Strategy {
    r#type: String,
    rolling_update: RollingUpdate,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RollingUpdate {
    max_unavailable: Value,
    max_surge: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    current_number_scheduled: i64,
    number_misscheduled: i64,
    desired_number_scheduled: i64,
    number_ready: i64,
    observed_generation: i64,
    updated_number_scheduled: i64,
    number_available: i64,
    number_unavailable: i64,
    collision_count: i32,
}

impl Spec {
    fn is_surging(&self) -> bool {
        self.update_strategy.r#type == "RollingUpdate"
            && pods::share(&self.update_strategy.rolling_update.max_surge, 100, true) > 0
    }
}

/// One of its Pods.
#[derive(Clone)]
struct Pod<'a> {
    object: &'a Arc<Object>,
    view: Cow<'a, pods::PodView>,
    /// It has the current template.
    updated: bool,
}

/// What is to be done about its Pods.
#[derive(Default)]
struct Work<'a> {
    create_on: Vec<&'a str>,
    delete: Vec<&'a Arc<Object>>,
}

/// One reconciliation in progress.
struct Run<'a> {
    cluster: &'a Cluster,
    set: &'a Arc<Object>,
    spec: &'a Spec,
    place: Place,
    /// Its Pods that run or are to run on each node.
    pods: BTreeMap<String, Vec<Pod<'a>>>,
    /// How often Pods failed, as far as that is remembered.
    back_offs: BackOffs,
    plan: Plan,
}

impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == kinds::DAEMON_SET.resource {
            return vec![Key::of(object)];
        }
        if object.kind.resource == kinds::NODE.resource {
            return place::of_node(cluster, object);
        }
        if !object.kind.is_pod() && object.kind.resource != kinds::CONTROLLER_REVISION.resource {
            return Vec::new();
        }
        owners::wakes(cluster, &kinds::DAEMON_SET, object, |set| {
            LabelSelector::from_value(Some(&set.decode::<View>().ok()?.spec.selector)).ok()
        })
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        reconcile(cluster, key, BackOffs::default())
    }

    /// What is remembered is how often Pods failed: it makes their successors wait, and nothing else depends on it.
    fn reconcile_with(&self, cluster: &Cluster, key: &Key, memory: Option<&Memory>) -> Plan {
        let known = memory.and_then(|memory| memory.downcast_ref::<BackOffs>());
        let mut plan = reconcile(cluster, key, known.cloned().unwrap_or_default());
        if plan.memory.is_none() {
            plan.memory = memory.cloned();
        }
        plan
    }
}

fn reconcile(cluster: &Cluster, key: &Key, back_offs: BackOffs) -> Plan {
    let mut plan = Plan::none();
    let Some(set) = cluster.get(&kinds::DAEMON_SET, &key.namespace, &key.name) else {
        return plan;
    };
    let Ok(view) = set.decode::<View>() else { return plan };
    let (spec, old) = (&view.spec, &view.status);
    let Ok(selector) = LabelSelector::from_value(Some(&spec.selector)) else { return plan };
    let claimed = owners::claim(cluster, &kinds::POD, set, &selector, |_| true, None, &mut plan);
    let history = History::of(cluster, set, &selector, &spec.template, &mut plan);
    if !plan.writes.is_empty() {
        return plan;
    }
    let mut collisions = old.collision_count;
    let mut hash = None;
    if !set.is_deleting() {
        let current =
            history.settle(cluster, set, &spec.template, HASH, &mut collisions, &mut plan);
        if collisions != old.collision_count {
            plan.patch_status(set, json!({"status": {"collisionCount": collisions}}));
        }
        if !plan.writes.is_empty() {
            return plan;
        }
        hash = current.map(|revision| revision.hash().to_owned());
    }
    let mut run = Run {
        cluster,
        set,
        spec,
        place: Place::of(&spec.template),
        pods: BTreeMap::new(),
        back_offs,
        plan,
    };
    run.locate(claimed, hash.as_deref());
    let mut work = Work::default();
    if let Some(hash) = &hash {
        work = run.manage();
        if work.create_on.is_empty()
            && work.delete.is_empty()
            && spec.update_strategy.r#type != "OnDelete"
        {
            work = run.roll();
        }
        let live = |revision: &str| {
            let mut all = run.pods.values().flatten();
            all.any(|pod| pod.object.meta.labels.get(HASH).is_some_and(|h| h == revision))
        };
        history.truncate(
            spec.revision_history_limit,
            |revision| revision.hash() == hash || live(revision.hash()),
            &mut run.plan,
        );
    }
    run.finish(old, work, hash)
}

impl<'a> Run<'a> {
    /// Sorts its Pods by node. One that ended and is going already counts no more.
    fn locate(&mut self, claimed: Vec<&'a Arc<Object>>, hash: Option<&str>) {
        for object in claimed {
            let view = pods::view(object);
            if view.is_finished() && object.is_deleting() {
                continue;
            }
            let node = match &object.node_name {
                Some(node) => node.to_string(),
                None => match place::target(object) {
                    Some(node) => node,
                    None => continue,
                },
            };
            let updated =
                hash.is_some() && object.meta.labels.get(HASH).map(String::as_str) == hash;
            self.pods.entry(node).or_default().push(Pod { object, view, updated });
        }
        for pods in self.pods.values_mut() {
            // The oldest first; one that runs before one that waits.
            pods.sort_by_key(|pod| {
                let meta = &pod.object.meta;
                (pod.object.node_name.is_none(), meta.creation_timestamp, meta.name.as_str())
            });
        }
    }

    /// One Pod on every node that should have one, none on any other.
    fn manage(&mut self) -> Work<'a> {
        let mut work = Work::default();
        let cluster = self.cluster;
        for node in cluster.list(&kinds::NODE) {
            let (run, stay) = self.place.allows(node);
            let name = node.meta.name.as_str();
            let here = self.pods.get(name).cloned().unwrap_or_default();
            if run && here.is_empty() {
                work.create_on.push(name);
            } else if stay {
                self.tidy(name, &here, &mut work);
            } else {
                let going = here.iter().filter(|pod| !pod.object.is_deleting());
                work.delete.extend(going.map(|pod| pod.object));
            }
        }
        // What waits for a node that is not there any more.
        let waiting =
            self.pods.iter().filter(|(node, _)| cluster.get(&kinds::NODE, "", node).is_none());
        let waiting = waiting
            .flat_map(|(_, pods)| pods)
            .filter(|pod| pod.object.node_name.is_none() && !pod.object.is_deleting());
        work.delete.extend(waiting.map(|pod| pod.object));
        work
    }

    /// Pods of a node that ended, or are too many.
    fn tidy(&mut self, node: &str, here: &[Pod<'a>], work: &mut Work<'a>) {
        let mut running = Vec::new();
        for pod in here.iter().filter(|pod| !pod.object.is_deleting()) {
            let ended = pod.view.phase();
            if ended != "Failed" && ended != "Succeeded" {
                running.push(pod);
                continue;
            }
            if ended == "Failed" && self.must_wait(node) {
                continue;
            }
            work.delete.push(pod.object);
            let who = pod.object.key();
            let (reason, what) = match ended {
                "Failed" => ("FailedDaemonPod", "failed"),
                _ => ("SucceededDaemonPod", "succeeded"),
            };
            let message =
                format!("Found {what} daemon pod {who} on node {node}, will try to kill it");
            if ended == "Failed" {
                self.plan.warning(self.set, reason, message);
            } else {
                self.plan.event(self.set, reason, message);
            }
        }
        if !self.spec.is_surging() {
            work.delete.extend(running.iter().skip(1).map(|pod| pod.object));
            return;
        }
        if running.len() <= 1 {
            return;
        }
        // An old one and a new one may be side by side until the new one is available.
        let new = running.iter().find(|pod| pod.updated).copied();
        let old = running.iter().find(|pod| !pod.updated).copied();
        let spared = |pod: &Pod<'_>| {
            [new, old].into_iter().flatten().any(|kept| Arc::ptr_eq(kept.object, pod.object))
        };
        work.delete.extend(running.iter().filter(|pod| !spared(pod)).map(|pod| pod.object));
        if let (Some(new), Some(old)) = (new, old)
            && (!old.view.is_ready() || self.is_available(new))
        {
            work.delete.push(old.object);
        }
    }

    /// Whether a failed Pod stays for a while yet, since those before it on its node failed too.
    fn must_wait(&mut self, node: &str) -> bool {
        let left = self.back_offs.fails(node, self.cluster.now);
        if let Some(left) = left {
            self.plan.requeue(left);
        }
        left.is_some()
    }

    fn is_available(&mut self, pod: &Pod<'_>) -> bool {
        match pod.view.available_in(self.spec.min_ready_seconds, self.cluster.now) {
            None => false,
            Some(wait) if wait.is_zero() => true,
            Some(wait) => {
                self.plan.requeue(wait);
                false
            }
        }
    }

    fn status(&mut self, old: &Status) -> Status {
        let mut status = Status {
            observed_generation: self.set.meta.generation,
            collision_count: old.collision_count,
            ..Status::default()
        };
        let cluster = self.cluster;
        for node in cluster.list(&kinds::NODE) {
            let first = self.pods.get(&node.meta.name).and_then(|pods| pods.first()).cloned();
            let (run, _) = self.place.allows(node);
            match first {
                Some(pod) if run => {
                    status.current_number_scheduled += 1;
                    status.number_ready += i64::from(pod.view.is_ready());
                    status.number_available += i64::from(self.is_available(&pod));
                    status.updated_number_scheduled += i64::from(pod.updated);
                }
                Some(_) => status.number_misscheduled += 1,
                None => {}
            }
            status.desired_number_scheduled += i64::from(run);
        }
        status.number_unavailable = status.desired_number_scheduled - status.number_available;
        status
    }

    fn finish(mut self, old: &Status, work: Work<'a>, hash: Option<String>) -> Plan {
        let mut status = self.status(old);
        if hash.is_none() {
            // Which Pods are up to date is not known while it is being deleted.
            status.updated_number_scheduled = old.updated_number_scheduled;
        }
        if status != *old {
            let told = json!({"status": {
                "currentNumberScheduled": status.current_number_scheduled,
                "numberMisscheduled": status.number_misscheduled,
                "desiredNumberScheduled": status.desired_number_scheduled,
                "numberReady": status.number_ready,
                "observedGeneration": status.observed_generation,
                "updatedNumberScheduled": count(status.updated_number_scheduled),
                "numberAvailable": count(status.number_available),
                "numberUnavailable": count(status.number_unavailable),
            }});
            self.plan.patch_status(self.set, told);
            // The status carries the precondition: it goes before everything else.
            self.plan.writes.rotate_right(1);
        }
        let doomed: Vec<_> = work.delete.into_iter().take(BURST).collect();
        for pod in &doomed {
            self.plan.delete(pod, Propagation::Background);
        }
        let gone = doomed.iter().map(|pod| pod.meta.name.as_str());
        pods::tell(&mut self.plan, self.set, "SuccessfulDelete", "Deleted", gone);
        let created = match hash {
            Some(hash) if !owners::is_terminating(self.cluster, &self.set.meta.namespace) => {
                self.new_pods(&work.create_on[..work.create_on.len().min(BURST)], &hash)
            }
            _ => Vec::new(),
        };
        let made = created.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
        pods::tell(&mut self.plan, self.set, "SuccessfulCreate", "Created", made);
        for pod in created {
            self.plan.create(&kinds::POD, pod);
        }
        self.plan.memory = self.back_offs.keep(self.cluster.now);
        self.plan
    }

    fn new_pods(&self, nodes: &[&str], hash: &str) -> Vec<Value> {
        let mut pod = pods::from_template(self.set, &self.spec.template);
        let labels = &mut pod["metadata"]["labels"];
        labels[HASH] = hash.into();
        let generation = self.set.meta.annotations.get("deprecated.daemonset.template.generation");
        if let Some(generation) = generation {
            labels["pod-template-generation"] = generation.as_str().into();
        }
        place::tolerate(&mut pod["spec"]);
        let base = format!("{}-", self.set.meta.name);
        let mut names = pods::Names::of(self.cluster, self.set);
        let on = |node: &&str| {
            let mut pod = pod.clone();
            place::send(&mut pod["spec"], node);
            names.name(&mut pod, &base);
            pod
        };
        nodes.iter().map(on).collect()
    }
}

#[cfg(test)]
mod tests;
