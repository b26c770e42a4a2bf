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
use coracle_api::{ApiError, Cluster, Kind, kinds};
use futures::future::join_all;
use serde_json::Value;

use super::{Gv, Request};
use crate::reach::Reach;
use crate::registry::Registry;
pub(crate) use client::{Clients, Trust, cause, roots};
use hook::Hook;
use review::Verdict;

/// The webhooks of each configuration as read at a revision, by UID.
type Read = HashMap<String, (u64, Arc<Vec<Hook>>)>;

/// See the module.
pub(in crate::registry) struct Webhooks {
    clients: Clients,
    read: Mutex<Read>,
}

/// A webhook, by its place in its configuration.
pub(super) type Configured = (Arc<Vec<Hook>>, usize);

/// Which mutating webhooks a request was shown to, and the last of them that changed it.
#[derive(Default)]
pub(super) struct Asked {
    seen: Vec<Configured>,
    last_change: Option<usize>,
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
}

impl Webhooks {
    pub(in crate::registry) fn new(reach: Reach) -> Self {
        Self { clients: Clients::new(reach), read: Mutex::default() }
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
        all: &[Configured],
        request: &Request<'_>,
        old: Option<&Value>,
        mut new: Option<&mut Value>,
        asked: &mut Asked,
    ) -> Result<bool, ApiError> {
        for (hooks, index) in all {
            let wanted = hooks[*index].wants(self, request, old, new.as_deref())?;
            let Some(resource) = wanted else { continue };
            let called = Called { hooks: hooks.clone(), index: *index, resource };
            asked.seen.push((hooks.clone(), *index));
            if self.mutated_by(&called, request, old, new.as_deref_mut()).await? {
                asked.last_change = Some(asked.seen.len() - 1);
            }
        }
        Ok(asked.last_change.is_some())
    }

    /// Asks those again that want to see what was changed after they were asked: by webhooks after them, or, with `changed`, by
    /// others than webhooks.
    pub(super) async fn call_again(
        &self,
        asked: Asked,
        changed: bool,
        request: &Request<'_>,
        old: Option<&Value>,
        mut new: Option<&mut Value>,
    ) -> Result<(), ApiError> {
        for (i, (hooks, index)) in asked.seen.into_iter().enumerate() {
            let after = asked.last_change.is_some_and(|last| i < last);
            if !hooks[index].again || !(after || changed) {
                continue;
            }
            let wanted = hooks[index].wants(self, request, old, new.as_deref())?;
            if let Some(resource) = wanted {
                let called = Called { hooks, index, resource };
                self.mutated_by(&called, request, old, new.as_deref_mut()).await?;
            }
        }
        Ok(())
    }

    /// Asks the validating webhooks.
    pub(super) async fn call_validating(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        let mut called = Vec::new();
        let all = self.webhooks(&self.cache.read(), &kinds::VALIDATING_WEBHOOK_CONFIGURATION);
        for (hooks, index) in all {
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
    pub(super) fn webhooks(&self, cluster: &Cluster, kind: &'static Kind) -> Vec<Configured> {
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
        let target = self.target(request, called.resource)?;
        let schema = target.schema()?;
        let tree = self.shown(&target, new).await?.into_owned();
        let tree = patch::apply(PatchType::Json, tree, &patch, schema).map_err(failed)?;
        let read = target.check(tree).map_err(|e| PatchError::Unprocessable(e.to_string()));
        let patched = self.as_written(&target, read.map_err(failed)?.value).await?;
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
        let target = self.target(request, called.resource)?;
        let [old, new] = self.both_shown(&target, old, new).await?;
        let (old, new) = (old.as_deref(), new.as_deref());
        let body = review::ask(hook, request, called.resource, &uid, old, new);
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
