//! What a request meets: each policy that is for it, with each of its bindings that is, with each of the objects that the binding
//! gives it as `params`, which may be of built-in kinds and of custom ones.

use std::fmt;
use std::sync::Arc;

use coracle_api::{ApiError, Kind, Object, kinds};
use serde_json::Value;

use super::super::{Gv, Registry, Request};
use super::Bound;
use super::compile::{Binding, Policy};
use super::inputs::Objects;

/// Why there are none.
pub(super) enum NoParams {
    /// The policy's fault.
    Policy(String),
    /// The binding's.
    Binding(String),
}

impl NoParams {
    pub(super) fn of_binding(&self) -> bool {
        matches!(self, Self::Binding(_))
    }
}

impl fmt::Display for NoParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(why) => write!(f, "failed to configure policy: {why}"),
            Self::Binding(why) => write!(f, "failed to configure binding: {why}"),
        }
    }
}

/// A policy with a binding and its params.
pub(super) struct Invocation {
    pub(super) policy: Arc<Policy>,
    pub(super) binding: Arc<Binding>,
    pub(super) params: Result<Value, NoParams>,
    /// The version in which it sees the request.
    pub(super) resource: Gv<'static>,
}

impl Registry {
    /// What the request meets, in the order in which it is asked.
    pub(super) async fn met(
        &self,
        bound: &[Bound],
        request: &Request<'_>,
        Objects { old, new }: Objects<'_>,
    ) -> Result<Vec<Invocation>, ApiError> {
        let mut met = Vec::new();
        for Bound { policy, bindings } in bound {
            let matched = policy.matches.wants(&self.cache, request, old, new)?;
            let Some(resource) = matched else { continue };
            for binding in bindings {
                if let Some(matches) = &binding.matches
                    && matches.wants(&self.cache, request, old, new)?.is_none()
                {
                    continue;
                }
                let params = self.params(binding, policy, request.namespace).await;
                // What is the policy's fault is told once.
                let all = matches!(params, Err(NoParams::Policy(_)));
                let params = match params {
                    Ok(params) => params.into_iter().map(Ok).collect(),
                    Err(why) => vec![Err(why)],
                };
                met.extend(params.into_iter().map(|params| {
                    let (policy, binding) = (policy.clone(), binding.clone());
                    Invocation { policy, binding, params, resource }
                }));
                if all {
                    break;
                }
            }
        }
        Ok(met)
    }

    /// The kind of that version, built in or custom.
    pub(in crate::registry::admission) fn kind_of(
        &self,
        api_version: &str,
        kind: &str,
    ) -> Option<&'static Kind> {
        let custom = || self.cache.definitions().by_kind(api_version, kind);
        kinds::by_kind(api_version, kind).or_else(custom)
    }

    /// All params for a request in that namespace; one `null` where the policy or the binding does without.
    async fn params(
        &self,
        binding: &Binding,
        policy: &Policy,
        namespace: &str,
    ) -> Result<Vec<Value>, NoParams> {
        let Some((api_version, name)) = &policy.param_kind else { return Ok(vec![Value::Null]) };
        let Some(kind) = self.kind_of(api_version, name) else {
            let group = if api_version.contains('/') { "" } else { "/" };
            return Err(NoParams::Policy(format!(
                "failed to find resource referenced by paramKind: '{group}{api_version}, Kind={name}'"
            )));
        };
        let Some(wanted) = &binding.param else { return Ok(vec![Value::Null]) };
        let wrong = |why: &str| Err(NoParams::Binding(why.to_owned()));
        if !kind.namespaced && !wanted.namespace.is_empty() {
            return wrong(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`",
            );
        }
        let namespace = match (kind.namespaced, &*wanted.namespace) {
            (false, _) => "",
            (true, "") if namespace.is_empty() => {
                return wrong(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources",
                );
            }
            (true, "") => namespace,
            (true, own) => own,
        };
        let found: Vec<Arc<Object>> = {
            let cluster = self.cache.read();
            let selected = |object: &&Arc<Object>| {
                wanted.selector.as_ref().is_some_and(|it| it.matches(&object.meta.labels))
            };
            match (&wanted.selector, kind.namespaced) {
                (None, _) => {
                    cluster.get(kind, namespace, &wanted.name).cloned().into_iter().collect()
                }
                (_, true) => cluster.list_in(kind, namespace).filter(selected).cloned().collect(),
                (_, false) => cluster.list(kind).filter(selected).cloned().collect(),
            }
        };
        if found.is_empty() && wanted.denies {
            return wrong("no params found for policy binding with `Deny` parameterNotFoundAction");
        }
        // As the version shows them that the policy names.
        let shown = match kind.custom {
            true => self.show_all(kind, found).await,
            false => Ok(found),
        };
        let shown = shown.map_err(|error| NoParams::Binding(error.message.clone()))?;
        Ok(shown.iter().map(|object| object.value()).collect())
    }
}
