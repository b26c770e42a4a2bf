//! Deployment: moves Pods from one template to the next by growing and shrinking ReplicaSets, upstream's algorithm.
//!
//! One call plans one step: where upstream's sync updates one ReplicaSet and waits, so does this. Sizes live in
//! [`sizes`], what is told in [`status`], which ReplicaSet is which in [`revision`]. The next step of the apply
//! trace is [`crate::ReplicaSetController`].

mod revision;
mod sizes;
mod status;

use std::borrow::Cow;
use std::sync::Arc;

use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, LabelSelector, Object, Plan, kinds};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::replica_set::View as SetView;
use crate::{owners, pods};

/// Plans ReplicaSets for Deployments.
#[derive(Debug, Clone, Copy)]
pub struct DeploymentController;

/// What the controller reads of a Deployment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    replicas: Option<i32>,
    selector: Value,
    template: Value,
    strategy: Strategy,
    min_ready_seconds: Option<i32>,
    revision_history_limit: Option<i32>,
    paused: Option<bool>,
    progress_deadline_seconds: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Strategy {
    r#type: Option<String>,
    rolling_update: Option<RollingUpdate>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RollingUpdate {
    max_surge: Option<Value>,
    max_unavailable: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    replicas: i32,
    updated_replicas: i32,
    ready_replicas: i32,
    available_replicas: i32,
    unavailable_replicas: i32,
    collision_count: Option<i32>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    status: String,
    last_update_time: Option<Timestamp>,
    last_transition_time: Option<Timestamp>,
    reason: String,
    message: String,
}

impl Spec {
    fn replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }

    fn is_rolling(&self) -> bool {
        self.strategy.r#type.as_deref() != Some("Recreate")
    }

    fn is_paused(&self) -> bool {
        self.paused == Some(true)
    }

    /// `progressDeadlineSeconds`, unless it means "never".
    fn progress_deadline(&self) -> Option<i32> {
        self.progress_deadline_seconds.filter(|s| *s != i32::MAX)
    }
}

/// A ReplicaSet of the Deployment, and what is planned for it.
struct Set<'a> {
    object: &'a Arc<Object>,
    view: Cow<'a, SetView>,
    /// Its size once the plan is done.
    size: i32,
    annotations: Map<String, Value>,
    min_ready_seconds: Option<i32>,
}

impl Set<'_> {
    fn declared(&self) -> i32 {
        self.view.spec.replicas()
    }

    /// Available Pods that will be left at its planned size: its status may tell of Pods that are about to go.
    fn available(&self) -> i32 {
        self.view.status.available_replicas.min(self.size)
    }

    /// A number in one of its annotations.
    fn number(&self, annotation: &str) -> Option<i32> {
        self.object.meta.annotations.get(annotation)?.parse().ok()
    }

    fn annotate(&mut self, annotation: &str, value: String) {
        if self.object.meta.annotations.get(annotation) != Some(&value) {
            self.annotations.insert(annotation.to_owned(), value.into());
        }
    }
}

/// One reconciliation in progress.
struct Rollout<'a> {
    cluster: &'a Cluster,
    deployment: &'a Arc<Object>,
    spec: &'a Spec,
    old_status: &'a Status,
    /// Oldest first.
    sets: Vec<Set<'a>>,
    /// Which of `sets` has the Deployment's template.
    new: Option<usize>,
    /// The status to be written.
    status: Status,
    plan: Plan,
}

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let key = |name: &str| vec![Key::new(object.meta.namespace.as_str(), name)];
        if object.kind.resource == kinds::DEPLOYMENT.resource {
            return vec![Key::of(object)];
        }
        if object.kind.resource == kinds::REPLICA_SET.resource {
            return owners::wakes(cluster, &kinds::DEPLOYMENT, object, |deployment| {
                let view = deployment.decode::<View>().ok()?;
                LabelSelector::from_value(Some(&view.spec.selector)).ok()
            });
        }
        // Only Recreate waits for Pods themselves.
        if object.kind.is_pod()
            && let Some(set) = owners::controller_of(cluster, object, &kinds::REPLICA_SET)
            && let Some(deployment) = owners::controller_of(cluster, set, &kinds::DEPLOYMENT)
            && deployment.decode::<View>().is_ok_and(|view| !view.spec.is_rolling())
        {
            return key(&deployment.meta.name);
        }
        Vec::new()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let Some(deployment) = cluster.get(&kinds::DEPLOYMENT, &key.namespace, &key.name) else {
            return Plan::none();
        };
        let Ok(view) = deployment.decode::<View>() else { return Plan::none() };
        let Ok(selector) = LabelSelector::from_value(Some(&view.spec.selector)) else {
            return Plan::none();
        };
        let mut plan = Plan::none();
        let sets = &kinds::REPLICA_SET;
        let claimed =
            owners::claim(cluster, sets, deployment, &selector, |_| true, None, &mut plan);
        if !plan.writes.is_empty() {
            // Adopted and released ones have new revisions; go on when they are seen.
            return plan;
        }
        let mut rollout = Rollout::new(cluster, deployment, &view, claimed, plan);
        rollout.step();
        rollout.finish()
    }
}

impl<'a> Rollout<'a> {
    fn new(
        cluster: &'a Cluster,
        deployment: &'a Arc<Object>,
        view: &'a View,
        claimed: Vec<&'a Arc<Object>>,
        plan: Plan,
    ) -> Self {
        let mut sets: Vec<_> = claimed
            .into_iter()
            .filter_map(|object| {
                let view = object.decode::<SetView>().ok()?;
                let size = view.spec.replicas();
                Some(Set { object, view, size, annotations: Map::new(), min_ready_seconds: None })
            })
            .collect();
        sets.sort_by_key(|set| (set.object.meta.creation_timestamp, &set.object.meta.name));
        let new = revision::find_new(&view.spec.template, &sets);
        Self {
            cluster,
            deployment,
            spec: &view.spec,
            old_status: &view.status,
            sets,
            new,
            status: view.status.clone(),
            plan,
        }
    }

    /// One step of upstream's `syncDeployment`.
    fn step(&mut self) {
        if self.deployment.is_deleting() {
            return self.count_status();
        }
        self.note_pause();
        // Recreate has no proportions to keep; upstream waits here for ever if two ReplicaSets hold Pods.
        if self.spec.is_paused() || (self.spec.is_rolling() && self.is_scaling()) {
            self.mark_new_set();
            self.scale();
            if self.spec.is_paused() {
                self.clean_up();
            }
            return self.count_status();
        }
        if self.spec.is_rolling() { self.roll() } else { self.recreate() }
    }

    fn roll(&mut self) {
        if self.new.is_none() {
            return self.create_new_set();
        }
        self.mark_new_set();
        if !self.resize_new() && !self.shrink_old() && self.is_complete(self.old_status) {
            self.clean_up();
        }
        self.progress_status();
    }

    fn recreate(&mut self) {
        let shrunk = self.old().any(|i| self.sets[i].size > 0);
        for i in self.old().collect::<Vec<_>>() {
            self.resize(i, 0);
        }
        if !shrunk && !self.old_pods_run() {
            if self.new.is_none() {
                return self.create_new_set();
            }
            self.resize_new();
            if self.is_complete(self.old_status) {
                self.clean_up();
            }
        }
        self.mark_new_set();
        self.progress_status();
    }

    /// Indices of the sets that are not the new one, oldest first.
    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |i| Some(*i) != new)
    }

    /// A Pod of another template may still hold what the new ones need.
    fn old_pods_run(&self) -> bool {
        self.old().any(|i| {
            let set = &self.sets[i];
            set.view.status.replicas > 0
                || self
                    .cluster
                    .owned_of_kind(&set.object.meta.uid, &kinds::POD)
                    .any(|pod| !pods::view(pod).is_finished())
        })
    }

    /// Turns what was decided into writes: at most one for each object.
    fn finish(mut self) -> Plan {
        for set in &self.sets {
            let mut spec = Map::new();
            if set.size != set.declared() {
                spec.insert("replicas".into(), set.size.into());
                let verb = if set.size > set.declared() { "up" } else { "down" };
                let (name, from, to) = (&set.object.meta.name, set.declared(), set.size);
                self.plan.event(
                    self.deployment,
                    "ScalingReplicaSet",
                    format!("Scaled {verb} replica set {name} from {from} to {to}"),
                );
            }
            if let Some(seconds) = set.min_ready_seconds {
                spec.insert("minReadySeconds".into(), seconds.into());
            }
            if spec.is_empty() && set.annotations.is_empty() {
                continue;
            }
            let mut patch = json!({});
            if !set.annotations.is_empty() {
                patch["metadata"] = json!({"annotations": set.annotations});
            }
            if !spec.is_empty() {
                patch["spec"] = spec.into();
            }
            self.plan.patch(set.object, patch);
        }
        if self.status != *self.old_status {
            // The revision annotation waits for the next run: one write for each object and plan.
            self.plan.patch_status(self.deployment, json!({"status": self.status.to_json()}));
        } else if !self.deployment.is_deleting()
            && let Some(revision) = self.new.and_then(|i| self.sets[i].revision())
            && self.deployment.meta.annotations.get(revision::REVISION) != Some(&revision)
        {
            let annotations = json!({revision::REVISION: revision});
            self.plan.patch(self.deployment, json!({"metadata": {"annotations": annotations}}));
        }
        self.plan
    }
}
