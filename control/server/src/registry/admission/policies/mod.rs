//! Policies in CEL: ValidatingAdmissionPolicies, bound to requests by ValidatingAdmissionPolicyBindings.
//!
//! Policies and bindings are read and compiled when a request first meets them, and kept as long as they stay what they were.
//! A cluster without bindings pays for one look at a count. What `matchConstraints` and bindings select is found without an
//! evaluation; expressions see the request through [`inputs`], borrowed.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/validating`.

mod compile;
mod conditions;
mod evaluate;
mod inputs;
mod schemas;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::{ApiError, Cluster, Object, kinds};
use serde_json::{Value, json};

use super::matching::EXEMPT;
use super::{Registry, Request};
use compile::{Binding, Policy};
pub(super) use conditions::Conditions;
use evaluate::{Action, Denied};
use inputs::Inputs;
pub(in crate::registry) use write::{note, problems};

/// What an audit annotation may hold, in bytes.
const LONGEST_ANNOTATION: usize = 10 << 10;

/// Policies and bindings that were compiled.
#[derive(Default)]
pub(in crate::registry) struct Policies {
    validating: Compiled<Policy>,
    bindings: Compiled<Binding>,
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
    pub(super) fn admit_by_policies(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        if request.kind.group == EXEMPT {
            return Ok(());
        }
        let mut refusals = Refusals { request, object: new.or(old), first: None };
        let mut inputs = None;
        for (policy, bindings) in self.bound_policies() {
            if policy.matches.wants(&self.cache.read(), request, old, new)?.is_none() {
                continue;
            }
            let mut annotations = Vec::new();
            for binding in bindings {
                if let Some(matches) = &binding.matches
                    && matches.wants(&self.cache.read(), request, old, new)?.is_none()
                {
                    continue;
                }
                let params = binding.params(&self.cache.read(), &policy, request.namespace);
                let params = match params {
                    Ok(params) => params,
                    Err(why) => {
                        if !policy.ignores {
                            let why = format!("failed to configure binding: {why}");
                            refusals.add(&policy, &binding, &Denied::invalid(why));
                        }
                        continue;
                    }
                };
                let inputs = inputs.get_or_insert_with(|| Inputs::new(self, request, old, new));
                for params in params {
                    let found = evaluate::evaluate(&policy, inputs, &params);
                    act(&policy, &binding, found.decisions, &mut refusals);
                    for annotation in found.annotations {
                        match annotation {
                            Ok(annotation) if !annotations.contains(&annotation) => {
                                annotations.push(annotation);
                            }
                            Ok(_) => {}
                            Err(why) => {
                                refusals.add(&policy, &binding, &Denied::invalid(why));
                            }
                        }
                    }
                }
            }
            publish(request, &policy.name, &annotations);
        }
        refusals.first.map_or(Ok(()), Err)
    }

    /// Every policy that is bound, with its bindings, by name.
    fn bound_policies(&self) -> Vec<(Arc<Policy>, Vec<Arc<Binding>>)> {
        let (bindings, policies) = {
            let cluster = self.cache.read();
            let bindings: Vec<_> =
                cluster.list(&kinds::VALIDATING_ADMISSION_POLICY_BINDING).cloned().collect();
            let policies: Vec<_> =
                cluster.list(&kinds::VALIDATING_ADMISSION_POLICY).cloned().collect();
            (bindings, policies)
        };
        let known = &self.policies;
        let bindings: Vec<Arc<Binding>> = bindings
            .iter()
            .map(|object| known.bindings.of(object, bindings.len(), Binding::from_value))
            .collect();
        let mut bound = Vec::new();
        for object in &policies {
            let name = &object.meta.name;
            let of: Vec<_> = bindings.iter().filter(|b| b.policy == *name).cloned().collect();
            if !of.is_empty() {
                let all = policies.len();
                bound.push((known.validating.of(object, all, Policy::from_value), of));
            }
        }
        bound
    }
}

/// What stands against a request; the first is told.
struct Refusals<'r> {
    request: &'r Request<'r>,
    object: Option<&'r Value>,
    first: Option<ApiError>,
}

impl Refusals<'_> {
    fn add(&mut self, policy: &Policy, binding: &Binding, why: &Denied) {
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
                Action::Deny => refusals.add(policy, binding, &found),
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
    let mut keys: Vec<&String> = annotations.iter().map(|(key, _)| key).collect();
    keys.dedup();
    for key in keys {
        let values: Vec<&str> =
            annotations.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect();
        request.caller.annotate(format!("{policy}/{key}"), values.join(", "));
    }
}

fn refusal(
    request: &Request<'_>,
    object: Option<&Value>,
    policy: &Policy,
    binding: &Binding,
    why: &Denied,
) -> ApiError {
    let message = format!(
        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
        policy.name, binding.name, why.message
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

/// The params that a binding names.
impl Binding {
    fn params(
        &self,
        cluster: &Cluster,
        policy: &Policy,
        namespace: &str,
    ) -> Result<Vec<Value>, String> {
        let (Some((api_version, kind)), Some(wanted)) = (&policy.param_kind, &self.param) else {
            return Ok(vec![Value::Null]);
        };
        let Some(kind) = kinds::by_kind(api_version, kind) else {
            return Err(format!("paramKind kind `{api_version}, Kind={kind}` not known"));
        };
        if !kind.namespaced && !wanted.namespace.is_empty() {
            return Err(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()
            );
        }
        let namespace = match (kind.namespaced, &*wanted.namespace) {
            (false, _) => "",
            (true, "") if namespace.is_empty() => {
                return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
            }
            (true, "") => namespace,
            (true, own) => own,
        };
        let found: Vec<Value> = match &wanted.selector {
            None => cluster
                .get(kind, namespace, &wanted.name)
                .map(|object| object.value())
                .into_iter()
                .collect(),
            Some(selector) => cluster
                .list(kind)
                .filter(|object| object.meta.namespace == namespace)
                .filter(|object| selector.matches(&object.meta.labels))
                .map(|object| object.value())
                .collect(),
        };
        if found.is_empty() && wanted.denies {
            return Err(
                "no params found for policy binding with `Deny` parameterNotFoundAction".into()
            );
        }
        Ok(found)
    }
}
