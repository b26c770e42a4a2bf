//! Policies in CEL: ValidatingAdmissionPolicies, which refuse, and MutatingAdmissionPolicies, which change ([`mutate`]), bound to
//! requests by their bindings.
//!
//! Policies and bindings are read and compiled when a request first meets them, and kept as long as they stay what they were.
//! A cluster without bindings pays for one look at a count. What `matchConstraints` and bindings select is found without an
//! evaluation; expressions see the request through [`inputs`], borrowed.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy`.

mod compile;
mod conditions;
mod evaluate;
mod inputs;
mod mutate;
mod params;
mod rights;
mod schemas;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::{ApiError, Cluster, Kind, Object, kinds};
use serde_json::{Value, json};

use super::matching::EXEMPT;
use super::{Registry, Request};
use compile::{Binding, Policy};
pub(super) use conditions::Conditions;
use evaluate::{Action, Denied};
use inputs::{Inputs, Objects};
pub(super) use mutate::Invoked;
use params::Invocation;
pub(in crate::registry) use write::{note, problems};

/// What an audit annotation may hold, in bytes.
const LONGEST_ANNOTATION: usize = 10 << 10;

/// Policies and bindings that were compiled.
#[derive(Default)]
pub(in crate::registry) struct Policies {
    validating: Sort,
    mutating: Sort,
}

/// Those of one kind.
#[derive(Default)]
struct Sort {
    policies: Compiled<Policy>,
    bindings: Compiled<Binding>,
}

/// A policy and what binds it.
pub(super) struct Bound {
    policy: Arc<Policy>,
    bindings: Vec<Arc<Binding>>,
}

/// Policies and bindings as objects.
pub(super) struct Written {
    policies: Vec<Arc<Object>>,
    bindings: Vec<Arc<Object>>,
}

impl Written {
    /// The mutating ones; none if nothing is bound.
    pub(super) fn mutating(cluster: &Cluster) -> Option<Self> {
        Self::of(
            cluster,
            &kinds::MUTATING_ADMISSION_POLICY,
            &kinds::MUTATING_ADMISSION_POLICY_BINDING,
        )
    }

    fn of(cluster: &Cluster, policies: &'static Kind, bindings: &'static Kind) -> Option<Self> {
        if cluster.count(bindings) == 0 || cluster.count(policies) == 0 {
            return None;
        }
        let list = |kind| cluster.list(kind).cloned().collect();
        Some(Self { policies: list(policies), bindings: list(bindings) })
    }
}

impl Policies {
    /// Every mutating policy that is bound, by name.
    pub(super) fn mutating(&self, written: &Written) -> Vec<Bound> {
        self.mutating.bound(written)
    }
}

impl Sort {
    /// Every policy that is bound, with its bindings, by name.
    fn bound(&self, written: &Written) -> Vec<Bound> {
        let Written { policies, bindings } = written;
        let bindings: Vec<Arc<Binding>> = bindings
            .iter()
            .map(|object| self.bindings.of(object, bindings.len(), Binding::from_value))
            .collect();
        let mut bound = Vec::new();
        for object in policies {
            let name = &object.meta.name;
            let of: Vec<_> = bindings.iter().filter(|b| b.policy == *name).cloned().collect();
            if !of.is_empty() {
                let policy = self.policies.of(object, policies.len(), Policy::from_value);
                bound.push(Bound { policy, bindings: of });
            }
        }
        bound
    }
}

/// What was made of objects, as long as they stay the same.
struct Compiled<T>(Mutex<HashMap<String, (u64, Arc<T>)>>);

impl<T> Default for Compiled<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Compiled<T> {
    /// What was made of the object, now or before. `all` is how many such objects there are.
    fn of(&self, object: &Object, all: usize, make: impl FnOnce(&Value) -> T) -> Arc<T> {
        let (uid, revision) = (&object.meta.uid, object.meta.resource_version);
        let known = |map: &HashMap<String, (u64, Arc<T>)>| {
            map.get(uid).filter(|(at, _)| *at == revision).map(|(_, made)| made.clone())
        };
        if let Some(made) = known(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return made;
        }
        // Not under the lock: compiling takes as long as it takes, and others wait for it.
        let made = Arc::new(make(&object.value()));
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() > 2 * all + 16 {
            map.clear();
        }
        map.insert(uid.clone(), (revision, made.clone()));
        made
    }
}

impl Registry {
    /// Refuses what some policy denies.
    pub(super) async fn admit_by_policies(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        if request.kind.group == EXEMPT {
            return Ok(());
        }
        let written = Written::of(
            &self.cache.read(),
            &kinds::VALIDATING_ADMISSION_POLICY,
            &kinds::VALIDATING_ADMISSION_POLICY_BINDING,
        );
        let Some(written) = written else { return Ok(()) };
        let bound = self.policies.validating.bound(&written);
        let met = self.met(&bound, request, Objects { old, new }).await?;
        if met.is_empty() {
            return Ok(());
        }
        let mut refusals = Refusals { request, object: new.or(old), first: None };
        for of_policy in met.chunk_by(|a, b| Arc::ptr_eq(&a.policy, &b.policy)) {
            let mut annotations = Vec::new();
            let Some(Invocation { resource, .. }) = of_policy.first() else { continue };
            // As the policy's rules have it: perhaps in another version than it is written in.
            let target = self.target(request, *resource)?;
            let [shown_old, shown_new] = self.both_shown(&target, old, new).await?;
            let objects = Objects { old: shown_old.as_deref(), new: shown_new.as_deref() };
            let inputs = Inputs::new(self, request, target.kind(), *resource);
            for Invocation { policy, binding, params, .. } in of_policy {
                let params = match params {
                    Ok(params) => params,
                    Err(_) if policy.ignores => continue,
                    Err(why) => {
                        let of = why.of_binding().then_some(&**binding);
                        refusals.add(policy, of, &Denied::invalid(why.to_string()));
                        continue;
                    }
                };
                let found = evaluate::evaluate(policy, &inputs, objects, params);
                act(policy, binding, found.decisions, &mut refusals);
                for annotation in found.annotations {
                    match annotation {
                        Ok(annotation) if !annotations.contains(&annotation) => {
                            annotations.push(annotation);
                        }
                        Ok(_) => {}
                        Err(why) => {
                            refusals.add(policy, Some(binding), &Denied::invalid(why));
                        }
                    }
                }
            }
            if let Some(first) = of_policy.first() {
                publish(request, &first.policy.name, &annotations);
            }
        }
        refusals.first.map_or(Ok(()), Err)
    }
}

/// What stands against a request; the first is told.
struct Refusals<'r> {
    request: &'r Request<'r>,
    object: Option<&'r Value>,
    first: Option<ApiError>,
}

impl Refusals<'_> {
    fn add(&mut self, policy: &Policy, binding: Option<&Binding>, why: &Denied) {
        if self.first.is_none() {
            self.first = Some(refusal(self.request, self.object, policy, binding, why));
        }
    }
}

/// Does what a binding wants done about what was found.
fn act(
    policy: &Policy,
    binding: &Binding,
    decisions: Vec<Option<Denied>>,
    refusals: &mut Refusals<'_>,
) {
    let caller = refusals.request.caller;
    for (at, found) in decisions.into_iter().enumerate() {
        let Some(found) = found else { continue };
        for action in &binding.actions {
            match action {
                Action::Deny => refusals.add(policy, Some(binding), &found),
                Action::Warn => caller.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, found.message
                )),
                Action::Audit => {
                    let failure = json!([{
                        "message": found.message,
                        "policy": policy.name,
                        "binding": binding.name,
                        "expressionIndex": at,
                        "validationActions": binding.action_names,
                    }]);
                    let key = "validation.policy.admission.k8s.io/validation_failure";
                    caller.annotate(key, failure.to_string());
                }
            }
        }
    }
}

/// Puts what `auditAnnotations` came to into the audit log.
fn publish(request: &Request<'_>, policy: &str, annotations: &[(String, String)]) {
    for (at, (key, _)) in annotations.iter().enumerate() {
        if annotations[..at].iter().any(|(earlier, _)| earlier == key) {
            continue;
        }
        let values: Vec<&str> =
            annotations.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect();
        request.caller.annotate(format!("{policy}/{key}"), values.join(", "));
    }
}

fn refusal(
    request: &Request<'_>,
    object: Option<&Value>,
    policy: &Policy,
    binding: Option<&Binding>,
    why: &Denied,
) -> ApiError {
    let with = binding.map_or(String::new(), |binding| format!(" with binding '{}'", binding.name));
    let message = format!(
        "ValidatingAdmissionPolicy '{}'{with} denied request: {}",
        policy.name, why.message
    );
    let metadata = object.map(|object| &object["metadata"]);
    let text = |field| metadata.and_then(|m| m[field].as_str()).filter(|text| !text.is_empty());
    let name = match request.name {
        "" => text("name").or(text("generateName")).unwrap_or("Unknown"),
        name => name,
    };
    let mut error = ApiError::forbidden(request.kind, name, &message);
    error.reason = why.reason;
    error.code = match why.reason {
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        "Unauthorized" => 401,
        _ => 422,
    };
    if let Some(details) = &mut error.details {
        details.causes.push((String::new(), message, String::new()));
    }
    error
}
