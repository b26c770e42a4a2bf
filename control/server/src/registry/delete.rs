//! Deletion: grace, finalizers, propagation (`k8s.io/apiserver/pkg/registry/rest/delete.go` and `…/store.go`).

use std::sync::Arc;

use coracle_api::custom::CLEANUP_FINALIZER;
use coracle_api::kinds;
use coracle_api::plan::Propagation;
use coracle_api::{ApiError, Kind, Object};
use coracle_store::{Batch, Expect};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::commit::Refused;
use super::{ATTEMPTS, Caller, Operation, Registry, Request, meta};

/// Waits for dependents that block; the garbage collector removes it.
const FOREGROUND: &str = "foregroundDeletion";
/// Waits until dependents have been let go; the garbage collector removes it.
const ORPHAN: &str = "orphan";
/// Namespaces that are always there.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
const POD_GRACE_SECONDS: i64 = 30;

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    /// Seconds; `None` is the kind's own.
    pub(crate) grace_seconds: Option<i64>,
    /// What becomes of dependents; `None` is what finalizers say, else what is usual for the kind.
    pub(crate) propagation: Option<Propagation>,
    /// What must hold.
    pub(crate) preconditions: Preconditions,
    /// Delete it although it cannot be read.
    pub(crate) ignore_read_error: bool,
    /// Do everything but commit.
    pub(crate) dry_run: bool,
    /// Who asks.
    pub(crate) caller: Caller,
}

/// `metav1.Preconditions`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preconditions {
    /// UID that the object must have.
    pub(crate) uid: Option<String>,
    /// Revision that it must be at.
    pub(crate) revision: Option<u64>,
}

/// What a deletion came to.
pub(crate) enum Deleted {
    /// It is gone; this was it.
    Gone(Arc<Object>),
    /// It waits for its grace period or for finalizers.
    Waiting(Arc<Object>),
}

impl Deleted {
    /// The object, as it is or last was.
    pub(crate) fn object(&self) -> &Arc<Object> {
        match self {
            Deleted::Gone(object) | Deleted::Waiting(object) => object,
        }
    }
}

impl Registry {
    /// Asks for an object's deletion.
    pub(crate) async fn delete(
        &self,
        kind: &'static Kind,
        (namespace, name): (&str, &str),
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        if kind.resource == kinds::NAMESPACE.resource && IMMORTAL.contains(&name) {
            return Err(ApiError::forbidden(kind, name, "this namespace may not be deleted"));
        }
        self.catch_up().await?;
        for _ in 0..ATTEMPTS {
            let old = self
                .cache
                .get(kind, namespace, name)
                .ok_or_else(|| ApiError::not_found(kind, name))?;
            options.preconditions.check(&old)?;
            let place = (namespace, name);
            let mut request = Request::new(Operation::Delete, kind, place, &options.caller);
            (request.dry_run, request.deletion) = (options.dry_run, Some(options));
            let before = old.value();
            self.mutate(&request, Some(&before), None).await?;
            self.admit(&request, Some(&before), None).await?;
            let outcome = match plan(&old, &before, options)? {
                Step::Nothing => return Ok(Deleted::Waiting(old)),
                Step::Remove if options.dry_run => return Ok(Deleted::Gone(old)),
                Step::Remove => self.remove_object(&old).await.map(|_| Deleted::Gone(old.clone())),
                Step::Mark(new) if options.dry_run => {
                    let map = meta::as_object(&new)?;
                    return Self::dry(kind, map, old.meta.resource_version).map(Deleted::Waiting);
                }
                Step::Mark(new) => {
                    let expect = Expect::Revision(old.meta.resource_version);
                    let map = meta::as_object(&new)?;
                    self.put(kind, (namespace, name), map, expect, Batch::new())
                        .await
                        .map(Deleted::Waiting)
                }
            };
            match outcome {
                Ok(deleted) => return Ok(deleted),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Conflict { .. }) => self.catch_up().await?,
            }
        }
        Err(ApiError::modified(kind, name))
    }

    /// Deletes the object as it was seen, with what it holds.
    pub(super) async fn remove_object(&self, old: &Object) -> Result<u64, Refused> {
        let place = (old.meta.namespace.as_str(), old.meta.name.as_str());
        let batch = Self::release(old).batch(Batch::new(), place.0, place.1);
        self.remove(old.kind, place, Expect::Revision(old.meta.resource_version), batch).await
    }
}

impl Preconditions {
    fn check(&self, old: &Object) -> Result<(), ApiError> {
        let fail = |what: &str, wanted: &str, found: &str| {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            );
            Err(ApiError::conflict(old.kind, &old.meta.name, &why))
        };
        if let Some(uid) = &self.uid
            && *uid != old.meta.uid
        {
            return fail("UID", uid, &old.meta.uid);
        }
        if let Some(revision) = self.revision
            && revision != old.meta.resource_version
        {
            let (wanted, found) = (revision.to_string(), old.meta.resource_version.to_string());
            return fail("ResourceVersion", &wanted, &found);
        }
        Ok(())
    }
}

enum Step {
    /// It is on its way already.
    Nothing,
    Remove,
    /// Store this and wait.
    Mark(Value),
}

fn plan(old: &Object, tree: &Value, options: &DeleteOptions) -> Result<Step, ApiError> {
    if let Some(grace) = options.grace_seconds
        && grace < 0
    {
        return Err(ApiError::bad_request(
            "gracePeriodSeconds: Invalid value: must be greater than or equal to 0",
        ));
    }
    let grace = grace(old, tree, options);
    let finalizers = finalizers(old, options);
    let namespace_waits = old.kind.resource == kinds::NAMESPACE.resource
        && tree["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if grace == 0 && finalizers.is_empty() && !namespace_waits {
        return Ok(Step::Remove);
    }
    let mut new = tree.clone();
    let metadata = &mut new["metadata"];
    let mut changed = finalizers != old.meta.finalizers;
    if changed {
        metadata["finalizers"] = finalizers.into();
    }
    let known = old.meta.deletion_grace_period_seconds.unwrap_or(0);
    match old.meta.deletion_timestamp {
        Some(_) if grace >= known => {}
        Some(at) => {
            changed = true;
            // Of a grace period beyond the end of time, its beginning is not known any more.
            let at = at.checked_sub(SignedDuration::from_secs(known - grace));
            let at = at.unwrap_or_else(|_| after(grace));
            metadata["deletionTimestamp"] = meta::seconds(at).into();
            metadata["deletionGracePeriodSeconds"] = grace.into();
        }
        None => {
            changed = true;
            metadata["deletionTimestamp"] = meta::seconds(after(grace)).into();
            metadata["deletionGracePeriodSeconds"] = grace.into();
            if old.meta.generation > 0 {
                metadata["generation"] = (old.meta.generation + 1).into();
            }
        }
    }
    if old.kind.resource == kinds::CUSTOM_RESOURCE_DEFINITION.resource && !old.is_deleting() {
        set_terminating(&mut new);
    }
    if old.kind.resource == kinds::NAMESPACE.resource && new["status"]["phase"] != "Terminating" {
        changed = true;
        new["status"]["phase"] = "Terminating".into();
    }
    if let Some(metadata) = new["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    Ok(if changed { Step::Mark(new) } else { Step::Nothing })
}

/// So many seconds from now, or the last moment that can be written.
fn after(seconds: i64) -> Timestamp {
    let at = Timestamp::now().checked_add(SignedDuration::from_secs(seconds));
    at.unwrap_or(Timestamp::MAX)
}

/// A definition tells that its objects are about to go.
fn set_terminating(definition: &mut Value) {
    let told = serde_json::json!({
        "type": "Terminating",
        "status": "True",
        "lastTransitionTime": meta::now(),
        "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will be initiated as soon as possible",
    });
    let conditions = &mut definition["status"]["conditions"];
    match conditions.as_array_mut() {
        Some(list) => {
            list.retain(|known| known["type"] != "Terminating");
            list.push(told);
        }
        None => *conditions = serde_json::json!([told]),
    }
}

/// The grace period that holds after this request. Only Pods have one: somebody must stop them.
fn grace(old: &Object, tree: &Value, options: &DeleteOptions) -> i64 {
    if !old.kind.is_pod() {
        return 0;
    }
    let finished = matches!(tree["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if old.node_name.is_none() || finished {
        return 0;
    }
    let own = tree["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(POD_GRACE_SECONDS);
    match (old.meta.deletion_timestamp, options.grace_seconds) {
        (None, asked) => asked.unwrap_or(own.max(0)),
        (Some(_), asked) => {
            let known = old.meta.deletion_grace_period_seconds.unwrap_or(0);
            asked.map_or(known, |asked| asked.min(known))
        }
    }
}

fn finalizers(old: &Object, options: &DeleteOptions) -> Vec<String> {
    let mut list = old.meta.finalizers.clone();
    let said = list.iter().any(|f| f == FOREGROUND || f == ORPHAN);
    if old.kind.resource == kinds::CUSTOM_RESOURCE_DEFINITION.resource
        && !old.is_deleting()
        && !list.iter().any(|f| f == CLEANUP_FINALIZER)
    {
        list.push(CLEANUP_FINALIZER.to_owned());
    }
    let by_default = (old.kind.orphans_dependents && !said).then_some(Propagation::Orphan);
    let wanted = match options.propagation.or(by_default) {
        None => return list,
        Some(Propagation::Background) => None,
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Orphan) => Some(ORPHAN),
    };
    list.retain(|f| (f != FOREGROUND && f != ORPHAN) || Some(f.as_str()) == wanted);
    if let Some(wanted) = wanted
        && !list.iter().any(|f| f == wanted)
    {
        list.push(wanted.to_owned());
    }
    list
}

/// Kinds whose deletion answers with the object rather than with a Status.
pub(crate) fn answers_with_object(kind: &Kind) -> bool {
    matches!(kind.resource, "pods" | "serviceaccounts")
}
