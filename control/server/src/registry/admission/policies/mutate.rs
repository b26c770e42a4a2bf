//! MutatingAdmissionPolicies: what a request meets of them (each policy, with each of its bindings, with each of its params) changes
//! the object in turn, by a configuration that is applied without owning anything, or by a JSON patch.
//!
//! Which ones a request meets is decided before any of them changes it; their match conditions see what those before them made.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/mutating`.

use std::borrow::Cow;
use std::collections::HashSet;

use coracle_api::fields::apply_unowned;
use coracle_api::patch::apply_operations;
use coracle_api::{ApiError, kinds};
use coracle_cel::{Activation, BUDGET, Val};
use serde_json::Value;

use super::super::{Operation, Registry, Request, Target};
use super::Bound;
use super::compile::{Mutation, Patch, Policy};
use super::evaluate::{all_hold, run};
use super::inputs::{Inputs, Objects};
use super::params::Invocation;
use crate::registry::admission::matching::EXEMPT;

/// What has changed a request's object in its first round and wants to see what came after it.
#[derive(Default)]
pub(in crate::registry::admission) struct Invoked(HashSet<[String; 4]>);

/// What tells an invocation apart from others.
fn key(invocation: &Invocation, params: &Value) -> [String; 4] {
    let param = |field: &str| params["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (policy, binding) = (invocation.policy.name.clone(), invocation.binding.name.clone());
    [policy, binding, param("namespace"), param("name")]
}

/// Why a mutation was not made.
enum Unmade {
    /// The policy's fault, which its `failurePolicy` may forgive.
    Policy(String),
    /// Nobody forgives it.
    Request(ApiError),
}

/// What stands against the request, and the reason that goes with it.
struct Denied(String, &'static str);

impl Registry {
    /// Has the policies change the object; true if some did. In the second round only those of `invoked` are asked.
    pub(in crate::registry::admission) async fn mutate_by_policies(
        &self,
        bound: &[Bound],
        request: &Request<'_>,
        old: Option<&Value>,
        new: &mut Value,
        invoked: &mut Invoked,
        again: bool,
    ) -> Result<bool, ApiError> {
        let concerned = request.operation != Operation::Delete && request.kind.group != EXEMPT;
        if bound.is_empty() || !concerned {
            return Ok(false);
        }
        let met = self.met(bound, request, Objects { old, new: Some(&*new) }).await?;
        if met.is_empty() {
            return Ok(false);
        }
        if request.kind.namespaced
            && self.cache.get(&kinds::NAMESPACE, "", request.namespace).is_none()
        {
            return Err(ApiError::not_found(&kinds::NAMESPACE, request.namespace));
        }
        let mut denied = Vec::new();
        let mut changed = false;
        for invocation in &met {
            let policy = &invocation.policy;
            let params = match &invocation.params {
                Ok(params) => params,
                Err(_) if policy.ignores => continue,
                Err(why) => {
                    let text = match why.of_binding() {
                        true => words((&policy.name, &invocation.binding.name), &why.to_string()),
                        false => format!("policy {:?} denied request: {why}", policy.name),
                    };
                    denied.push(Denied(text, "Forbidden"));
                    continue;
                }
            };
            let mut deny = |why: String| {
                if !policy.ignores {
                    let by = (policy.name.as_str(), invocation.binding.name.as_str());
                    denied.push(Denied(words(by, &why), "Invalid"));
                }
            };
            let target = self.target(request, invocation.resource)?;
            let inputs = Inputs::new(self, request, target.kind(), invocation.resource);
            let [old, mut current] = self.both_shown(&target, old, Some(&*new)).await?;
            let old = old.as_deref();
            let held = {
                let objects = Objects { old, new: current.as_deref() };
                let conditions = Activation::new(inputs.values(objects, params));
                all_hold(&policy.conditions, policy.ignores, &conditions)
            };
            match held {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    deny(why);
                    continue;
                }
            }
            let key = key(invocation, params);
            if again && !invoked.0.contains(&key) {
                continue;
            }
            let mut made = None;
            for mutation in &policy.mutations {
                let objects = Objects { old, new: current.as_deref() };
                match make(mutation, (policy, params), &target, &inputs, objects) {
                    Ok(Some(next)) => {
                        let mut next = self.as_written(&target, next).await?;
                        if super::super::is_of_collection(request) {
                            self.fill_in(request.kind, &mut next);
                        }
                        let shown = self.shown(&target, &next).await?.into_owned();
                        current = Some(Cow::Owned(shown));
                        made = Some(next);
                    }
                    Ok(None) => {}
                    Err(Unmade::Policy(why)) => deny(why),
                    Err(Unmade::Request(error)) => return Err(error),
                }
            }
            drop(current);
            if let Some(made) = made {
                changed |= made != *new;
                *new = made;
            }
            if policy.again {
                invoked.0.insert(key);
            }
        }
        match denied.is_empty() {
            true => Ok(changed),
            false => Err(refusal(request, new, denied)),
        }
    }
}

fn words((policy, binding): (&str, &str), why: &str) -> String {
    format!("policy '{policy}' with binding '{binding}' denied request: {why}")
}

/// The object with the mutation made, in the version of the target; none if the mutation wants nothing changed.
fn make(
    mutation: &Mutation,
    (policy, params): (&Policy, &Value),
    target: &Target,
    inputs: &Inputs,
    objects: Objects<'_>,
) -> Result<Option<Value>, Unmade> {
    let Some(current) = objects.new else { return Ok(None) };
    let activation = policy.activation(inputs.values(objects, params));
    let mut budget = BUDGET;
    let value = run(&mutation.expression, &activation, &mut budget)
        .map_err(|spent| Unmade::Policy(spent.to_string()))?
        .map_err(Unmade::Policy)?;
    match mutation.patch {
        Patch::Apply => applied(&value, current, target).map(Some),
        Patch::Json => patched(&value, current, target),
    }
}

/// What is wrong with the names of the parts that a value is made of.
fn check_names(value: &Val<'_>) -> Result<(), Unmade> {
    match &value.misnamed()[..] {
        [] => Ok(()),
        wrong => Err(Unmade::Policy(format!("type mismatch: {}", wrong.join("\n")))),
    }
}

fn applied(value: &Val<'_>, current: &Value, target: &Target) -> Result<Value, Unmade> {
    let wrong = |why: String| Unmade::Policy(format!("error applying patch: {why}"));
    check_names(value)?;
    let unfit = || Unmade::Policy("invalid return type: what was made is no JSON".into());
    let mut config = value.to_json().ok_or_else(unfit)?;
    for field in ["apiVersion", "kind"] {
        config[field] = current[field].clone();
    }
    let untyped =
        |why: String| wrong(format!("failed to convert patch object to typed object: {why}"));
    let decoded = target.check(config).map_err(|error| untyped(error.to_string()))?;
    if let Some(complaint) = decoded.strict.first() {
        // `unknown field "spec.foo"`
        let field = complaint.split('"').nth(1).unwrap_or(complaint);
        return Err(untyped(format!(".{field}: field not declared in schema")));
    }
    let schema = target.schema().map_err(Unmade::Request)?;
    let made = apply_unowned(current, &decoded.value, schema).map_err(wrong)?;
    target.check(made).map(|decoded| decoded.value).map_err(|error| wrong(error.to_string()))
}

fn patched(value: &Val<'_>, current: &Value, target: &Target) -> Result<Option<Value>, Unmade> {
    let Val::List(list) = value else {
        let why = "type mismatch: JSONPatchType.expression should evaluate to array";
        return Err(Unmade::Policy(why.into()));
    };
    let mut operations = Vec::new();
    for operation in list.iter() {
        if let Val::Map(fields) = &operation
            && let Some(value) = fields.field("value")
        {
            check_names(&value)?;
        }
        operations.push(operation.to_json().ok_or_else(|| {
            let why = "JSONPath valueExpression evaluated to a type that could not marshal to JSON";
            Unmade::Policy(why.into())
        })?);
    }
    let made = apply_operations(current.clone(), &operations)
        .map_err(|why| Unmade::Policy(format!("JSONPath: {why}")))?;
    // A test that fails is how a patch says that it is not for this object.
    let Some(made) = made else { return Ok(None) };
    let internal = |why: String| Unmade::Request(ApiError::internal(why));
    let decoded = target.check(made).map_err(|error| internal(error.to_string()))?;
    match decoded.strict_error() {
        Some(why) => Err(internal(why)),
        None => Ok(Some(decoded.value)),
    }
}

/// All that is wrong; the first of it is told.
fn refusal(request: &Request<'_>, new: &Value, denied: Vec<Denied>) -> ApiError {
    let name = match request.name {
        "" => new["metadata"]["name"].as_str().unwrap_or_default(),
        name => name,
    };
    let mut error = ApiError::forbidden(request.kind, name, "");
    if let Some(Denied(why, reason)) = denied.first() {
        (error.message, error.reason) = (why.clone(), *reason);
    }
    if let Some(details) = &mut error.details {
        let causes = denied.into_iter().map(|Denied(why, _)| (String::new(), why, String::new()));
        details.causes.extend(causes);
    }
    error
}
