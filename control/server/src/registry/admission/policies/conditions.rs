//! `matchConditions` of webhooks: the same expressions as a policy's, over the same request, without params.

use coracle_api::json::Json;
use coracle_cel::{Activation, Type};
use serde_json::Value;

use super::compile::{Expression, declare};
use super::evaluate::all_hold;
use super::inputs::{Inputs, Objects};
use super::{Registry, Request};

/// See the module.
pub(in crate::registry::admission) struct Conditions(Vec<Expression>);

impl Conditions {
    pub(in crate::registry::admission) fn from_value(webhook: &Value) -> Self {
        let all = webhook.list(&["matchConditions"]);
        if all.is_empty() {
            return Self(Vec::new());
        }
        let env = declare(false, true, Type::Dyn);
        let texts = all.iter().map(|condition| condition.text(&["expression"]).trim());
        Self(texts.map(|text| Expression::new(text, &env, &[Type::Bool])).collect())
    }

    /// Whether all of them hold; with `ignores`, one that fails does not.
    ///
    /// # Errors
    /// What is wrong with those that fail.
    pub(in crate::registry::admission) fn hold(
        &self,
        registry: &Registry,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
        ignores: bool,
    ) -> Result<bool, String> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let (kind, resource) = (request.object_kind(), request.resource());
        let inputs = Inputs::new(registry, request, kind, resource);
        let values = inputs.values(Objects { old, new }, &Value::Null);
        all_hold(&self.0, ignores, &Activation::new(values))
    }
}
