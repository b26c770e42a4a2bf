//! Admission: what has a say in a write between its being well-formed and its being stored.
//!
//! Every write of an object passes two phases, whoever writes: clients over HTTP, controllers' plans, the scheduler.
//!
//! 1. [`Registry::mutate`], on the object with its defaults: [`plugins`], then what people have configured. What it changes
//!    is checked against the schema and given its defaults again; then the kind prepares and validates it.
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

mod limits;
mod matching;
mod owners;
mod plugins;
mod pod_security;
mod policies;
mod quota;
mod request;
mod token;
mod webhooks;

use coracle_api::custom::Version;
use coracle_api::patch::PatchError;
use coracle_api::schema::{self, Schema};
use coracle_api::{ApiError, kinds};
use serde_json::Value;

use super::Registry;
pub(in crate::registry) use policies::{Policies, note, problems};
pub(in crate::registry) use quota::Ledger;
pub(crate) use request::{Caller, Gv, Operation, Request, Requested};
pub(crate) use webhooks::Clients;
pub(in crate::registry) use webhooks::Webhooks;

impl Registry {
    /// The first phase. True if somebody's configuration has changed the object, which is to be made well-formed again.
    pub(super) async fn mutate(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        mut new: Option<&mut Value>,
    ) -> Result<bool, ApiError> {
        if let Some(new) = new.as_deref_mut() {
            self.complete_again(request, new).await?;
        }
        if request.caller.is_server()
            || self.cache.read().count(&kinds::MUTATING_WEBHOOK_CONFIGURATION) == 0
        {
            return Ok(false);
        }
        self.call_mutating(request, old, new).await
    }

    /// What the built-in plugins add; the same again if they are asked again.
    async fn complete_again(&self, request: &Request<'_>, new: &mut Value) -> Result<(), ApiError> {
        if request.operation == Operation::Create && request.subresource.is_empty() {
            self.default_limits(request, new);
            self.complete(request.kind, request.namespace, new).await?;
        }
        Ok(())
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
        if self.cache.read().count(&kinds::VALIDATING_ADMISSION_POLICY_BINDING) > 0 {
            self.admit_by_policies(request, old, new)?;
        }
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

/// The schema of a request's objects.
fn schema_of(request: &Request<'_>) -> Result<Schema<'static>, ApiError> {
    let Gv { group, version, name } = request.object_kind();
    let known = schema::builtin().by_gvk(group, version, name);
    known.ok_or_else(|| ApiError::internal(format!("no schema for {name}")))
}

/// What somebody made of an object, as its schema has it: fields that it does not know are dropped.
fn reread(tree: Value, schema: Schema<'_>, custom: Option<&Version>) -> Result<Value, PatchError> {
    let decoded = match custom {
        Some(version) => version.check(tree),
        None => schema::check(tree, schema),
    };
    Ok(decoded.map_err(|error| PatchError::Unprocessable(error.to_string()))?.value)
}
