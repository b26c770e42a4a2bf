//! What the expressions of one policy come to for one request and one set of params.

use std::fmt;

use coracle_cel::{Activation, BUDGET, CALL_LIMIT, Val};
use serde_json::Value;

use super::LONGEST_ANNOTATION;
use super::compile::{Expression, Policy, Validation};
use super::inputs::{Inputs, Objects};

/// What `matchConditions` may cost together.
const CONDITIONS_BUDGET: u64 = 2_500_000;
/// A message that an expression made may have so many bytes.
const LONGEST_MESSAGE: usize = 5 << 10;
const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What a binding does about a failed validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Deny,
    Warn,
    Audit,
}

/// Why a validation failed.
#[derive(Debug, Clone)]
pub(super) struct Denied {
    pub(super) message: String,
    pub(super) reason: &'static str,
}

impl Denied {
    pub(super) fn invalid(message: String) -> Self {
        Self { message, reason: "Invalid" }
    }
}

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    /// For each validation, why it failed.
    pub(super) decisions: Vec<Option<Denied>>,
    /// Keys and values for the audit log, or why one could not be made.
    pub(super) annotations: Vec<Result<(String, String), String>>,
}

impl Found {
    fn only(why: String, policy: &Policy) -> Self {
        let decision = (!policy.ignores).then_some(Denied::invalid(why));
        Self { decisions: vec![decision], ..Self::default() }
    }
}

/// No more may be spent.
pub(super) struct Spent;

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SPENT)
    }
}

pub(super) fn evaluate(
    policy: &Policy,
    inputs: &Inputs,
    objects: Objects<'_>,
    params: &Value,
) -> Found {
    let conditions = Activation::new(inputs.values(objects, params));
    match all_hold(&policy.conditions, policy.ignores, &conditions) {
        Ok(true) => {}
        Ok(false) => return Found::default(),
        Err(why) => return Found::only(why, policy),
    }
    let activation = policy.activation(inputs.values(objects, params));
    let mut budget = BUDGET;
    let mut results = Vec::new();
    for validation in &policy.validations {
        match run(&validation.expression, &activation, &mut budget) {
            Ok(result) => results.push(result),
            Err(Spent) => return Found::only(SPENT.into(), policy),
        }
    }
    let mut decisions = Vec::new();
    for (validation, result) in policy.validations.iter().zip(results) {
        decisions.push(match result {
            Ok(Val::Bool(true)) => None,
            Ok(_) => Some(Denied {
                message: message(validation, &activation, &mut budget),
                reason: validation.reason,
            }),
            Err(_) if policy.ignores => None,
            Err(why) => Some(Denied::invalid(why)),
        });
    }
    let mut annotations = Vec::new();
    let mut budget = BUDGET;
    for (key, expression) in &policy.annotations {
        match run(expression, &activation, &mut budget) {
            Err(Spent) => return Found::only(SPENT.into(), policy),
            Ok(Ok(Val::String(value))) if !value.trim().is_empty() => {
                annotations.push(Ok((key.clone(), cut(value.trim(), LONGEST_ANNOTATION))));
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) if policy.ignores => {}
            Ok(Err(why)) => annotations.push(Err(why)),
        }
    }
    Found { decisions, annotations }
}

/// Whether all conditions hold. One that does not decides, whatever is wrong with the others.
pub(super) fn all_hold<'a>(
    conditions: &'a [Expression],
    ignores: bool,
    activation: &Activation<'a>,
) -> Result<bool, String> {
    let mut budget = CONDITIONS_BUDGET;
    let mut wrong = Vec::new();
    for condition in conditions {
        match run(condition, activation, &mut budget) {
            Ok(Ok(Val::Bool(false))) => return Ok(false),
            Ok(Ok(_)) => {}
            Ok(Err(why)) => wrong.push(why),
            Err(Spent) => {
                wrong = vec![SPENT.into()];
                break;
            }
        }
    }
    match &wrong[..] {
        [] => Ok(true),
        _ if ignores => Ok(false),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

pub(super) fn run<'a>(
    expression: &'a Expression,
    activation: &Activation<'a>,
    budget: &mut u64,
) -> Result<Result<Val<'a>, String>, Spent> {
    let program = match &expression.program {
        Ok(program) => program,
        Err(why) => return Ok(Err(format!("compilation error: {why}"))),
    };
    let (result, cost) = program.evaluate(activation, CALL_LIMIT);
    *budget = budget.checked_sub(cost).ok_or(Spent)?;
    let text = &expression.text;
    Ok(result.map_err(|why| format!("expression '{text}' resulted in error: {why}")))
}

/// What to say: what the expression for it makes, else what is written, else the expression itself.
fn message<'a>(
    validation: &'a Validation,
    activation: &Activation<'a>,
    budget: &mut u64,
) -> String {
    if let Some(expression) = &validation.message_expression {
        match run(expression, activation, budget) {
            Err(Spent) => return format!("failed messageExpression: {SPENT}"),
            Ok(Ok(Val::String(text))) => {
                let text = text.trim();
                if !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n') {
                    return text.to_owned();
                }
            }
            Ok(_) => {}
        }
    }
    if validation.message.is_empty() {
        format!("failed expression: {}", validation.expression.text.trim())
    } else {
        validation.message.clone()
    }
}

fn cut(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
