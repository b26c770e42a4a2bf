//! Which ReplicaSet holds the Deployment's template, what revision it is, and how long old ones are kept.

use coracle_api::kinds;
use coracle_api::plan::Propagation;
use serde_json::{Map, Value, json};

use super::sizes::{DESIRED, MAX};
use super::{Rollout, Set};
use crate::names::{self, same, same_maps};
use crate::owners;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const HASH: &str = "pod-template-hash";

/// Annotations of the Deployment that are not its ReplicaSets'.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The oldest set made from this template; `sets` are ordered by age.
pub(super) fn find_new(template: &Value, sets: &[Set<'_>]) -> Option<usize> {
    sets.iter().position(|set| same_template(&set.view.spec.template, template))
}

/// Equal but for the label that the controller itself adds.
fn same_template(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return same(a, b) };
    same_maps(a, b, |key, a, b| match (key, a.as_object(), b.as_object()) {
        ("metadata", a, b) => {
            let none = Map::new();
            same_maps(a.unwrap_or(&none), b.unwrap_or(&none), |key, a, b| {
                match (key, a.as_object(), b.as_object()) {
                    ("labels", a, b) => {
                        let (a, b) = (a.unwrap_or(&none), b.unwrap_or(&none));
                        same_maps(a, b, |key, a, b| key == HASH || same(a, b))
                    }
                    _ => same(a, b),
                }
            })
        }
        _ => same(a, b),
    })
}

impl Set<'_> {
    /// Its revision, as it will be annotated.
    pub(super) fn revision(&self) -> Option<String> {
        match self.annotations.get(REVISION) {
            Some(planned) => planned.as_str().map(str::to_owned),
            None => self.object.meta.annotations.get(REVISION).cloned(),
        }
    }

    fn revision_number(&self) -> i64 {
        self.object.meta.annotations.get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
    }
}

impl Rollout<'_> {
    fn next_revision(&self) -> i64 {
        self.old().map(|i| self.sets[i].revision_number()).max().unwrap_or(0) + 1
    }

    /// Gives the new ReplicaSet the newest revision, and the Deployment's annotations and minReadySeconds.
    pub(super) fn mark_new_set(&mut self) {
        let Some(new) = self.new else { return };
        let revision = self.next_revision();
        let set = &mut self.sets[new];
        for (key, value) in &self.deployment.meta.annotations {
            if !OWN.contains(&key.as_str()) {
                set.annotate(key, value.clone());
            }
        }
        let known = set.revision_number();
        if known < revision {
            set.annotate(REVISION, revision.to_string());
            if known > 0 {
                // A rollback: remember what it was called before.
                let history = set.object.meta.annotations.get(HISTORY);
                let history = history.map_or(known.to_string(), |h| format!("{h},{known}"));
                set.annotate(HISTORY, history);
            }
        }
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        if set.view.spec.min_ready_seconds.unwrap_or(0) != seconds {
            set.min_ready_seconds = Some(seconds);
        }
        if self.status.progressing().is_none() && self.spec.progress_deadline().is_some() {
            let message = format!("Found new replica set \"{}\"", set.object.meta.name);
            self.condition("Progressing", "True", "FoundNewReplicaSet", message);
        }
    }

    /// Creates the ReplicaSet for the Deployment's template. The next run goes on from there.
    pub(super) fn create_new_set(&mut self) {
        let meta = &self.deployment.meta;
        if owners::is_terminating(self.cluster, &meta.namespace) {
            return self.progress_status();
        }
        let collisions = self.status.collision_count.unwrap_or(0);
        let hash = names::template_hash(&self.spec.template, collisions);
        let name = format!("{}-{hash}", meta.name);
        if self.cluster.get(&kinds::REPLICA_SET, &meta.namespace, &name).is_some() {
            // Not ours or not this template, or it would be the new one: another hash, then.
            self.status.collision_count = Some(collisions + 1);
            return;
        }

        let size = self.new_size(0);
        let replicas = self.spec.replicas();
        let mut annotations = Map::new();
        for (key, value) in &meta.annotations {
            if !OWN.contains(&key.as_str()) {
                annotations.insert(key.clone(), value.as_str().into());
            }
        }
        let max = replicas.saturating_add(self.spec.fenceposts().0);
        annotations.insert(REVISION.into(), self.next_revision().to_string().into());
        annotations.insert(DESIRED.into(), replicas.to_string().into());
        annotations.insert(MAX.into(), max.to_string().into());
        let mut template = self.spec.template.clone();
        template["metadata"]["labels"][HASH] = hash.as_str().into();
        let mut selector = self.spec.selector.clone();
        selector["matchLabels"][HASH] = hash.as_str().into();
        let mut spec = json!({"replicas": size, "selector": selector, "template": template});
        if let Some(seconds) = self.spec.min_ready_seconds.filter(|s| *s != 0) {
            spec["minReadySeconds"] = seconds.into();
        }
        let object = json!({
            "kind": "ReplicaSet",
            "apiVersion": "apps/v1",
            "metadata": {
                "name": name,
                "namespace": meta.namespace,
                "labels": spec["template"]["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [self.deployment.owner_ref()],
            },
            "spec": spec,
        });
        self.plan.create(&kinds::REPLICA_SET, object);
        if size > 0 {
            self.plan.event(
                self.deployment,
                "ScalingReplicaSet",
                format!("Scaled up replica set {name} from 0 to {size}"),
            );
        }
        self.count_status();
        if self.spec.progress_deadline().is_some() {
            let message = format!("Created new replica set \"{name}\"");
            self.condition("Progressing", "True", "NewReplicaSetCreated", message);
        }
    }

    /// Deletes the oldest revisions beyond revisionHistoryLimit that hold no Pods.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.spec.revision_history_limit.filter(|l| *l != i32::MAX) else {
            return;
        };
        let mut old: Vec<usize> =
            self.old().filter(|i| !self.sets[*i].object.is_deleting()).collect();
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|i| (self.sets[*i].revision_number(), *i));
        for i in old.into_iter().take(excess) {
            let set = &self.sets[i];
            let observed = set.view.status.observed_generation >= set.object.meta.generation;
            if set.size == 0 && set.declared() == 0 && set.view.status.replicas == 0 && observed {
                self.plan.delete(set.object, Propagation::Background);
            }
        }
    }
}
