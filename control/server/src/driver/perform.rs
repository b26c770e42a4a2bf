//! Performing a plan: its writes in order, each with its precondition, then its events.

use std::time::Duration;

use coracle_api::plan::{EventRecord, Key};
use coracle_api::{ApiError, Kind, Plan, Write, schema};
use futures::stream::{self, StreamExt};
use serde_json::Value;

use super::failure;
use crate::recorder::Recorder;
use crate::registry::{DeleteOptions, Part, Preconditions, Registry, WriteOptions, merge};

/// Creations, deletions and patches of Pods side by side are performed so many at a time: they share commits to disk.
const AT_ONCE: usize = 64;
/// How long the cache may take to show what was written.
const VISIBLE: Duration = Duration::from_secs(30);

/// What became of a plan.
pub(super) enum Outcome {
    /// All written; to be looked at again after a while, if at all.
    Done {
        /// After how long.
        again: Option<Duration>,
    },
    /// Something was refused: run the key again on a newer view.
    Failed,
}

/// Performs a plan and waits until the cache shows it.
pub(super) async fn perform(
    controller: &'static str,
    key: &Key,
    plan: Plan,
    registry: &Registry,
    recorder: &Recorder,
) -> Outcome {
    let Plan { writes, events, requeue_after, .. } = plan;
    let mut written = 0;
    let mut refused = false;
    let mut rest = writes.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut together = vec![first];
        while let Some(next) = rest.next_if(|next| independent(&together[0], next)) {
            together.push(next);
        }
        let mut results = stream::iter(together)
            .map(|write| one(controller, write, registry, recorder))
            .buffer_unordered(AT_ONCE);
        while let Some(result) = results.next().await {
            match result {
                Ok(revision) => written = written.max(revision),
                Err(error) => {
                    refused = true;
                    report(controller, key, &error);
                }
            }
        }
        if refused {
            break;
        }
    }
    if refused {
        // On a newer view, whatever made it newer.
        written = written.max(registry.store.revision());
    }
    if registry.cache.wait_for(written, VISIBLE).await.is_err() {
        tracing::warn!(controller, %key, "the cache is slow to show what was written");
        return Outcome::Failed;
    }
    if refused {
        return Outcome::Failed;
    }
    for event in events {
        recorder.record(&format!("{controller}-controller"), event);
    }
    Outcome::Done { again: requeue_after }
}

/// Neighbours of one sort do not depend on each other's order.
fn independent(one: &Write, other: &Write) -> bool {
    match (one, other) {
        (Write::Create { .. }, Write::Create { .. })
        | (Write::Delete { .. }, Write::Delete { .. }) => true,
        // No plan patches one Pod twice in a row.
        (Write::Patch { kind: one, .. }, Write::Patch { kind: other, .. }) => {
            one.is_pod() && other.is_pod()
        }
        _ => false,
    }
}

fn report(controller: &str, key: &Key, error: &ApiError) {
    match error.code {
        // Stale views are everyday life.
        404 | 409 => tracing::debug!(controller, %key, %error, "a write was refused"),
        _ => tracing::warn!(controller, %key, %error, "a write was refused"),
    }
}

/// One write; the revision at which it is visible.
async fn one(
    controller: &'static str,
    write: Write,
    registry: &Registry,
    recorder: &Recorder,
) -> Result<u64, ApiError> {
    let options = WriteOptions::of_component(controller);
    match write {
        Write::Create { kind, object } => {
            let object = checked(kind, object)?;
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
            let owner = controller_of(&object, &namespace);
            match registry.create(kind, &namespace, object, options).await {
                Ok(created) => Ok(created.meta.resource_version),
                Err(error) => {
                    if error.reason != "AlreadyExists"
                        && let Some(about) = owner
                    {
                        if kind.is_pod() {
                            let options = WriteOptions::of_component(controller);
                            failure::note(registry, &about, &error, options).await;
                        }
                        let message = format!("Error creating: {error}");
                        let event = EventRecord {
                            warning: true,
                            reason: "FailedCreate".into(),
                            message,
                            ..about
                        };
                        recorder.record(&format!("{controller}-controller"), event);
                    }
                    Err(error)
                }
            }
        }
        Write::Patch { kind, namespace, name, revision, subresource, patch } => {
            let part = match subresource {
                None => Part::Main,
                Some("status") => Part::Status,
                Some("finalize") => Part::Finalize,
                Some("approval") => Part::Approval,
                Some(other) => {
                    return Err(ApiError::internal(format!("no subresource {other} to patch")));
                }
            };
            registry
                .update(kind, (&namespace, &name), part, options, |old, tree| {
                    if old.meta.resource_version != revision {
                        return Err(ApiError::modified(kind, &name));
                    }
                    checked(kind, merge(tree, patch.clone()))
                })
                .await
                // Gone objects have no revision of their own.
                .map(|object| match object.meta.resource_version {
                    0 => registry.store.revision(),
                    revision => revision,
                })
        }
        Write::Delete { kind, namespace, name, uid, revision, propagation, grace_seconds } => {
            let options = DeleteOptions {
                grace_seconds,
                propagation: Some(propagation),
                preconditions: Preconditions { uid: Some(uid), revision },
                caller: options.caller,
                ..DeleteOptions::default()
            };
            registry.delete(kind, (&namespace, &name), &options).await?;
            Ok(registry.store.revision())
        }
    }
}

/// What a controller made, as the schema has it: `null` is absence, and unknown fields are a bug worth a log line.
fn checked(kind: &Kind, object: Value) -> Result<Value, ApiError> {
    if kind.custom {
        // Of these a controller writes nothing but metadata and scale.
        return Ok(object);
    }
    let schema = schema::builtin()
        .by_gvk(kind.group, kind.version, kind.kind)
        .ok_or_else(|| ApiError::internal(format!("no schema for {}", kind.resource)))?;
    let decoded =
        schema::check(object, schema).map_err(|e| ApiError::bad_request(e.to_string()))?;
    if let Some(strict) = decoded.strict_error() {
        tracing::error!(kind = kind.resource, strict, "a controller wrote unknown fields");
    }
    Ok(decoded.value)
}

/// The controller of an object, as events are about it.
fn controller_of(object: &Value, namespace: &str) -> Option<EventRecord> {
    let owner = object["metadata"]["ownerReferences"]
        .as_array()?
        .iter()
        .find(|owner| owner["controller"] == true)?;
    let text = |field: &str| owner[field].as_str().unwrap_or_default().to_owned();
    Some(EventRecord {
        api_version: text("apiVersion"),
        kind: text("kind"),
        namespace: namespace.to_owned(),
        name: text("name"),
        uid: text("uid"),
        warning: true,
        reason: String::new(),
        message: String::new(),
    })
}
