//! Tells the owner of Pods that they cannot be made: condition `ReplicaFailure` of ReplicaSets and ReplicationControllers.
//!
//! Controllers are functions of what they see, and no view shows that a write was refused. So whoever performs it notes it in
//! the owner's status, once; the controller takes the note away when no Pod is missing any more.

use std::sync::Arc;

use coracle_api::plan::EventRecord;
use coracle_api::{ApiError, Kind, Object, kinds};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::{Part, Registry, WriteOptions, seconds};

const CONDITION: &str = "ReplicaFailure";

/// Notes why a Pod of an owner could not be made.
pub(super) async fn note(
    registry: &Registry,
    owner: &EventRecord,
    why: &ApiError,
    options: WriteOptions,
) {
    let Some(kind) = tells(owner) else { return };
    let place = (owner.namespace.as_str(), owner.name.as_str());
    let is_told = |object: &Arc<Object>| {
        object.meta.uid != owner.uid || find(&object.value()["status"]["conditions"]).is_some()
    };
    // A refusal that repeats is no news.
    if registry.cache.read().get(kind, place.0, place.1).is_none_or(is_told) {
        return;
    }
    let condition = json!({
        "type": CONDITION,
        "status": "True",
        "lastTransitionTime": seconds(Timestamp::now()),
        "reason": "FailedCreate",
        "message": why.to_string(),
    });
    let add = |old: &Arc<Object>, mut tree: Value| {
        if is_told(old) {
            return Ok(tree);
        }
        let conditions = &mut tree["status"]["conditions"];
        match conditions.as_array_mut() {
            Some(known) => known.push(condition.clone()),
            None => *conditions = json!([condition]),
        }
        Ok(tree)
    };
    if let Err(error) = registry.update(kind, place, Part::Status, options, add).await {
        tracing::debug!(owner = %owner.name, %error, "a failure was not noted");
    }
}

fn tells(owner: &EventRecord) -> Option<&'static Kind> {
    let all: [&'static Kind; 2] = [&kinds::REPLICA_SET, &kinds::REPLICATION_CONTROLLER];
    let is = |kind: &&Kind| kind.kind == owner.kind && kind.api_version() == owner.api_version;
    all.into_iter().find(is)
}

fn find(conditions: &Value) -> Option<&Value> {
    conditions.as_array()?.iter().find(|c| c["type"] == CONDITION)
}
