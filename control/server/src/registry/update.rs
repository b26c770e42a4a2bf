//! Changing an object, or one part of it.

use std::sync::Arc;

use coracle_api::kinds::{self, Generation, Prepare, Subresource};
use coracle_api::{ApiError, Kind, Object};
use coracle_store::{Batch, Expect};
use serde_json::{Map, Value};

use super::admission::note;
use super::commit::Refused;
use super::{ATTEMPTS, Operation, Registry, WriteOptions, allocate, fields, meta, scale, validate};
use crate::custom::Served;

/// What of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// Status, labels and annotations.
    Status,
    /// `spec.ephemeralContainers` of a Pod.
    EphemeralContainers,
    /// What containers of a Pod ask for and may use of CPU and memory.
    Resize,
    /// `spec.finalizers` of a Namespace.
    Finalize,
    /// The conditions of a CertificateSigningRequest.
    Approval,
    /// What of the object is in its Scale.
    Scale,
}

impl Part {
    /// The subresource that it is written through.
    fn subresource(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Finalize => "finalize",
            Self::Approval => "approval",
            Self::Scale => "scale",
        }
    }
}

impl Registry {
    /// Replaces the object by what `edit` makes of it. `edit` runs again on a newer state when somebody else was
    /// first, so a precondition is a `resourceVersion` in what it returns.
    pub(crate) async fn update(
        &self,
        kind: &'static Kind,
        (namespace, name): (&str, &str),
        part: Part,
        options: WriteOptions,
        edit: impl Fn(&Arc<Object>, Value) -> Result<Value, ApiError> + Send,
    ) -> Result<Arc<Object>, ApiError> {
        self.catch_up().await?;
        for _ in 0..ATTEMPTS {
            let stored = self
                .cache
                .get(kind, namespace, name)
                .ok_or_else(|| ApiError::not_found(kind, name))?;
            let old = self.show(kind, stored.clone()).await?;
            let custom = self.custom(kind)?;
            let scale = custom.as_ref().and_then(|custom| custom.version().scale.as_ref());
            let before = old.value();
            let asked = edit(&old, before.clone())?;
            let claimed = asked["metadata"]["managedFields"].clone();
            let request =
                options.request(Operation::Update, kind, (namespace, name)).of(part.subresource());
            let mut new = self.compose(&old, &before, asked, part)?;
            let by = &options.fields;
            let managers = fields::updated(kind, custom.as_ref(), &new, &before, claimed, by)?;
            if part == Part::Scale {
                let (old_scale, mut told) = (scale::of(&before, scale), scale::of(&new, scale));
                if self.mutate(&request, Some(&old_scale), Some(&mut told)).await?.is_some() {
                    let asked = scale::into_object(&old, scale, new, &told)?;
                    new = self.compose(&old, &before, asked, part)?;
                }
            } else if self.mutate(&request, Some(&before), Some(&mut new)).await?.is_some() {
                new = self.compose(&old, &before, new, part)?;
            }
            self.restrict(&request, Some(&before), &new)?;
            let gone = Self::change(&old, custom.as_ref(), &before, &mut new, part)?;
            note(self.cache.definitions(), kind, &mut new, Some(&before));
            fields::set(&mut new, managers);
            if part == Part::Scale {
                let (old_scale, told) = (scale::of(&before, scale), scale::of(&new, scale));
                self.admit(&request, Some(&old_scale), Some(&told)).await?;
            } else {
                self.admit(&request, Some(&before), Some(&new)).await?;
            }
            let charge = self.charge(&request, Some(&before), &new)?;
            if gone {
                if options.dry_run {
                    return Self::dry(kind, meta::as_object(&new)?, old.meta.resource_version);
                }
                match self.remove_object(&old).await {
                    Ok(_) => return Self::dry(kind, meta::as_object(&new)?, 0),
                    Err(Refused::Error(error)) => return Err(error),
                    Err(Refused::Conflict { .. }) => {}
                }
                self.catch_up().await?;
                continue;
            }
            let claims = match part {
                Part::Main | Part::Scale => self.allocate(&mut new, kind, Some(&before))?,
                _ => allocate::Claims::default(),
            };
            let to_be = self.to_be_stored(kind, &new).await?;
            let map = meta::as_object(&to_be.tree)?;
            let same = match &custom {
                // Written anew if only the version differs: how objects come out of an old one.
                Some(_) => unchanged(map, &stored.value()),
                None => unchanged(map, &before),
            };
            // Written anew if only the key differs that it is encrypted with: how a new one is taken into use.
            if same && (options.dry_run || !self.is_stale(&stored).await) {
                return Ok(old);
            }
            if options.dry_run {
                return Self::dry(kind, meta::as_object(&new)?, old.meta.resource_version);
            }
            let batch = claims.batch(Batch::new(), namespace, name);
            let expect = Expect::Revision(old.meta.resource_version);
            match self.put(to_be.kind, (namespace, name), map, expect, batch).await {
                Ok(object) => {
                    if let Some(charge) = charge {
                        charge.keep(object.meta.resource_version);
                    }
                    return self.show(kind, object).await;
                }
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Conflict { key }) if claims.claims(&key) => {
                    claims.taken(kind, name, &key)?;
                }
                Err(Refused::Conflict { .. }) => {}
            }
            self.catch_up().await?;
        }
        Err(ApiError::modified(kind, name))
    }

    /// From what was asked for to the whole object, with nothing changed but what the part may change.
    fn compose(
        &self,
        old: &Object,
        before: &Value,
        asked: Value,
        part: Part,
    ) -> Result<Value, ApiError> {
        let kind = old.kind;
        let mut asked = meta::object(asked)?;
        asked.insert("kind".into(), kind.kind.into());
        asked.insert("apiVersion".into(), kind.api_version().into());
        let empty = Map::new();
        let old_meta = before["metadata"].as_object().unwrap_or(&empty);
        let metadata = meta::of(&mut asked);
        meta::agree(metadata, kind, &old.meta.namespace, Some(&old.meta.name))?;
        meta::update(metadata, old, old_meta)?;

        let mut new = match part {
            Part::Main | Part::Scale => {
                if kind.has(Subresource::Status) {
                    take_over(&mut asked, before, "status");
                }
                Value::Object(asked)
            }
            Part::Status => {
                take_over(meta::of(&mut asked), &before["metadata"], "ownerReferences");
                only_status(before, asked)
            }
            Part::EphemeralContainers => only_of_spec(before, &asked, "ephemeralContainers"),
            Part::Resize => kinds::resized(before, &Value::Object(asked)),
            Part::Finalize => only_of_spec(before, &asked, "finalizers"),
            Part::Approval => only_conditions(before, &asked),
        };
        allocate::keep_allocated(kind, &mut new, before);
        self.fill_in(kind, &mut new);
        Ok(new)
    }

    /// From there to what will be stored; true if that completes a deletion.
    fn change(
        old: &Object,
        custom: Option<&Served>,
        before: &Value,
        new: &mut Value,
        part: Part,
    ) -> Result<bool, ApiError> {
        let kind = old.kind;
        match part {
            Part::Main | Part::Scale => {
                (kind.prepare)(Prepare::Update { new: &mut *new, old: before })
            }
            Part::Status => (kind.prepare)(Prepare::Status { new: &mut *new, old: before }),
            Part::EphemeralContainers | Part::Resize | Part::Finalize | Part::Approval => {}
        }
        if matches!(part, Part::Main | Part::Scale | Part::EphemeralContainers | Part::Resize)
            && kind.generation == Generation::Spec
            && (specified(new, before)
                || (kind.custom && new.get("status") != before.get("status")))
        {
            new["metadata"]["generation"] = (old.meta.generation + 1).into();
        }
        match part {
            Part::Finalize => {}
            Part::EphemeralContainers => {
                validate::changed(kind, custom, new, before, kinds::validate_ephemeral_update)?;
            }
            Part::Resize => {
                validate::changed(kind, custom, new, before, kinds::validate_resize_update)?;
            }
            Part::Approval => {
                validate::changed(kind, custom, new, before, kinds::validate_approval_update)?;
            }
            Part::Main | Part::Scale | Part::Status => {
                validate::changed(kind, custom, new, before, kind.validate_update)?;
            }
        }
        Ok(completes_deletion(kind, old, new))
    }
}

/// The object as it was, but for its status and its metadata. Mostly nothing else was changed: so it is compared, not copied.
fn only_status(before: &Value, mut asked: Map<String, Value>) -> Value {
    let is_told = |field: &str| matches!(field, "metadata" | "status");
    asked.retain(|field, _| is_told(field) || before.get(field).is_some());
    for (field, known) in before.as_object().into_iter().flatten() {
        if !is_told(field) && asked.get(field) != Some(known) {
            asked.insert(field.clone(), known.clone());
        }
    }
    Value::Object(asked)
}

/// The object as it was, but for one field of its spec.
fn only_of_spec(before: &Value, asked: &Map<String, Value>, field: &str) -> Value {
    let mut whole = before.clone();
    if let Some(map) = whole["metadata"].as_object_mut() {
        map.remove("resourceVersion");
    }
    let value = asked.get("spec").and_then(|spec| spec.get(field)).cloned().unwrap_or_default();
    if let Some(spec) = whole["spec"].as_object_mut() {
        match value {
            Value::Null => spec.remove(field),
            value => spec.insert(field.into(), value),
        };
    }
    whole
}

/// The object as it was, but for its labels and annotations and the conditions of its status; new ones are dated.
fn only_conditions(before: &Value, asked: &Map<String, Value>) -> Value {
    let mut whole = before.clone();
    if let Some(map) = whole["metadata"].as_object_mut() {
        map.remove("resourceVersion");
        let told = asked.get("metadata").unwrap_or(&Value::Null);
        for field in ["labels", "annotations"] {
            take_over(map, told, field);
        }
    }
    let mut conditions = asked.get("status").map(|s| s["conditions"].clone()).unwrap_or_default();
    for condition in conditions.as_array_mut().into_iter().flatten() {
        for field in ["lastUpdateTime", "lastTransitionTime"] {
            if condition.is_object() && condition[field].is_null() {
                condition[field] = meta::now().into();
            }
        }
    }
    whole["status"]["conditions"] = conditions;
    whole
}

/// Whether anything beside metadata and status differs.
pub(super) fn specified(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return true };
    let relevant = |(field, _): &(&String, &Value)| {
        !matches!(field.as_str(), "metadata" | "status" | "kind" | "apiVersion")
    };
    new.iter().filter(relevant).ne(old.iter().filter(relevant))
}

/// Equal but for the revision, which what is to be stored does not carry.
fn unchanged(new: &Map<String, Value>, before: &Value) -> bool {
    let Some(old) = before.as_object() else { return false };
    new.len() == old.len()
        && new.iter().all(|(field, value)| match (field.as_str(), old.get(field)) {
            ("metadata", Some(Value::Object(old))) => {
                let Some(new) = value.as_object() else { return false };
                let count = old.len() - usize::from(old.contains_key("resourceVersion"));
                new.len() == count && new.iter().all(|(k, v)| old.get(k) == Some(v))
            }
            (_, known) => known == Some(value),
        })
}

pub(super) fn take_over(map: &mut Map<String, Value>, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => map.insert(field.into(), value.clone()),
        None => map.remove(field),
    };
}

/// An object whose deletion was asked for goes with its last finalizer, once its grace period needs nobody any more.
fn completes_deletion(kind: &Kind, old: &Object, new: &Value) -> bool {
    let Some(metadata) = new["metadata"].as_object() else { return false };
    let finalized = kind.resource != kinds::NAMESPACE.resource
        || new["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    let no_grace = old.meta.deletion_grace_period_seconds.unwrap_or(0) == 0;
    old.is_deleting() && no_grace && finalized && meta::finalizers(metadata).is_empty()
}
