//! What is checked and noted when a policy is written: whether its expressions compile, and, in its status, what is
//! probably wrong with them for the kinds that it is for.

use std::sync::Arc;

use coracle_api::FieldError;
use coracle_api::json::Json;
use coracle_api::kinds::{self, Kind};
use coracle_api::kinds::{MUTATING_ADMISSION_POLICY, VALIDATING_ADMISSION_POLICY};
use coracle_api::path::Path;
use coracle_api::schema::builtin;
use coracle_cel::{Decl, Env, Type};
use serde_json::{Value, json};

use super::compile::{Envs, Patch, RULES, declare};
use super::schemas;
use crate::custom::Definitions;
use crate::registry::admission::matching::Matches;

/// Kinds that expressions are checked against.
const CHECKED: usize = 10;

/// What does not compile of what is being written; `old` is what was stored, whose expressions stay.
pub(in crate::registry) fn problems(
    kind: &Kind,
    new: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    if kind.resource == kinds::CUSTOM_RESOURCE_DEFINITION.resource {
        return crate::custom::problems(new, old);
    }
    if kind.resource == kinds::VALIDATING_WEBHOOK_CONFIGURATION.resource
        || kind.resource == kinds::MUTATING_WEBHOOK_CONFIGURATION.resource
    {
        return conditions(new, old);
    }
    let is = |policy: &Kind| kind.resource == policy.resource;
    if !is(&VALIDATING_ADMISSION_POLICY) && !is(&MUTATING_ADMISSION_POLICY) {
        return Vec::new();
    }
    let spec = new.at(&["spec"]).cloned().unwrap_or_default();
    if old.is_some_and(|old| old.at(&["spec"]) == Some(&spec)) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let envs = Envs::of(spec.has(&["paramKind"]), &spec);
    for expression in expressions(&spec) {
        // That there is none is said elsewhere.
        if expression.text.trim().is_empty() {
            continue;
        }
        if let Err(why) = expression.compile(&envs, &spec) {
            errors.push(FieldError::invalid(expression.at, expression.text, why));
        }
    }
    errors
}

/// The same of webhooks.
fn conditions(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let webhooks = new.list(&["webhooks"]);
    let known = old.map_or(&[][..], |old| old.list(&["webhooks"]));
    let known = |text: &str| {
        let mut all = known.iter().flat_map(|webhook| webhook.list(&["matchConditions"]));
        all.any(|condition| condition.text(&["expression"]) == text)
    };
    let env = declare(false, true, Type::Dyn);
    let mut errors = Vec::new();
    for (i, webhook) in webhooks.iter().enumerate() {
        for (j, condition) in webhook.list(&["matchConditions"]).iter().enumerate() {
            let text = condition.text(&["expression"]);
            // That there is none is said elsewhere.
            if text.trim().is_empty() || known(text) {
                continue;
            }
            if let Err(why) = env.compile_to(text.trim(), &[Type::Bool]) {
                let at = format!("webhooks[{i}].matchConditions[{j}].expression");
                errors.push(FieldError::invalid(at, text, why.detail()));
            }
        }
    }
    errors
}

/// Which expression it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Condition,
    /// By its place.
    Variable(usize),
    Validation,
    Message,
    Annotation,
    Mutation(Patch),
}

struct Written<'s> {
    at: String,
    text: &'s str,
    role: Role,
}

impl Written<'_> {
    fn compile(&self, envs: &Envs, spec: &Value) -> Result<(), String> {
        let to = |env: &Env, text: &str, types: &[Type]| {
            env.compile_to(text, types).map(drop).map_err(|why| why.detail())
        };
        match self.role {
            Role::Condition => to(&envs.conditions, self.text.trim(), &[Type::Bool]),
            Role::Validation => to(&envs.full, self.text, &[Type::Bool]),
            Role::Message => to(&envs.plain, self.text, &[Type::String]),
            Role::Annotation => to(&envs.full, self.text.trim(), &[Type::String, Type::Null]),
            Role::Mutation(patch) => to(&envs.full.clone().patching(), self.text, &[patch.ty()]),
            // Those after it, and itself, it cannot name.
            Role::Variable(at) => match envs.variables.get(at) {
                Some(variable) => variable.program.as_ref().map(drop).map_err(Clone::clone),
                None => to(&envs.conditions, spec.text(&[]), &[]),
            },
        }
    }
}

/// All expressions of a policy, in upstream's order.
fn expressions(spec: &Value) -> Vec<Written<'_>> {
    let at = Path::new("spec");
    let mut all = Vec::new();
    let mut of = |list: &'static str, field: &'static str, role: fn(usize) -> Role| {
        let at = at.child(list);
        for (i, item) in spec.list(&[list]).iter().enumerate() {
            let path = at.index(i);
            all.push(Written {
                at: path.child(field).to_string(),
                text: item.text(&[field]),
                role: role(i),
            });
        }
    };
    of("matchConditions", "expression", |_| Role::Condition);
    of("variables", "expression", Role::Variable);
    of("validations", "expression", |_| Role::Validation);
    of("validations", "messageExpression", |_| Role::Message);
    of("auditAnnotations", "valueExpression", |_| Role::Annotation);
    for (i, mutation) in spec.list(&["mutations"]).iter().enumerate() {
        let given = mutation.text(&["patchType"]);
        let patch = Patch::ALL.into_iter().find(|(name, ..)| *name == given);
        if let Some((_, field, patch)) = patch {
            all.push(Written {
                at: format!("spec.mutations[{i}].{field}.expression"),
                text: mutation.text(&[field, "expression"]),
                role: Role::Mutation(patch),
            });
        }
    }
    all
}

/// Notes in a policy's status which generation was looked at, and what seems wrong for the kinds that it is for.
pub(in crate::registry) fn note(
    definitions: &Definitions,
    kind: &Kind,
    new: &mut Value,
    old: Option<&Value>,
) {
    if kind.resource != VALIDATING_ADMISSION_POLICY.resource {
        return;
    }
    let generation = new["metadata"]["generation"].clone();
    if let Some(old) = old
        && old["metadata"]["generation"] == generation
    {
        return;
    }
    let warnings = warnings(definitions, new.at(&["spec"]).unwrap_or(&Value::Null));
    let mut checking = json!({});
    if !warnings.is_empty() {
        checking["expressionWarnings"] = warnings.into();
    }
    new["status"]["observedGeneration"] = generation;
    new["status"]["typeChecking"] = checking;
}

fn warnings(definitions: &Definitions, spec: &Value) -> Vec<Value> {
    let targets = targets(definitions, spec);
    let mut warnings = Vec::new();
    let params = spec.has(&["paramKind"]);
    let mut found = std::collections::BTreeMap::<usize, String>::new();
    let written = expressions(spec);
    for (target, decl) in targets {
        let conditions = declare(params, true, decl.ty());
        let envs = Envs::with(conditions, declare(params, false, decl.ty()), spec);
        for (i, expression) in written.iter().enumerate() {
            if !matches!(expression.role, Role::Validation | Role::Message) {
                continue;
            }
            if expression.text.is_empty() {
                continue;
            }
            let env = if expression.role == Role::Message { &envs.plain } else { &envs.full };
            if let Err(why) = env.compile(expression.text) {
                let name = match target.group {
                    "" => format!("{}, Kind={}", target.version, target.kind),
                    group => format!("{group}/{}, Kind={}", target.version, target.kind),
                };
                let text = found.entry(i).or_default();
                text.push_str(&format!("{name}: {why}\n"));
            }
        }
    }
    for (i, warning) in found {
        warnings.push(json!({"fieldRef": written[i].at, "warning": warning}));
    }
    warnings
}

/// The kinds that a policy names and their types; with `*` nobody knows them. Of a custom kind that is defined later, nothing is
/// said until the policy is changed, as upstream.
fn targets(definitions: &Definitions, spec: &Value) -> Vec<(&'static Kind, Arc<Decl>)> {
    let mut targets: Vec<(&'static Kind, Arc<Decl>)> = Vec::new();
    for rule in Matches::from_value(&spec["matchConstraints"], RULES).rules {
        let vague = |list: &[String]| list.iter().any(|name| name == "*" || name.contains('/'));
        if vague(&rule.groups) || vague(&rule.versions) || vague(&rule.resources) {
            continue;
        }
        for group in &rule.groups {
            for (version, resource) in rule
                .versions
                .iter()
                .flat_map(|version| rule.resources.iter().map(move |resource| (version, resource)))
            {
                let is_new = |kind: &Kind| {
                    let known = |known: &Kind| {
                        (known.resource, known.version) == (kind.resource, kind.version)
                    };
                    !targets.iter().any(|(it, _)| known(it))
                };
                if targets.len() >= CHECKED {
                    return targets;
                }
                if let Some(kind) = kinds::by_resource(group, resource) {
                    let schema = builtin().by_gvk(group, version, kind.kind);
                    if let Some(schema) = schema.filter(|_| kind.version == version && is_new(kind))
                    {
                        targets.push((kind, schemas::declare(schema)));
                    }
                } else if let Some(custom) = definitions.addressed(group, version, resource)
                    && let Some(schema) = custom.version().schema()
                    && is_new(custom.kind())
                {
                    targets.push((custom.kind(), schemas::declare(schema)));
                }
            }
        }
    }
    targets
}
