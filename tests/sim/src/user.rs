//! A user: creates, scales, rolls out and back, pauses, relabels, deletes in every way, and pulls plugs.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::plan::Propagation;
use coracle_api::{Kind, Object, kinds};
use serde_json::{Value, json};

use crate::nodes::FakeNode;
use crate::rng::Rng;
use crate::store::{Refusal, Store, tree};

const NAMESPACES: [&str; 3] = ["default", "apps", "tmp"];
const NUMBERED: &str = "statefulset.kubernetes.io/pod-name";
const NAMES: [&str; 3] = ["web", "api", "job"];

/// What the user remembers.
#[derive(Debug, Default)]
pub struct User {
    /// UIDs of objects that were deleted for good, by whatever way.
    pub deleted: BTreeSet<String>,
    images: u64,
}

impl User {
    /// Does one thing.
    ///
    /// # Errors
    /// The store refuses what a user may ask for.
    pub fn act(
        &mut self,
        store: &mut Store,
        nodes: &mut [FakeNode],
        rng: &mut Rng,
        calm: bool,
    ) -> Result<(), String> {
        let namespace = NAMESPACES[rng.below(if calm { 2 } else { 3 })];
        let deployment = pick(store, &kinds::DEPLOYMENT, rng);
        let most = if calm { 11 } else { 24 };
        match (rng.range(0, most + 6), deployment) {
            (n, _) if n >= most + 3 => self.use_sets(store, namespace, rng, calm),
            (n, _) if n >= most => self.use_jobs(store, namespace, rng, calm),
            (0..=1, _) | (_, None) => self.create_deployment(store, namespace, rng, calm),
            (2, _) => create_service(store, namespace, rng),
            (3..=5, Some(deployment)) => {
                self.images += 1;
                let image = format!("web:{}", self.images);
                set_image(store, &deployment, &image)
            }
            (6, Some(deployment)) => {
                // Back to what some ReplicaSet still has.
                let sets: Vec<_> = store
                    .cluster
                    .owned_of_kind(&deployment.meta.uid, &kinds::REPLICA_SET)
                    .collect();
                let image = rng.pick(&sets).map(|set| image_of(set));
                image.map_or(Ok(()), |image| set_image(store, &deployment, &image))
            }
            (7..=8, Some(deployment)) => {
                let spec = json!({"replicas": rng.range(0, 12)});
                edit(store, &deployment, json!({"spec": spec}))
            }
            (9, Some(deployment)) => {
                let paused = tree(&deployment)["spec"]["paused"] != true;
                edit(store, &deployment, json!({"spec": {"paused": paused}}))
            }
            (10, Some(deployment)) => {
                let spec = json!({"revisionHistoryLimit": rng.range(0, 4), "minReadySeconds": rng.range(0, 3)});
                edit(store, &deployment, json!({"spec": spec}))
            }
            (11..=12, Some(deployment)) => {
                let way = [Propagation::Background, Propagation::Foreground, Propagation::Orphan];
                self.delete(store, &deployment, way[rng.below(3)])
            }
            (13, _) => match pick(store, &kinds::REPLICA_SET, rng) {
                Some(set) if rng.one_in(2) => self.delete(store, &set, Propagation::Orphan),
                Some(set) => self.delete(store, &set, Propagation::Background),
                None => Ok(()),
            },
            (14..=15, _) => match pick(store, &kinds::POD, rng) {
                Some(pod) => self.delete(store, &pod, Propagation::Background),
                None => Ok(()),
            },
            (16, _) => match pick(store, &kinds::POD, rng) {
                // Taken out of its ReplicaSet and Service, to be looked at. Not one whose name its successor needs.
                Some(pod) if !pod.meta.labels.contains_key(NUMBERED) => {
                    edit(store, &pod, json!({"metadata": {"labels": {"app": "aside"}}}))
                }
                _ => Ok(()),
            },
            (17, _) => match pick(store, &kinds::SERVICE, rng) {
                Some(service) if rng.one_in(2) => {
                    self.delete(store, &service, Propagation::Background)
                }
                Some(service) => {
                    let app = NAMES[rng.below(3)];
                    edit(store, &service, json!({"spec": {"selector": {"app": app}}}))
                }
                None => Ok(()),
            },
            (18, _) => match store.cluster.get(&kinds::NAMESPACE, "", "tmp").cloned() {
                None => {
                    accept(store.create(&kinds::NAMESPACE, json!({"metadata": {"name": "tmp"}})))
                }
                Some(namespace) => {
                    for kind in kinds::ALL.iter().filter(|kind| kind.namespaced) {
                        let content = store.cluster.list_in(kind, "tmp");
                        self.deleted.extend(content.map(|object| object.meta.uid.clone()));
                    }
                    self.delete(store, &namespace, Propagation::Background)
                }
            },
            (19, Some(deployment)) => {
                let strategy = if rng.one_in(2) {
                    json!({"type": "Recreate", "rollingUpdate": null})
                } else {
                    strategy(rng)
                };
                edit(store, &deployment, json!({"spec": {"strategy": strategy}}))
            }
            (20..=21, _) => {
                let at = rng.below(nodes.len());
                nodes[at].alive = !nodes[at].alive;
                Ok(())
            }
            (22, _) => match pick(store, &kinds::NODE, rng) {
                Some(node) => {
                    let cordoned = tree(&node)["spec"]["unschedulable"] == true;
                    edit(
                        store,
                        &node,
                        json!({"spec": {"unschedulable": if cordoned { Value::Null } else { true.into() }}}),
                    )
                }
                None => Ok(()),
            },
            _ => match pick(store, &kinds::NODE, rng) {
                // If its agent lives, it registers anew.
                Some(node) => self.delete(store, &node, Propagation::Background),
                None => Ok(()),
            },
        }
    }

    /// Leaves the cluster in a state that it can come to rest in.
    ///
    /// # Errors
    /// The store refuses what a user may ask for.
    pub fn calm_down(
        &mut self,
        store: &mut Store,
        nodes: &mut [FakeNode],
        rng: &mut Rng,
    ) -> Result<(), String> {
        for node in nodes.iter_mut().filter(|node| !node.alive) {
            node.alive = true;
            if rng.one_in(2) && node.name != "node-0" {
                node.gone = true;
                if let Some(object) = store.cluster.get(&kinds::NODE, "", &node.name).cloned() {
                    self.delete(store, &object, Propagation::Background)?;
                }
            }
        }
        for node in store.cluster.list(&kinds::NODE).cloned().collect::<Vec<_>>() {
            if tree(&node)["spec"]["unschedulable"] == true {
                edit(store, &node, json!({"spec": {"unschedulable": null}}))?;
            }
        }
        for cron_job in store.cluster.list(&kinds::CRON_JOB).cloned().collect::<Vec<_>>() {
            edit(store, &cron_job, json!({"spec": {"suspend": true}}))?;
        }
        for job in store.cluster.list(&kinds::JOB).cloned().collect::<Vec<_>>() {
            edit(store, &job, json!({"spec": {"suspend": false}}))?;
        }
        for deployment in store.cluster.list(&kinds::DEPLOYMENT).cloned().collect::<Vec<_>>() {
            if rng.one_in(2) {
                edit(store, &deployment, json!({"spec": {"paused": null}}))?;
            }
        }
        Ok(())
    }

    /// Creates, changes and deletes DaemonSets and StatefulSets.
    fn use_sets(
        &mut self,
        store: &mut Store,
        namespace: &str,
        rng: &mut Rng,
        calm: bool,
    ) -> Result<(), String> {
        let kind = if rng.one_in(2) { &kinds::DAEMON_SET } else { &kinds::STATEFUL_SET };
        self.images += 1;
        let image = format!("set:{}", self.images);
        let Some(set) = pick(store, kind, rng) else {
            let name = kind.singular;
            let mut spec = json!({
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{"name": "c", "image": image}],
                }},
            });
            if kind.resource == kinds::STATEFUL_SET.resource {
                spec["replicas"] = rng.range(0, 5).into();
                let policy = if rng.one_in(2) { "Parallel" } else { "OrderedReady" };
                spec["podManagementPolicy"] = policy.into();
            } else {
                let [more, fewer] = if rng.one_in(2) { [1, 0] } else { [0, 1] };
                spec["updateStrategy"] =
                    json!({"rollingUpdate": {"maxSurge": more, "maxUnavailable": fewer}});
            }
            let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
            return accept(store.create(kind, object));
        };
        match rng.range(0, 6) {
            0 if !calm => {
                let way = [Propagation::Background, Propagation::Foreground, Propagation::Orphan];
                self.delete(store, &set, way[rng.below(3)])
            }
            1..=2 if kind.resource == kinds::STATEFUL_SET.resource => {
                edit(store, &set, json!({"spec": {"replicas": rng.range(0, 5)}}))
            }
            3 => {
                let history =
                    store.cluster.owned_of_kind(&set.meta.uid, &kinds::CONTROLLER_REVISION);
                let history: Vec<_> = history.collect();
                let old = rng.pick(&history).map(|revision| {
                    let container =
                        &tree(revision)["data"]["spec"]["template"]["spec"]["containers"][0];
                    container["image"].as_str().unwrap_or_default().to_owned()
                });
                old.map_or(Ok(()), |image| set_image(store, &set, &image))
            }
            _ => set_image(store, &set, &image),
        }
    }

    /// Creates, resizes, suspends and deletes Jobs and CronJobs.
    fn use_jobs(
        &mut self,
        store: &mut Store,
        namespace: &str,
        rng: &mut Rng,
        calm: bool,
    ) -> Result<(), String> {
        match (rng.range(0, 10), pick(store, &kinds::JOB, rng)) {
            (0, Some(job)) => {
                let suspended = tree(&job)["spec"]["suspend"] == true;
                edit(store, &job, json!({"spec": {"suspend": !suspended}}))
            }
            (1, Some(job)) => edit(store, &job, json!({"spec": {"parallelism": rng.range(1, 5)}})),
            (2, Some(job)) if !calm => {
                let way = [Propagation::Background, Propagation::Foreground, Propagation::Orphan];
                self.delete(store, &job, way[rng.below(3)])
            }
            (3, _) => {
                let template = json!({"spec": job_spec(rng)});
                let object = json!({
                    "metadata": {"name": "tick", "namespace": namespace},
                    "spec": {"schedule": "* * * * *", "jobTemplate": template,
                        "concurrencyPolicy": *rng.pick(&["Allow", "Forbid", "Replace"]).unwrap_or(&"Allow")},
                });
                accept(store.create(&kinds::CRON_JOB, object))
            }
            _ => {
                self.images += 1;
                let name = format!("job-{}", self.images);
                let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": job_spec(rng)});
                accept(store.create(&kinds::JOB, object))
            }
        }
    }

    fn create_deployment(
        &mut self,
        store: &mut Store,
        namespace: &str,
        rng: &mut Rng,
        calm: bool,
    ) -> Result<(), String> {
        let app = NAMES[rng.below(3)];
        self.images += 1;
        let recreate = !calm && rng.one_in(5);
        let object = json!({
            "metadata": {"name": app, "namespace": namespace},
            "spec": {
                "replicas": rng.range(0, 10),
                "selector": {"matchLabels": {"app": app}},
                "strategy": if recreate { json!({"type": "Recreate"}) } else { strategy(rng) },
                "revisionHistoryLimit": rng.range(0, 4),
                "minReadySeconds": rng.range(0, 2),
                "template": {
                    "metadata": {"labels": {"app": app}},
                    "spec": {
                        "terminationGracePeriodSeconds": 5,
                        "containers": [{"name": "c", "image": format!("web:{}", self.images),
                            "ports": [{"name": "http", "containerPort": 8080}]}],
                        "tolerations": [
                            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20},
                            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20},
                        ],
                    },
                },
            },
        });
        accept(store.create(&kinds::DEPLOYMENT, object))
    }

    fn delete(
        &mut self,
        store: &mut Store,
        object: &Object,
        way: Propagation,
    ) -> Result<(), String> {
        if !object.is_deleting() {
            self.deleted.insert(object.meta.uid.clone());
        }
        accept(store.delete(object, way, None))
    }
}

fn strategy(rng: &mut Rng) -> Value {
    let sizes = [json!(0), json!(1), json!(3), json!("25%"), json!("50%"), json!("100%")];
    let (mut surge, mut unavailable) = (rng.below(6), rng.below(6));
    if surge == 0 && unavailable == 0 {
        (surge, unavailable) = if rng.one_in(2) { (1, 0) } else { (0, 1) };
    }
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": sizes[surge], "maxUnavailable": sizes[unavailable]}})
}

fn job_spec(rng: &mut Rng) -> Value {
    let mut spec = json!({
        "completions": rng.range(1, 8),
        "parallelism": rng.range(1, 5),
        // Back-off doubles with each failure: more of them would take longer than anybody waits here.
        "backoffLimit": rng.range(0, 3),
        "podReplacementPolicy": if rng.one_in(2) { "Failed" } else { "TerminatingOrFailed" },
        "template": {"metadata": {"labels": {"app": "batch"}}, "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "c", "image": "job"}],
        }},
    });
    if rng.one_in(2) {
        spec["completionMode"] = "Indexed".into();
        if rng.one_in(2) {
            spec["backoffLimitPerIndex"] = rng.range(0, 2).into();
            spec["backoffLimit"] = i32::MAX.into();
        }
    }
    if rng.one_in(4) {
        spec["ttlSecondsAfterFinished"] = rng.range(0, 20).into();
    }
    spec
}

fn create_service(store: &mut Store, namespace: &str, rng: &mut Rng) -> Result<(), String> {
    let app = NAMES[rng.below(3)];
    let port = if rng.one_in(2) { json!("http") } else { json!(8080) };
    let object = json!({
        "metadata": {"name": app, "namespace": namespace},
        "spec": {
            "selector": {"app": app},
            "publishNotReadyAddresses": rng.one_in(5),
            "ports": [{"name": "web", "port": 80, "targetPort": port}],
        },
    });
    accept(store.create(&kinds::SERVICE, object))
}

/// An object that is not being deleted.
fn pick(store: &Store, kind: &Kind, rng: &mut Rng) -> Option<Arc<Object>> {
    let objects: Vec<_> = store.cluster.list(kind).filter(|o| !o.is_deleting()).collect();
    rng.pick(&objects).map(|object| (*object).clone())
}

fn image_of(workload: &Object) -> String {
    let image = &tree(workload)["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap_or_default().to_owned()
}

fn set_image(store: &mut Store, deployment: &Object, image: &str) -> Result<(), String> {
    let mut containers = tree(deployment)["spec"]["template"]["spec"]["containers"].clone();
    containers[0]["image"] = image.into();
    edit(store, deployment, json!({"spec": {"template": {"spec": {"containers": containers}}}}))
}

fn edit(store: &mut Store, object: &Object, patch: Value) -> Result<(), String> {
    accept(store.patch(object, None, &patch))
}

/// Users may collide with what is there or going; they may not write nonsense.
fn accept(outcome: Result<u64, Refusal>) -> Result<(), String> {
    match outcome {
        Err(Refusal::Invalid(why)) => Err(format!("the user wrote nonsense: {why}")),
        _ => Ok(()),
    }
}
