//! What comes after a Pod: its image is made ready here before the Pod stops.
//!
//! A Deployment that replaces its Pods with `strategy: Recreate` or without a surge deletes the old Pod first, and creates the
//! new one when the old one is gone: pulled and compiled only then, its image would be time in which nobody answers. So a Pod
//! that is told to go, and that others of another template come after, goes on serving (Services lead to Pods that are about
//! to go while there are no others) until the images of that template are here, or it has waited for [`PATIENCE`].
//!
//! Why so: the node asks only when a Pod of its own goes, and once for all Pods that go at that moment. Nothing is watched, so
//! 5,000 nodes cost the API nothing while nothing is replaced; no controller waits for nodes; and an agent that is killed
//! meanwhile sees the same deletion again. Where the new Pod comes to another node it pulls as any Pod does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Container, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;

use super::{Workers, images};
use crate::images::{PullPolicy, Wanted, Workload};
use crate::pod::lifecycle::{Event, PodState, Sandbox};
use crate::pod::spec;

/// How long a Pod that was deleted stays for what comes after it; its grace period begins then.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the API server may take to say what comes after a Pod.
const ANSWER: Duration = Duration::from_secs(5);
/// Owners that are remembered though nobody asks for them at the moment.
const IDLE: usize = 256;

/// How far a Pod's deletion has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    /// It is not deleted, or nothing of it was told yet.
    No,
    /// It stays until what comes after it is ready, and has so many seconds then.
    Waiting(u32),
    /// It was told to end.
    Told,
}

/// Who made a Pod: namespace, kind and name.
type Maker = (String, String, String);
type Template = Option<Arc<PodTemplateSpec>>;
/// The last answer, and when it was asked for; locked while it is asked for.
type Answer = tokio::sync::Mutex<Option<(Instant, Template)>>;

/// What makers of Pods were seen to make, and when they were asked.
#[derive(Default)]
pub(super) struct Makers {
    known: Mutex<HashMap<Maker, Arc<Answer>>>,
}

impl Makers {
    /// What is made now. Who asks while another does gets the answer to a question that was put after his own.
    async fn template(&self, client: &kube::Client, maker: Maker) -> Template {
        let asked = Instant::now();
        let place = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= IDLE {
                known.retain(|_, place| Arc::strong_count(place) > 1);
            }
            known.entry(maker.clone()).or_default().clone()
        };
        let mut last = place.lock().await;
        if let Some((at, template)) = &*last
            && *at >= asked
        {
            return template.clone();
        }
        let at = Instant::now();
        let answer = tokio::time::timeout(ANSWER, ask(client, &maker)).await;
        let template = match answer {
            Ok(Ok(template)) => template.map(Arc::new),
            Ok(Err(error)) => {
                tracing::debug!(%error, ?maker, "not known what comes after its Pods");
                None
            }
            Err(_) => None,
        };
        *last = Some((at, template.clone()));
        template
    }
}

/// What the maker makes now; None where it makes nothing any more.
async fn ask(client: &kube::Client, maker: &Maker) -> kube::Result<Option<PodTemplateSpec>> {
    let (namespace, kind, name) = maker;
    match kind.as_str() {
        "ReplicaSet" => {
            let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
            let Some(set) = sets.get_opt(name).await?.filter(|set| stays(&set.metadata)) else {
                return Ok(None);
            };
            let Some(owner) = controller(&set.metadata).filter(|o| o.kind == "Deployment") else {
                return Ok(set.spec.and_then(|spec| spec.template));
            };
            let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
            let deployment = deployments.get_opt(&owner.name).await?;
            let deployment = deployment.filter(|d| stays(&d.metadata));
            Ok(deployment.and_then(|d| d.spec).map(|spec| spec.template))
        }
        "StatefulSet" => {
            let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
            let set = sets.get_opt(name).await?.filter(|set| stays(&set.metadata));
            Ok(set.and_then(|set| set.spec).map(|spec| spec.template))
        }
        "DaemonSet" => {
            let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
            let set = sets.get_opt(name).await?.filter(|set| stays(&set.metadata));
            Ok(set.and_then(|set| set.spec).map(|spec| spec.template))
        }
        _ => Ok(None),
    }
}

fn stays(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_none()
}

fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

impl Workers {
    /// Whether a Pod that was deleted stays for now; it is told of its end when what comes after it is ready.
    pub(super) fn lingers(&self, uid: &str, grace_seconds: u32) -> bool {
        let mut table = self.table();
        let Some(entry) = table.pods.get_mut(uid) else { return false };
        let first = match entry.leave {
            Leave::No => true,
            // Whoever asks again with less grace wants it gone.
            Leave::Waiting(before) if grace_seconds >= before => return true,
            Leave::Waiting(_) | Leave::Told => false,
        };
        let maker = first.then(|| maker(&entry.pod.open())).flatten();
        let left = patience(&entry.pod.open(), Timestamp::now());
        if let (Some(maker), Some(left), true) = (maker, left, serves(&entry.state)) {
            entry.leave = Leave::Waiting(grace_seconds);
            let (workers, pod) = (self.clone(), entry.pod.open());
            let uid = uid.to_owned();
            tokio::spawn(async move { workers.wait_for_successor(uid, pod, maker, left).await });
            return true;
        }
        entry.leave = Leave::Told;
        false
    }

    async fn wait_for_successor(self, uid: String, pod: Arc<Pod>, maker: Maker, left: Duration) {
        let workers = self.clone();
        // What is begun is gone on with, whoever waits: the Pods that come need it.
        let making = tokio::spawn(async move { workers.prepare_successor(&pod, maker).await });
        let _ = tokio::time::timeout(left, making).await;
        let grace_seconds = {
            let mut table = self.table();
            let Some(entry) = table.pods.get_mut(&uid) else { return };
            let Leave::Waiting(grace_seconds) = entry.leave else { return };
            entry.leave = Leave::Told;
            grace_seconds
        };
        self.post(&uid, Event::Delete { grace_seconds });
    }

    /// Pulls and compiles what comes after the Pod, as far as it is not here.
    async fn prepare_successor(&self, pod: &Pod, maker: Maker) {
        let Some(template) = self.inner.makers.template(&self.inner.parts.client, maker).await
        else {
            return;
        };
        let next = next_pod(pod, &template);
        if !differs(pod, &next) {
            return;
        }
        for (_, container) in spec::containers(&next) {
            self.prepare_image(pod, container).await;
        }
    }

    async fn prepare_image(&self, pod: &Pod, container: &Container) {
        let recorder = &self.inner.parts.recorder;
        let wanted = images::wanted(container);
        if wanted.policy == PullPolicy::Never {
            return;
        }
        let image = wanted.name;
        match self.obtain(pod, container, wanted).await {
            Ok((None, None)) => {}
            Ok(took) => {
                let part = |what: &str, took: Option<Duration>| match took {
                    Some(took) => format!("{what} in {}ms", took.as_millis()),
                    None => format!("{what} before"),
                };
                let (pulled, compiled) = (part("pulled", took.0), part("compiled", took.1));
                let message = format!(
                    "Image \"{image}\" of the Pods that come next is ready: {pulled}, {compiled}"
                );
                recorder.pod(pod, None, false, "Prepared", message);
            }
            Err(why) => {
                let message = format!(
                    "Image \"{image}\" of the Pods that come next is not ready, which this Pod does not wait for: {why}"
                );
                recorder.pod(pod, None, true, "NotPrepared", message);
            }
        }
    }

    /// How long pulling and compiling took, if they had to be done. With the credentials that the Pod brought: what the
    /// template alone names is not for this node to read yet.
    async fn obtain(
        &self,
        pod: &Pod,
        container: &Container,
        wanted: Wanted<'_>,
    ) -> Result<(Option<Duration>, Option<Duration>), String> {
        let parts = &self.inner.parts;
        let pulled = parts.images.ensure(wanted, self.keyring(pod), || ()).await;
        let pulled = pulled.map_err(|e| e.to_string())?;
        let limit = spec::limits(container).memory_limit;
        let Workload::Wasm(image) = &pulled.workload else {
            // Its layers are unpacked by now.
            return Ok((pulled.took, None));
        };
        let ready = parts.compiler.ensure(image, limit).await;
        let took = ready.map_err(|problem| problem.message)?.took;
        // Most likely the next Pod comes to the same host: there the code is loaded, and its engine made, before it starts. A
        // host that cannot does so then, or says why.
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Err(error) = parts.hosts.wasm(uid).prepare_image(image).await {
            tracing::debug!(%error, image = wanted.name, "not loaded in advance");
        }
        Ok((pulled.took, took))
    }
}

/// Who made the Pod, if others of its make may come after it.
fn maker(pod: &Pod) -> Option<Maker> {
    let owner = controller(&pod.metadata)?;
    if !owner.api_version.starts_with("apps/") {
        return None;
    }
    let namespace = pod.metadata.namespace.clone()?;
    Some((namespace, owner.kind.clone(), owner.name.clone()))
}

/// How long a deleted Pod may stay from now on; None for one that is to go at once.
fn patience(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let ends = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    if grace <= 0 {
        return None;
    }
    let asked = ends.checked_sub(SignedDuration::from_secs(grace)).ok()?;
    let waited = Duration::try_from(now.duration_since(asked)).unwrap_or_default();
    PATIENCE.checked_sub(waited).filter(|left| !left.is_zero())
}

/// Something would be missed if it stopped.
fn serves(state: &PodState) -> bool {
    state.sandbox == Sandbox::Ready && state.containers.iter().any(|c| c.phase.since().is_some())
}

/// The Pod as it would be made now.
fn next_pod(pod: &Pod, template: &PodTemplateSpec) -> Pod {
    let metadata = ObjectMeta {
        namespace: pod.metadata.namespace.clone(),
        ..template.metadata.clone().unwrap_or_default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// Whether the Pod was made from something else: another image, or other labels and annotations, as a restart of a rollout
/// sets them.
fn differs(pod: &Pod, next: &Pod) -> bool {
    let same_image = |next: &Container| {
        spec::container(pod, &next.name).is_some_and(|own| {
            own.image == next.image && own.image_pull_policy == next.image_pull_policy
        })
    };
    let pairs = [
        (&pod.metadata.labels, &next.metadata.labels),
        (&pod.metadata.annotations, &next.metadata.annotations),
    ];
    let has_all = pairs.into_iter().all(|(own, next)| {
        let mut next = next.iter().flatten();
        next.all(|(key, value)| own.as_ref().and_then(|own| own.get(key)) == Some(value))
    });
    !has_all || !spec::containers(next).all(|(_, container)| same_image(container))
}

#[cfg(test)]
mod tests;
