//! StatefulSet: Pods with numbers, each with a name and a host name of its own that its successors keep.
//!
//! Upstream's order: with `OrderedReady` one thing at a time, from the lowest number up when Pods are made and from the
//! highest down when they go; with `Parallel` all at once. An update replaces Pods from the highest number down to
//! `partition`. What becomes of the claims of `volumeClaimTemplates` is in [`claims`].

mod claims;
mod status;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, LabelSelector, Object, Plan, kinds};
use serde::Deserialize;
use serde_json::{Value, json};

use self::status::Status;
use crate::history::{HASH, History};
use crate::{BURST, owners, pods};

/// Plans Pods for StatefulSets.
#[derive(Debug, Clone, Copy)]
pub struct StatefulSetController;

/// Label of a revision with its hash.
const REVISION_HASH: &str = "controller.kubernetes.io/hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// How soon a claim is looked at again that goes with a Pod of the past.
const STALE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    replicas: Option<i64>,
    selector: Value,
    template: Value,
    service_name: String,
    pod_management_policy: String,
    update_strategy: Strategy,
    min_ready_seconds: i64,
    revision_history_limit: Option<i32>,
    ordinals: Ordinals,
    volume_claim_templates: Vec<Value>,
    persistent_volume_claim_retention_policy: Retention,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Retention {
    when_deleted: String,
    when_scaled: String,
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
    partition: i64,
    max_unavailable: Value,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Ordinals {
    start: i64,
}

impl Spec {
    fn replicas(&self) -> i64 {
        self.replicas.unwrap_or(1)
    }

    fn is_ordered(&self) -> bool {
        self.pod_management_policy != "Parallel"
    }

    fn numbers(&self) -> std::ops::Range<i64> {
        self.ordinals.start..self.ordinals.start + self.replicas()
    }

    fn selector(&self) -> Option<LabelSelector> {
        LabelSelector::from_value(Some(&self.selector)).ok()
    }
}

/// One of its Pods.
struct Pod<'a> {
    object: &'a Arc<Object>,
    view: Cow<'a, pods::PodView>,
    number: i64,
}

impl Pod<'_> {
    fn is_ready(&self) -> bool {
        self.view.phase() == "Running" && self.view.is_ready()
    }

    fn is_healthy(&self) -> bool {
        self.is_ready() && !self.object.is_deleting()
    }

    /// Name of the revision that it was made from.
    fn revision(&self) -> &str {
        self.object.meta.labels.get(HASH).map_or("", String::as_str)
    }
}

/// A template and the name of the revision that holds it.
struct Version {
    revision: String,
    template: Value,
}

/// One reconciliation in progress.
struct Run<'a> {
    cluster: &'a Cluster,
    set: &'a Arc<Object>,
    spec: &'a Spec,
    /// In order of their numbers.
    pods: Vec<Pod<'a>>,
    current: Version,
    update: Version,
    created: Vec<Value>,
    /// Claims of those, with the names of the Pods that they are for.
    claims: Vec<(Value, String)>,
    deleted: Vec<&'a Arc<Object>>,
    plan: Plan,
}

impl Controller for StatefulSetController {
    fn name(&self) -> &'static str {
        "statefulset"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let kind = &kinds::STATEFUL_SET;
        if object.kind.resource == kind.resource {
            return vec![Key::of(object)];
        }
        if !object.kind.is_pod() && object.kind.resource != kinds::CONTROLLER_REVISION.resource {
            return Vec::new();
        }
        owners::wakes(cluster, kind, object, |set| set.decode::<View>().ok()?.spec.selector())
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(set) = cluster.get(&kinds::STATEFUL_SET, &key.namespace, &key.name) else {
            return plan;
        };
        let Ok(view) = set.decode::<View>() else { return plan };
        let (spec, old) = (&view.spec, &view.status);
        let Some(selector) = spec.selector() else { return plan };
        let ours = |pod: &Object| number_of(set, pod).is_some();
        let claimed = owners::claim(cluster, &kinds::POD, set, &selector, ours, None, &mut plan);
        let history = History::of(cluster, set, &selector, &spec.template, &mut plan);
        if !plan.writes.is_empty() {
            return plan;
        }
        let mut collisions = old.collision_count;
        let label = REVISION_HASH;
        let newest = if set.is_deleting() {
            None
        } else {
            history.settle(cluster, set, &spec.template, label, &mut collisions, &mut plan)
        };
        if collisions != old.collision_count {
            plan.patch_status(set, json!({"status": {"collisionCount": collisions}}));
        }
        if !plan.writes.is_empty() {
            return plan;
        }
        let update = match newest {
            Some(revision) => revision.object.meta.name.clone(),
            None => old.update_revision.clone(),
        };
        let update = Version { revision: update, template: spec.template.clone() };
        let known = history.named(&old.current_revision);
        let current = match known {
            Some(revision) => {
                Version { revision: old.current_revision.clone(), template: revision.template() }
            }
            None => Version { revision: update.revision.clone(), template: spec.template.clone() },
        };
        let mut pods: Vec<Pod<'_>> = claimed
            .into_iter()
            .filter_map(|object| {
                let number = number_of(set, object)?;
                Some(Pod { object, view: pods::view(object), number })
            })
            .collect();
        pods.sort_by_key(|pod| pod.number);
        let (created, deleted) = (Vec::new(), Vec::new());
        let claims = Vec::new();
        let mut run =
            Run { cluster, set, spec, pods, current, update, created, claims, deleted, plan };
        if !set.is_deleting() {
            run.identify();
            run.retain_claims();
            run.step();
            let live = |name: &str| {
                name == run.current.revision
                    || name == run.update.revision
                    || run.pods.iter().any(|pod| pod.revision() == name)
            };
            let in_use = |revision: &crate::history::Revision<'_>| live(&revision.object.meta.name);
            history.truncate(spec.revision_history_limit, in_use, &mut run.plan);
        }
        run.finish(old)
    }
}

/// The number of a Pod, if it is named as one of the set's.
fn number_of(set: &Object, pod: &Object) -> Option<i64> {
    let (parent, number) = pod.meta.name.rsplit_once('-')?;
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    (parent == set.meta.name && digits).then(|| number.parse().ok()).flatten()
}

impl<'a> Run<'a> {
    /// Pods that were adopted, or lost the label by which Services find a single one, get it.
    fn identify(&mut self) {
        for pod in self.pods.iter().filter(|pod| !pod.object.is_deleting()) {
            let name = &pod.object.meta.name;
            if pod.object.meta.labels.get(POD_NAME) != Some(name) {
                self.plan.patch(pod.object, json!({"metadata": {"labels": {POD_NAME: name}}}));
            }
        }
    }

    /// Upstream's `updateStatefulSet`: replicas first, then what is too much, then the update.
    fn step(&mut self) {
        if self.replicas() && self.condemned() {
            self.roll();
        }
    }

    /// Makes what is missing; whether all are there and, if their order matters, available.
    fn replicas(&mut self) -> bool {
        let mut complete = true;
        for number in self.spec.numbers() {
            if self.created.len() + self.deleted.len() >= BURST {
                return false;
            }
            let Some(at) = self.pods.iter().position(|pod| pod.number == number) else {
                self.create(number);
                complete = false;
                if self.spec.is_ordered() {
                    return false;
                }
                continue;
            };
            let pod = &self.pods[at];
            let ended = pod.view.phase();
            if pod.view.is_finished() && !pod.object.is_deleting() {
                let object = pod.object;
                let (set, name) = (self.set.key(), &object.meta.name);
                if ended == "Failed" {
                    let message = format!("StatefulSet {set} is recreating failed Pod {name}");
                    self.plan.warning(self.set, "RecreatingFailedPod", message);
                } else {
                    let message = format!("StatefulSet {set} is recreating terminated Pod {name}");
                    self.plan.event(self.set, "RecreatingTerminatedPod", message);
                }
                self.deleted.push(object);
                complete = false;
            } else if self.spec.is_ordered()
                && (pod.object.is_deleting() || !pod.is_ready() || !self.is_available(at))
            {
                return false;
            }
            if !complete && self.spec.is_ordered() {
                return false;
            }
        }
        complete
    }

    /// Deletes what is beyond the declared number, the highest first; whether nothing of it is left to wait for.
    fn condemned(&mut self) -> bool {
        let numbers = self.spec.numbers();
        let unhealthy = self.pods.iter().position(|pod| !pod.is_healthy());
        let mut none = true;
        for at in (0..self.pods.len()).rev() {
            let pod = &self.pods[at];
            if numbers.contains(&pod.number) {
                continue;
            }
            none = false;
            if pod.object.is_deleting() {
                if self.spec.is_ordered() {
                    return false;
                }
                continue;
            }
            let sick = !pod.is_ready() || !self.is_available(at);
            if self.spec.is_ordered() && sick && unhealthy != Some(at) {
                return false;
            }
            self.deleted.push(self.pods[at].object);
            if self.spec.is_ordered() || self.deleted.len() >= BURST {
                return false;
            }
        }
        none || !self.spec.is_ordered()
    }

    /// Replaces Pods of other revisions, the highest number first, as many at a time as may be unavailable.
    fn roll(&mut self) {
        if self.spec.update_strategy.r#type == "OnDelete" {
            return;
        }
        let rolling = &self.spec.update_strategy.rolling_update;
        let replicas = i32::try_from(self.spec.replicas()).unwrap_or(i32::MAX);
        let mut room = match &rolling.max_unavailable {
            Value::Null => 1,
            most => pods::share(most, replicas, true).max(1),
        };
        let numbers = self.spec.numbers();
        let from = numbers.start + rolling.partition;
        for pod in self.pods.iter().rev() {
            if pod.number < from || !numbers.contains(&pod.number) {
                continue;
            }
            if pod.revision() != self.update.revision && !pod.object.is_deleting() {
                self.deleted.push(pod.object);
                room -= 1;
            } else if !pod.is_healthy() {
                room -= 1;
            }
            if room <= 0 {
                return;
            }
        }
    }

    fn is_available(&mut self, at: usize) -> bool {
        match self.pods[at].view.available_in(self.spec.min_ready_seconds, self.cluster.now) {
            None => false,
            Some(wait) if wait.is_zero() => true,
            Some(wait) => {
                self.plan.requeue(wait);
                false
            }
        }
    }

    fn create(&mut self, number: i64) {
        let meta = &self.set.meta;
        if owners::is_terminating(self.cluster, &meta.namespace) {
            return;
        }
        let name = format!("{}-{number}", meta.name);
        if self.cluster.get(&kinds::POD, &meta.namespace, &name).is_some() {
            let message = format!(
                "create Pod {name} in StatefulSet {} failed error: pods {name:?} already exists",
                meta.name
            );
            return self.plan.warning(self.set, "FailedCreate", message);
        }
        if self.is_stale(&name) {
            return self.plan.requeue(STALE);
        }
        // Below the partition what is lost comes back as it was.
        let rolling = self.spec.update_strategy.r#type == "RollingUpdate";
        let partition =
            self.spec.ordinals.start + self.spec.update_strategy.rolling_update.partition;
        let version = if rolling && number < partition { &self.current } else { &self.update };
        let mut pod = pods::from_template(self.set, &version.template);
        pod["metadata"]["name"] = name.as_str().into();
        let labels = &mut pod["metadata"]["labels"];
        labels[POD_NAME] = name.as_str().into();
        labels[POD_INDEX] = number.to_string().into();
        labels[HASH] = version.revision.as_str().into();
        let spec = &mut pod["spec"];
        spec["hostname"] = name.as_str().into();
        if !self.spec.service_name.is_empty() {
            spec["subdomain"] = self.spec.service_name.as_str().into();
        }
        self.mount_claims(&mut pod, &name);
        self.created.push(pod);
    }

    fn finish(mut self, old: &Status) -> Plan {
        let status = self.status(old);
        if status != *old {
            self.plan.patch_status(self.set, json!({"status": status.to_json()}));
            // The status carries the precondition: it goes before everything else.
            self.plan.writes.rotate_right(1);
        }
        let set = &self.set.meta.name;
        for pod in &self.deleted {
            self.plan.delete(pod, Propagation::Background);
            let message = format!("delete Pod {} in StatefulSet {set} successful", pod.meta.name);
            self.plan.event(self.set, "SuccessfulDelete", message);
        }
        for (claim, pod) in self.claims {
            let name = claim["metadata"]["name"].as_str().unwrap_or_default();
            let message = format!("create Claim {name} Pod {pod} in StatefulSet {set} success");
            self.plan.event(self.set, "SuccessfulCreate", message);
            self.plan.create(&kinds::PERSISTENT_VOLUME_CLAIM, claim);
        }
        for pod in self.created {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let message = format!("create Pod {name} in StatefulSet {set} successful");
            self.plan.event(self.set, "SuccessfulCreate", message);
            self.plan.create(&kinds::POD, pod);
        }
        self.plan
    }
}

#[cfg(test)]
mod tests;
