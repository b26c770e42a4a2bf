//! The loop around the scheduler: shows it every change, and writes what it decides.
//!
//! Deciding is quick and done here, one batch after the other; bindings are written beside that, many at a time, so that
//! they share commits to disk. A binding that fails is taken back. Next step of the apply trace: the agent of the node.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::plan::EventRecord;
use coracle_api::{ApiError, Change, Object, kinds};
use coracle_scheduler::{Decision, Outcome, Scheduler, Unschedulable, VolumeChoice};
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use crate::recorder::Recorder;
use crate::registry::{Caller, DeleteOptions, Part, Registry, WriteOptions, now};

/// Decisions of one batch.
const BATCH: usize = 512;
/// Batches that are being written at a time.
const BATCHES: usize = 4;
/// Writes of one batch under way at a time.
const AT_ONCE: usize = 256;
/// The longest sleep.
const IDLE: Duration = Duration::from_secs(60);

/// Runs the scheduler until the server stops.
pub(crate) async fn run(
    registry: Registry,
    recorder: Recorder,
    mut stopping: watch::Receiver<bool>,
) {
    let mut changes = registry.cache.changes();
    let mut scheduler = observe_all(&registry);
    let mut writing: JoinSet<Vec<Arc<Object>>> = JoinSet::new();
    loop {
        if writing.len() < BATCHES {
            let decisions = scheduler.schedule(Timestamp::now(), BATCH);
            if !decisions.is_empty() {
                writing.spawn(write(decisions, registry.clone(), recorder.clone()));
                // Others run too; changes are taken in before the next batch.
                tokio::task::yield_now().await;
            }
        }
        let wait = if writing.len() < BATCHES { until(scheduler.wake_at()) } else { IDLE };
        tokio::select! {
            biased;
            _ = stopping.changed() => return,
            change = changes.recv() => match change {
                Ok(change) => {
                    scheduler.observe(&change);
                    if drain(&mut changes, &mut scheduler) {
                        scheduler = observe_all(&registry);
                    }
                }
                Err(RecvError::Lagged(_)) => scheduler = observe_all(&registry),
                Err(RecvError::Closed) => return,
            },
            Some(failed) = writing.join_next() => match failed {
                Ok(failed) => failed.iter().for_each(|pod| scheduler.forget(pod)),
                Err(panic) => tracing::error!(%panic, "writing bindings failed"),
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Takes in what is there; true if some changes were missed.
fn drain(changes: &mut broadcast::Receiver<Arc<Change>>, scheduler: &mut Scheduler) -> bool {
    loop {
        match changes.try_recv() {
            Ok(change) => scheduler.observe(&change),
            Err(TryRecvError::Lagged(_)) => return true,
            Err(_) => return false,
        }
    }
}

/// A scheduler that knows the cluster as it is. Changes that arrive twice do no harm.
fn observe_all(registry: &Registry) -> Scheduler {
    let mut scheduler = Scheduler::new();
    let cluster = registry.cache.read();
    let revision = cluster.revision();
    // In this order each Pod is seen when all that it needs is known.
    let all = [
        &kinds::NAMESPACE,
        &kinds::POD_DISRUPTION_BUDGET,
        &kinds::STORAGE_CLASS,
        &kinds::PERSISTENT_VOLUME,
        &kinds::PERSISTENT_VOLUME_CLAIM,
        &kinds::NODE,
        &kinds::POD,
    ];
    for kind in all {
        for object in cluster.list(kind) {
            scheduler.observe(&Change { revision, old: None, new: Some(object.clone()) });
        }
    }
    scheduler
}

fn until(wake_at: Option<Timestamp>) -> Duration {
    let Some(at) = wake_at else { return IDLE };
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default().min(IDLE)
}

/// Writes decisions; gives the Pods for which that failed.
async fn write(
    decisions: Vec<Decision>,
    registry: Registry,
    recorder: Recorder,
) -> Vec<Arc<Object>> {
    let writes = decisions.into_iter().map(|decision| one(decision, &registry, &recorder));
    let outcomes: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
    outcomes.into_iter().flatten().collect()
}

fn options() -> WriteOptions {
    WriteOptions::of_component(coracle_scheduler::NAME)
}

async fn one(decision: Decision, registry: &Registry, recorder: &Recorder) -> Option<Arc<Object>> {
    let Decision { pod, outcome, volumes } = decision;
    let place = (pod.meta.namespace.as_str(), pod.meta.name.as_str());
    for choice in &volumes {
        if let Err(error) = give(&pod, choice, registry).await {
            tracing::debug!(pod = %pod.key(), volume = choice.volume, %error, "a volume was not to be had");
            return Some(pod);
        }
    }
    match outcome {
        Outcome::Bind(node) => match registry.bind(place, &node, Some(&pod), options()).await {
            Ok(_) => {
                let message = format!("Successfully assigned {} to {node}", pod.key());
                let event = EventRecord::about(&pod, false, "Scheduled", message);
                recorder.record(coracle_scheduler::NAME, event);
                None
            }
            Err(error) => {
                tracing::debug!(pod = %pod.key(), node, %error, "a binding was refused");
                Some(pod)
            }
        },
        Outcome::Unschedulable(told) => match unschedulable(&pod, told, registry, recorder).await {
            Ok(()) => None,
            // Gone meanwhile, most likely; otherwise it is told again when it is tried again.
            Err(error) => {
                tracing::debug!(pod = %pod.key(), %error, "a Pod was not told why it waits, or got no room");
                Some(pod)
            }
        },
    }
}

/// Gives a volume to the claim that it was chosen for. The claim's controller does the rest, as with volumes that people keep
/// for a claim.
async fn give(pod: &Object, choice: &VolumeChoice, registry: &Registry) -> Result<(), ApiError> {
    let (kind, namespace) = (&kinds::PERSISTENT_VOLUME, pod.meta.namespace.as_str());
    let claim = registry
        .cache
        .get(&kinds::PERSISTENT_VOLUME_CLAIM, namespace, &choice.claim)
        .ok_or_else(|| ApiError::not_found(&kinds::PERSISTENT_VOLUME_CLAIM, &choice.claim))?;
    let reference = json!({
        "kind": "PersistentVolumeClaim",
        "apiVersion": "v1",
        "namespace": namespace,
        "name": choice.claim,
        "uid": claim.meta.uid,
        "resourceVersion": claim.meta.resource_version.to_string(),
    });
    let edit = |_: &Arc<Object>, mut tree: Value| {
        let known = &tree["spec"]["claimRef"];
        let is_kept = known["namespace"] == namespace && known["name"] == choice.claim.as_str();
        let is_its =
            known["uid"].as_str().is_none_or(|uid| uid.is_empty() || uid == claim.meta.uid);
        match known.is_null() {
            true => {
                tree["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"] =
                    "yes".into();
            }
            false if is_kept && is_its => {}
            false => return Err(ApiError::modified(kind, &choice.volume)),
        }
        tree["spec"]["claimRef"] = reference.clone();
        Ok(tree)
    };
    registry.update(kind, ("", &choice.volume), Part::Main, options(), edit).await.map(|_| ())
}

/// Says why a Pod waits, and asks those to go that are in its way.
async fn unschedulable(
    pod: &Object,
    told: Unschedulable,
    registry: &Registry,
    recorder: &Recorder,
) -> Result<(), ApiError> {
    let Unschedulable { message, nominated, victims } = told;
    edit(pod, registry, |tree| {
        set_condition(tree, ["PodScheduled", "False", "Unschedulable", &message]);
        match &nominated {
            Some(node) => tree["status"]["nominatedNodeName"] = node.as_str().into(),
            None => {
                if let Some(status) = tree["status"].as_object_mut() {
                    status.remove("nominatedNodeName");
                }
            }
        }
    })
    .await?;
    let event = EventRecord::about(pod, true, "FailedScheduling", message);
    recorder.record(coracle_scheduler::NAME, event);
    let node = nominated.as_deref().unwrap_or_default();
    for victim in victims {
        match preempt(&victim, registry).await {
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {node}", pod.meta.uid);
                let event = EventRecord::about(&victim, false, "Preempted", message);
                recorder.record(coracle_scheduler::NAME, event);
            }
            // It went by itself.
            Err(error) if matches!(error.code, 404 | 409) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Deletes a Pod gracefully, once its status says why.
async fn preempt(victim: &Object, registry: &Registry) -> Result<(), ApiError> {
    let message =
        format!("{}: preempting to accommodate a higher priority pod", coracle_scheduler::NAME);
    let mark = ["DisruptionTarget", "True", "PreemptionByScheduler", &message];
    edit(victim, registry, |tree| set_condition(tree, mark)).await?;
    let caller = Caller::Component(coracle_scheduler::NAME);
    let mut options = DeleteOptions { caller, ..DeleteOptions::default() };
    options.preconditions.uid = Some(victim.meta.uid.clone());
    let place = (victim.meta.namespace.as_str(), victim.meta.name.as_str());
    registry.delete(&kinds::POD, place, &options).await.map(|_| ())
}

/// Changes the status of a Pod, if it is still that one.
async fn edit(
    pod: &Object,
    registry: &Registry,
    change: impl Fn(&mut Value) + Sync,
) -> Result<(), ApiError> {
    let place = (pod.meta.namespace.as_str(), pod.meta.name.as_str());
    registry
        .update(&kinds::POD, place, Part::Status, options(), |old, mut tree| {
            if old.meta.uid != pod.meta.uid {
                return Err(ApiError::not_found(&kinds::POD, &pod.meta.name));
            }
            change(&mut tree);
            Ok(tree)
        })
        .await
        .map(|_| ())
}

fn set_condition(tree: &mut Value, [kind, status, reason, message]: [&str; 4]) {
    let mut conditions = tree["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let known = conditions.iter().position(|c| c["type"] == kind);
    let since = known
        .filter(|i| conditions[*i]["status"] == status)
        .map(|i| conditions[i]["lastTransitionTime"].clone())
        .filter(|since| !since.is_null());
    let mut condition = json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| now().into()),
    });
    if tree["metadata"]["generation"].is_i64() {
        condition["observedGeneration"] = tree["metadata"]["generation"].clone();
    }
    match known {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
    tree["status"]["conditions"] = conditions.into();
}
