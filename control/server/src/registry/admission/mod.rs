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
//! upstream's plugins. It returns before anything costs where nothing is configured, which [`coracle_api::Cluster::count`] tells,
//! and where [`Caller::is_server`]. What it has to say beside yes or no goes to [`Caller::warn`] and [`Caller::annotate`].

mod plugins;
#[allow(dead_code, reason = "for what people configure, which is yet to come")]
mod request;
mod token;

use coracle_api::ApiError;
use serde_json::Value;

use super::Registry;
pub(crate) use request::{Caller, Gv, Operation, Request};

impl Registry {
    /// The first phase. True if somebody's configuration has changed the object, which is to be made well-formed again.
    pub(super) async fn mutate(
        &self,
        request: &Request<'_>,
        _old: Option<&Value>,
        new: Option<&mut Value>,
    ) -> Result<bool, ApiError> {
        if request.operation == Operation::Create
            && request.subresource.is_empty()
            && let Some(new) = new
        {
            self.complete(request.kind, request.namespace, new).await?;
        }
        Ok(false)
    }

    /// The second phase.
    pub(super) async fn admit(
        &self,
        _request: &Request<'_>,
        _old: Option<&Value>,
        _new: Option<&Value>,
    ) -> Result<(), ApiError> {
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
