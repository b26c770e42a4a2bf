//! POST of an Eviction: a deletion that PodDisruptionBudgets may refuse for a while (`pkg/registry/core/pod/storage/eviction.go`
//! upstream).
//!
//! What a budget allows is counted down in its status before the Pod goes, on the state that was seen: of two evictions at a
//! time one is second, and looks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use coracle_api::kinds;
use coracle_api::selector::LabelSelector;
use coracle_api::status::Details;
use coracle_api::{ApiError, Object};
use http::request::Parts;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::App;
use super::answer::Answer;
use super::body::{self, FieldValidation};
use super::request::RequestInfo;
use super::{apply, delete, write};
use crate::registry::{DeleteOptions, Operation, Part, Registry, Request, WriteOptions, seconds};

/// Pods that a budget may have let go without having seen them go.
const MOST_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Deletes the Pod if no budget is against it.
pub(super) async fn evict(app: &App, info: &RequestInfo, parts: &Parts, body: Body) -> Answer {
    let bytes = body::read(&parts.headers, body).await?;
    let schema = body::schema_of("policy", "v1", "Eviction")?;
    let (mut eviction, _) =
        body::decode(&bytes, &parts.headers, schema, FieldValidation::of(&info.query)?)?;
    let named = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if !named.is_empty() && named != info.name {
        return Err(
            ApiError::bad_request("name in URL does not match name in Eviction object").into()
        );
    }
    let mut options = delete::from_value(&eviction["deleteOptions"])?;
    options.dry_run |= info.query.dry_run()?;
    let pod = super::read::fresh_object(&app.registry, info, &kinds::POD).await?;
    // Who may evict needs nobody's leave for the deletion too.
    let (caller, place) = (apply::caller(parts), (info.namespace.as_str(), info.name.as_str()));
    let mut admitted = Request::new(Operation::Create, &kinds::POD, place, &caller);
    admitted.dry_run = options.dry_run;
    app.registry.admit_action(&admitted.of("eviction"), &mut eviction).await?;
    if needs_leave(&pod) {
        let leave = ask(&app.registry, &pod, options.dry_run).await?;
        if leave == Leave::WhileUnready && options.preconditions.revision.is_none() {
            // Not once it has become ready.
            options.preconditions.revision = Some(pod.meta.resource_version);
        }
    }
    if !options.dry_run {
        mark(app, info, &mut options).await?;
    }
    app.registry.delete(&kinds::POD, (&info.namespace, &info.name), &options).await?;
    Ok(write::created())
}

/// What a budget says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// It has been counted down, or there is none.
    Given,
    /// The Pod does not serve anyway.
    WhileUnready,
}

/// Pods that do not run yet or any more, or are going already, are nothing to any budget.
fn needs_leave(pod: &Object) -> bool {
    let phase = coracle_api::json::peek(pod.json(), "status.phase");
    !pod.is_deleting() && !matches!(phase.as_str(), "Succeeded" | "Failed" | "Pending")
}

async fn ask(registry: &Registry, pod: &Object, dry_run: bool) -> Result<Leave, ApiError> {
    let namespace = pod.meta.namespace.as_str();
    let budgets: Vec<Arc<Object>> = {
        let cluster = registry.cache.read();
        let about = |budget: &&Arc<Object>| {
            let tree = budget.value();
            LabelSelector::from_value(tree["spec"].get("selector"))
                .is_ok_and(|selector| selector.matches(&pod.meta.labels))
        };
        cluster.list_in(&kinds::POD_DISRUPTION_BUDGET, namespace).filter(about).cloned().collect()
    };
    let budget = match &budgets[..] {
        [] => return Ok(Leave::Given),
        [budget] => budget,
        _ => {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let tree = budget.value();
    if !is_ready(pod) {
        let count = |field: &str| tree["status"][field].as_i64().unwrap_or(0);
        let healthy =
            count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
        if tree["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || healthy {
            return Ok(Leave::WhileUnready);
        }
    }
    let name = budget.meta.name.as_str();
    let options = WriteOptions { dry_run, ..WriteOptions::default() };
    let count_down = |_: &Arc<Object>, budget: Value| take(budget, name, &pod.meta.name);
    registry
        .update(&kinds::POD_DISRUPTION_BUDGET, (namespace, name), Part::Status, options, count_down)
        .await?;
    Ok(Leave::Given)
}

fn is_ready(pod: &Object) -> bool {
    let tree = pod.value();
    let mut conditions = tree["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The budget with one disruption less, and the Pod noted.
fn take(mut budget: Value, name: &str, pod: &str) -> Result<Value, ApiError> {
    let status = &mut budget["status"];
    let observed = status["observedGeneration"].as_i64().unwrap_or(0);
    if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(why, Some(10)));
    }
    let status = &mut budget["status"];
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    let forbidden = |why: &str| Err(ApiError::forbidden(&kinds::POD_DISRUPTION_BUDGET, name, why));
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let failed = conditions.find(|c| c["reason"] == "SyncFailed");
        let count = |field: &str| status[field].as_i64().unwrap_or(0);
        let why = match failed {
            Some(failed) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                failed["message"].as_str().unwrap_or_default()
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                count("desiredHealthy"),
                count("currentHealthy")
            ),
        };
        return Err(refused(why, None));
    }
    status["disruptionsAllowed"] = (allowed - 1).into();
    if status["disruptedPods"].is_null() {
        status["disruptedPods"] = json!({});
    }
    let now = seconds(Timestamp::now());
    status["disruptedPods"][pod] = now.as_str().into();
    if allowed == 1 {
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            if condition["type"] == "DisruptionAllowed" && condition["status"] == "True" {
                condition["status"] = "False".into();
                condition["reason"] = "InsufficientPods".into();
                condition["lastTransitionTime"] = now.as_str().into();
            }
        }
    }
    Ok(budget)
}

/// 429, which clients such as `kubectl drain` take for "later".
fn refused(why: String, retry_after_seconds: Option<u32>) -> ApiError {
    let mut error = ApiError::new(429, "TooManyRequests", REFUSED);
    error.details = Some(Box::new(Details {
        causes: vec![("DisruptionBudget".into(), why, String::new())],
        retry_after_seconds,
        ..Details::default()
    }));
    error
}

/// Says in the Pod's status why it goes, before it does; what the deletion requires is required of this too.
async fn mark(app: &App, info: &RequestInfo, options: &mut DeleteOptions) -> Result<(), ApiError> {
    let wanted = &options.preconditions;
    let held = AtomicBool::new(false);
    let mark = |old: &Arc<Object>, mut pod: Value| {
        let other_uid = wanted.uid.as_ref().is_some_and(|uid| *uid != old.meta.uid);
        let other_state = wanted.revision.is_some_and(|at| at != old.meta.resource_version);
        held.store(!other_uid && !other_state, Ordering::Relaxed);
        if other_uid || other_state {
            // The deletion refuses it, in its own words.
            return Ok(pod);
        }
        let mut conditions = match pod["status"]["conditions"].take() {
            Value::Array(conditions) => conditions,
            _ => Vec::new(),
        };
        let is_mark = |c: &Value| c["type"] == "DisruptionTarget";
        if !conditions.iter().any(|c| is_mark(c) && c["status"] == "True") {
            conditions.retain(|c| !is_mark(c));
            conditions.push(json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
                "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }));
        }
        pod["status"]["conditions"] = conditions.into();
        Ok(pod)
    };
    let name = (info.namespace.as_str(), info.name.as_str());
    let marking =
        app.registry.update(&kinds::POD, name, Part::Status, WriteOptions::default(), mark);
    let marked = marking.await?;
    if wanted.revision.is_some() && held.load(Ordering::Relaxed) {
        // Its own write is nobody else's.
        options.preconditions.revision = Some(marked.meta.resource_version);
    }
    Ok(())
}
