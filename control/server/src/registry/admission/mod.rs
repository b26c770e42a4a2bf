//! Admission: what has a say in a write between its being well-formed and its being stored.
//!
//! Every write of an object passes two phases, whoever writes: clients over HTTP, controllers' plans, the scheduler.
//!
//! 1. [`Registry::mutate`], on the object with its defaults: [`plugins`], then what people have configured, [`policies`] before
//!    [`webhooks`]. What it changes is checked against the schema and given its defaults again; on what comes of it,
//!    [`Registry::restrict`] refuses what depends on who writes, which no webhook and no policy may smuggle in for somebody who
//!    has no right to it. Then the kind prepares and validates the object.
//! 2. [`Registry::admit`], on the object as it would be stored: it may only refuse. It runs anew when the write is tried again on
//!    a newer state.
//!
//! What is no object of a stored kind passes both at once, through [`Registry::admit_action`]: Binding, Eviction, Scale,
//! TokenRequest, and the options of exec, attach and port-forward as CONNECT.
//!
//! A [`Request`] says what is asked and by whom; objects go beside it: `old` is `None` for CREATE and CONNECT, `new` for DELETE.
//! A part of either phase is a function `(&Registry, &Request, old, new) -> Result<(), ApiError>`, called in the order of
//! upstream's plugins; quotas come last, once nothing else can refuse ([`Registry::charge`]). It returns before anything costs
//! where nothing is configured, which [`coracle_api::Cluster::count`] tells, and where [`Caller::is_server`]. What it has to say
//! beside yes or no goes to [`Caller::warn`] and [`Caller::annotate`].

mod certificates;
mod escalation;
mod limits;
mod matching;
mod node_restriction;
mod owners;
mod plugins;
mod pod_security;
mod policies;
mod quota;
mod request;
mod target;
mod token;
mod webhooks;

use coracle_api::{ApiError, kinds};
use serde_json::Value;

use super::Registry;
use policies::{Bound, Invoked, Written};
use target::Target;
use webhooks::{Asked, Configured};

pub(in crate::registry) use certificates::sign_as;
pub(in crate::registry) use policies::{Policies, note, problems};
pub(in crate::registry) use quota::Ledger;
pub(crate) use request::{Caller, Gv, Operation, Request, Requested};
pub(in crate::registry) use webhooks::Webhooks;
pub(crate) use webhooks::{Clients, Trust, cause, roots};

/// What the first phase has changed.
pub(super) struct Mutated {
    /// `metadata` as it came.
    pub(super) metadata: Value,
}

/// Who may change an object.
struct Mutators {
    policies: Vec<Bound>,
    webhooks: Vec<Configured>,
}

impl Registry {
    /// The first phase. True if somebody's configuration has changed the object, which is to be made well-formed again.
    ///
    /// The built-in plugins, then policies, then webhooks. Where the latter two changed something, all are asked again: the
    /// built-in ones always, others that want it and after which something was changed.
    pub(super) async fn mutate(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        mut new: Option<&mut Value>,
    ) -> Result<Option<Mutated>, ApiError> {
        if let Some(new) = new.as_deref_mut() {
            self.complete_again(request, new).await?;
        }
        let Some(mutators) = self.mutators(request) else { return Ok(None) };
        let Mutators { policies, webhooks } = &mutators;
        let metadata = new.as_deref().map(|new| new["metadata"].clone()).unwrap_or_default();
        let (mut invoked, mut asked) = (Invoked::default(), Asked::default());
        let mut changed = false;
        if let Some(new) = new.as_deref_mut() {
            changed =
                self.mutate_by_policies(policies, request, old, new, &mut invoked, false).await?;
        }
        let current = new.as_deref_mut();
        changed |= self.call_mutating(webhooks, request, old, current, &mut asked).await?;
        if !changed {
            return Ok(None);
        }
        let Some(new) = new else { return Ok(Some(Mutated { metadata })) };
        let before = new.clone();
        self.complete_again(request, new).await?;
        self.mutate_by_policies(policies, request, old, new, &mut invoked, true).await?;
        let completed = *new != before;
        self.call_again(asked, completed, request, old, Some(new)).await?;
        Ok(Some(Mutated { metadata }))
    }

    /// What may change an object, all of it at one moment; none where nothing is configured.
    fn mutators(&self, request: &Request<'_>) -> Option<Mutators> {
        if request.caller.is_server() {
            return None;
        }
        let (written, webhooks) = {
            let cluster = self.cache.read();
            let written = Written::mutating(&cluster);
            if written.is_none() && cluster.count(&kinds::MUTATING_WEBHOOK_CONFIGURATION) == 0 {
                return None;
            }
            (written, self.webhooks(&cluster, &kinds::MUTATING_WEBHOOK_CONFIGURATION))
        };
        let policies = written.map(|written| self.policies.mutating(&written));
        Some(Mutators { policies: policies.unwrap_or_default(), webhooks })
    }

    /// What the built-in plugins add; the same again if they are asked again.
    async fn complete_again(&self, request: &Request<'_>, new: &mut Value) -> Result<(), ApiError> {
        if request.operation == Operation::Create && request.subresource.is_empty() {
            self.default_limits(request, new);
            self.complete(request.kind, request.namespace, new).await?;
        }
        Ok(())
    }

    /// What of a write depends on who writes: nodes, grants of rights, certificates, params of policies.
    ///
    /// # Errors
    /// 403, saying what is refused.
    pub(super) fn restrict(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        let Caller::Client(_) = request.caller else { return Ok(()) };
        if !is_of_collection(request) {
            return Ok(());
        }
        let (kind, identity) = (request.kind, request.caller.identity());
        let is_csr = kind.resource == kinds::CERTIFICATE_SIGNING_REQUEST.resource;
        {
            let cluster = self.cache.read();
            escalation::check(&cluster, kind, request.namespace, &identity, new, old)?;
            match old {
                None => {
                    node_restriction::create(&cluster, kind, &identity, new)?;
                    if is_csr {
                        certificates::check(new)?;
                    }
                }
                Some(old) => {
                    let part = request.subresource;
                    node_restriction::change(&cluster, kind, &identity, part, old, new)?;
                    if is_csr {
                        certificates::change(&cluster, &identity, part, old)?;
                    }
                }
            }
        }
        self.check_params(kind, &identity, new, old)
    }

    /// The second phase.
    pub(super) async fn admit(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        if request.caller.is_server() {
            return Ok(());
        }
        if matches!(request.caller, Caller::Client(_))
            && request.subresource.is_empty()
            && let Some(new) = new
        {
            (request.kind.warnings)(new).into_iter().for_each(|text| request.caller.warn(text));
        }
        self.check_limits(request, new)?;
        self.pod_security(request, old, new)?;
        self.check_owners(request, old, new)?;
        self.admit_by_policies(request, old, new).await?;
        if self.cache.read().count(&kinds::VALIDATING_WEBHOOK_CONFIGURATION) > 0 {
            self.call_validating(request, old, new).await?;
        }
        Ok(())
    }

    /// Both phases, for what a subresource takes that is no object of a stored kind.
    ///
    /// # Errors
    /// What was said against it.
    pub(crate) async fn admit_action(
        &self,
        request: &Request<'_>,
        new: &mut Value,
    ) -> Result<(), ApiError> {
        self.mutate(request, None, Some(new)).await?;
        self.admit(request, None, Some(new)).await
    }
}

/// Whether the objects of a request are those of its collection, and not what a subresource takes.
fn is_of_collection(request: &Request<'_>) -> bool {
    request.object_kind().name == request.kind.kind
}
