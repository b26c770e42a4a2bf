//! Admission webhooks (`apiserver/pkg/admission/plugin/webhook` upstream): programs of the cluster's users that are asked over
//! HTTPS before something is stored.
//!
//! Mutating ones are called one after the other, by the names of their configurations and in the order in these; each sees what
//! those before it made. Validating ones are called at once. Where no configuration exists, none of this runs.

mod client;
mod hook;
mod review;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::patch::{self, PatchError, PatchType};
use coracle_api::{ApiError, Kind, kinds};
use futures::future::join_all;
use serde_json::Value;

use super::{Gv, Request, Requested};
use crate::cache::Cache;
use crate::registry::Registry;
pub(crate) use client::Clients;
use hook::Hook;
use review::Verdict;

/// The webhooks of each configuration as read at a revision, by UID.
type Read = HashMap<String, (u64, Arc<Vec<Hook>>)>;

/// See the module.
pub(in crate::registry) struct Webhooks {
    clients: Clients,
    read: Mutex<Read>,
}

/// A webhook that is for the request, and the version of the resource that it wants.
struct Called {
    hooks: Arc<Vec<Hook>>,
    index: usize,
    resource: Gv<'static>,
}

impl Called {
    fn hook(&self) -> &Hook {
        &self.hooks[self.index]
    }

    /// The version that it is shown, where it is not the stored one.
    fn other(&self, request: &Request<'_>) -> Option<Requested> {
        let is_it = |requested: &Requested| requested.resource == self.resource;
        request.requested.filter(is_it).filter(|_| super::is_of_collection(request))
    }
}

impl Webhooks {
    pub(in crate::registry) fn new(cache: Cache) -> Self {
        Self { clients: Clients::new(cache), read: Mutex::default() }
    }

    /// Who calls webhooks, of whichever sort.
    pub(in crate::registry) fn clients(&self) -> &Clients {
        &self.clients
    }
}

impl Registry {
    /// Has the mutating webhooks change the object; true if some did.
    pub(super) async fn call_mutating(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        mut new: Option<&mut Value>,
    ) -> Result<bool, ApiError> {
        let all = self.webhooks(&kinds::MUTATING_WEBHOOK_CONFIGURATION);
        let mut seen: Vec<(Arc<Vec<Hook>>, usize)> = Vec::new();
        let mut last_change = None;
        for (hooks, index) in all {
            let current = new.as_deref();
            let wanted = hooks[index].wants(self, request, old, current)?;
            let Some(resource) = wanted else { continue };
            let called = Called { hooks: hooks.clone(), index, resource };
            seen.push((hooks, index));
            if self.mutated_by(&called, request, old, new.as_deref_mut()).await? {
                last_change = Some(seen.len() - 1);
            }
        }
        let Some(last_change) = last_change else { return Ok(false) };
        // What the built-in plugins add to what was added; then those who want to see what came after them.
        let mut completed = false;
        if let Some(new) = new.as_deref_mut() {
            let before = new.clone();
            self.complete_again(request, new).await?;
            completed = *new != before;
        }
        for (i, (hooks, index)) in seen.into_iter().enumerate() {
            if !hooks[index].again || (i >= last_change && !completed) {
                continue;
            }
            let wanted = hooks[index].wants(self, request, old, new.as_deref())?;
            if let Some(resource) = wanted {
                let called = Called { hooks, index, resource };
                self.mutated_by(&called, request, old, new.as_deref_mut()).await?;
            }
        }
        Ok(true)
    }

    /// Asks the validating webhooks.
    pub(super) async fn call_validating(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        let mut called = Vec::new();
        for (hooks, index) in self.webhooks(&kinds::VALIDATING_WEBHOOK_CONFIGURATION) {
            let wanted = hooks[index].wants(self, request, old, new)?;
            called.extend(wanted.map(|resource| Called { hooks, index, resource }));
        }
        let calls = called.iter().map(|called| self.call(called, false, request, old, new));
        // All are told what they are for, also where one refuses.
        for answer in join_all(calls).await {
            answer?;
        }
        Ok(())
    }

    /// The webhooks of a kind of configurations, in their order.
    fn webhooks(&self, kind: &'static Kind) -> Vec<(Arc<Vec<Hook>>, usize)> {
        let cluster = self.cache.read();
        let mut read = self.webhooks.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cluster.count(&kinds::MUTATING_WEBHOOK_CONFIGURATION)
            + cluster.count(&kinds::VALIDATING_WEBHOOK_CONFIGURATION);
        if read.len() > known {
            read.clear();
        }
        let mut all = Vec::new();
        for configuration in cluster.list(kind) {
            let meta = &configuration.meta;
            let hooks = match read.get(&meta.uid) {
                Some((at, hooks)) if *at == meta.resource_version => hooks.clone(),
                _ => {
                    let hooks = Arc::new(hook::of_configuration(configuration));
                    read.insert(meta.uid.clone(), (meta.resource_version, hooks.clone()));
                    hooks
                }
            };
            all.extend((0..hooks.len()).map(|index| (hooks.clone(), index)));
        }
        all
    }

    /// Calls one that may change the object; true if it did.
    async fn mutated_by(
        &self,
        called: &Called,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&mut Value>,
    ) -> Result<bool, ApiError> {
        let name = &called.hook().name;
        let answer = self.call(called, true, request, old, new.as_deref()).await?;
        let Some(patch) = answer.and_then(|verdict| verdict.patch) else { return Ok(false) };
        let Some(new) = new else {
            return Err(ApiError::internal(format!(
                "admission webhook \"{name}\" attempted to modify the object, which is not supported for this operation"
            )));
        };
        let failed = |error: PatchError| {
            ApiError::internal(format!("admission webhook \"{name}\": {error}"))
        };
        let custom = self.custom(request.kind)?.filter(|_| super::is_of_collection(request));
        let custom = custom.as_ref().map(|custom| custom.version());
        let schema = match custom.and_then(|version| version.schema()) {
            Some(schema) => schema,
            None => super::schema_of(request)?,
        };
        let mut tree = new.clone();
        let other = called.other(request);
        if let Some(other) = other {
            (other.show)(&mut tree);
        }
        let mut tree = patch::apply(PatchType::Json, tree, &patch, schema).map_err(failed)?;
        if let Some(other) = other {
            (other.store)(&mut tree);
        }
        let patched = super::reread(tree, schema, custom).map_err(failed)?;
        let changed = patched != *new;
        if changed {
            *new = patched;
            if super::is_of_collection(request) {
                self.fill_in(request.kind, new);
            }
        }
        Ok(changed)
    }

    /// One call; `None` if it failed and need not succeed.
    async fn call(
        &self,
        called: &Called,
        mutating: bool,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<Option<Verdict>, ApiError> {
        let hook = called.hook();
        let name = &hook.name;
        if request.dry_run && !hook.dry {
            let why = format!("admission webhook \"{name}\" does not support dry run");
            return Err(ApiError::bad_request(why));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let body = match called.other(request) {
            None => review::ask(hook, request, called.resource, &uid, old, new),
            Some(other) => {
                let shown = |tree: Option<&Value>| {
                    let mut tree = tree?.clone();
                    (other.show)(&mut tree);
                    Some(tree)
                };
                let (old, new) = (shown(old), shown(new));
                review::ask(hook, request, called.resource, &uid, old.as_ref(), new.as_ref())
            }
        };
        let answer = self.webhooks.clients.post(&hook.url, &hook.ca, hook.timeout, body).await;
        let verdict = match answer {
            Ok(answer) => review::read(hook, &uid, mutating, &answer)
                .map_err(|why| format!("received invalid webhook response: {why}")),
            Err(why) => Err(format!("failed to call webhook: {why}")),
        };
        match verdict {
            Ok(mut verdict) => {
                std::mem::take(&mut verdict.warnings)
                    .into_iter()
                    .for_each(|warning| request.caller.warn(warning));
                std::mem::take(&mut verdict.annotations)
                    .into_iter()
                    .for_each(|(key, value)| request.caller.annotate(key, value));
                match verdict.denied.take() {
                    Some(denied) => Err(denied),
                    None => Ok(Some(verdict)),
                }
            }
            Err(why) if hook.ignore => {
                tracing::warn!(webhook = name, why, "calling a webhook failed; going on without");
                Ok(None)
            }
            Err(why) => {
                Err(ApiError::internal(format!("failed calling webhook \"{name}\": {why}")))
            }
        }
    }
}
