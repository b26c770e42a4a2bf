//! What policies and bindings say, read once: rules, selectors, and expressions as programs.

use std::sync::LazyLock;

use coracle_api::json::Json;
use coracle_api::selector::LabelSelector;
use coracle_cel::{
    AUTHORIZER_TYPES, Activation, Env, Program, Type, Val, json_patches, object_type,
};
use serde_json::Value;

use super::evaluate::Action;
use super::inputs;
use crate::registry::admission::matching::Matches;

/// The field that lists what a policy or binding is for.
pub(super) const RULES: &str = "resourceRules";

/// An expression, as written and as a program.
pub(super) struct Expression {
    pub(super) text: String,
    pub(super) program: Result<Program, String>,
}

impl Expression {
    pub(super) fn new(text: &str, env: &Env, to: &[Type]) -> Self {
        // What was stored compiled when it was written; a server that knows less says so when it is asked.
        let program = env.compile_to(text, to).map_err(|why| why.detail());
        Self { text: text.to_owned(), program }
    }
}

/// A policy: a ValidatingAdmissionPolicy has validations and annotations, a MutatingAdmissionPolicy mutations.
pub(super) struct Policy {
    pub(super) name: String,
    /// `failurePolicy: Ignore`.
    pub(super) ignores: bool,
    /// `apiVersion` and `kind`.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) matches: Matches,
    pub(super) conditions: Vec<Expression>,
    /// In their order, which is the order of their declaration.
    pub(super) variables: Vec<Expression>,
    pub(super) validations: Vec<Validation>,
    /// Key and expression.
    pub(super) annotations: Vec<(String, Expression)>,
    pub(super) mutations: Vec<Mutation>,
    /// Whether it wants to see what was changed after it (`reinvocationPolicy: IfNeeded`).
    pub(super) again: bool,
}

/// One change of a MutatingAdmissionPolicy.
pub(super) struct Mutation {
    pub(super) patch: Patch,
    pub(super) expression: Expression,
}

/// What an expression of a mutation makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patch {
    /// What is to be merged into the object.
    Apply,
    /// Operations on it.
    Json,
}

impl Patch {
    /// The two, by `patchType` and field.
    pub(super) const ALL: [(&str, &str, Self); 2] = [
        ("ApplyConfiguration", "applyConfiguration", Self::Apply),
        ("JSONPatch", "jsonPatch", Self::Json),
    ];

    /// The type of what such an expression comes to.
    pub(super) fn ty(self) -> Type {
        match self {
            Self::Apply => object_type(),
            Self::Json => json_patches(),
        }
    }
}

pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: &'static str,
}

impl Policy {
    pub(super) fn from_value(policy: &Value) -> Self {
        let spec = policy.at(&["spec"]).cloned().unwrap_or_default();
        let param_kind = spec
            .at(&["paramKind"])
            .map(|kind| (kind.text(&["apiVersion"]).into(), kind.text(&["kind"]).into()));
        let envs = Envs::of(param_kind.is_some(), &spec);
        let texts = |list: &str, field: &str, env: &Env, to: &[Type]| {
            let all = spec.list(&[list]).iter();
            all.map(|item| Expression::new(item.text(&[field]).trim(), env, to)).collect()
        };
        let validations = spec.list(&["validations"]).iter().map(|validation| {
            let message = validation.text(&["messageExpression"]);
            Validation {
                expression: Expression::new(
                    validation.text(&["expression"]),
                    &envs.full,
                    &[Type::Bool],
                ),
                message: validation.text(&["message"]).trim().to_owned(),
                message_expression: (!message.is_empty())
                    .then(|| Expression::new(message, &envs.plain, &[Type::String])),
                reason: match validation.text(&["reason"]) {
                    "Forbidden" => "Forbidden",
                    "RequestEntityTooLarge" => "RequestEntityTooLarge",
                    "Unauthorized" => "Unauthorized",
                    _ => "Invalid",
                },
            }
        });
        let annotations = spec.list(&["auditAnnotations"]).iter().map(|annotation| {
            let text = annotation.text(&["valueExpression"]).trim();
            let expression = Expression::new(text, &envs.full, &[Type::String, Type::Null]);
            (annotation.text(&["key"]).to_owned(), expression)
        });
        let patching = envs.full.clone().patching();
        let mutations = spec.list(&["mutations"]).iter().filter_map(|mutation| {
            let given = mutation.text(&["patchType"]);
            let (_, field, patch) = Patch::ALL.into_iter().find(|(name, ..)| *name == given)?;
            let text = mutation.text(&[field, "expression"]);
            let expression = Expression::new(text, &patching, &[patch.ty()]);
            Some(Mutation { patch, expression })
        });
        Self {
            name: policy.text(&["metadata", "name"]).to_owned(),
            mutations: mutations.collect(),
            again: spec.text(&["reinvocationPolicy"]) == "IfNeeded",
            ignores: spec.text(&["failurePolicy"]) == "Ignore",
            matches: Matches::from_value(&spec["matchConstraints"], RULES),
            conditions: texts("matchConditions", "expression", &envs.conditions, &[Type::Bool]),
            validations: validations.collect(),
            annotations: annotations.collect(),
            variables: envs.variables,
            param_kind,
        }
    }
}

impl Policy {
    /// The values of an evaluation, with the policy's variables.
    pub(super) fn activation<'a>(&'a self, values: Vec<Val<'a>>) -> Activation<'a> {
        let mut activation = Activation::new(values);
        for variable in &self.variables {
            activation.compose(variable.program.as_ref().ok());
        }
        activation
    }
}

/// What the expressions of one policy may name.
pub(super) struct Envs {
    /// Conditions: no variables made of others.
    pub(super) conditions: Env,
    /// Validations and annotations.
    pub(super) full: Env,
    /// Messages: no authorizer.
    pub(super) plain: Env,
    pub(super) variables: Vec<Expression>,
}

impl Envs {
    pub(super) fn of(params: bool, spec: &Value) -> Self {
        let conditions = declare(params, true, Type::Dyn);
        Self::with(conditions, declare(params, false, Type::Dyn), spec)
    }

    /// Compiles the variables one by one, each seeing those before it.
    pub(super) fn with(conditions: Env, plain: Env, spec: &Value) -> Self {
        let (mut full, mut plain) = (conditions.clone().composing(), plain.composing());
        let mut variables = Vec::new();
        for variable in spec.list(&["variables"]) {
            let expression = Expression::new(variable.text(&["expression"]), &full, &[]);
            let ty = expression.program.as_ref().map_or(Type::Dyn, |program| program.ty().clone());
            full.compose(variable.text(&["name"]), ty.clone());
            plain.compose(variable.text(&["name"]), ty);
            variables.push(expression);
        }
        Self { conditions, full, plain, variables }
    }
}

/// The variables of expressions, in the order of [`inputs::Inputs::values`]; what is not declared keeps its place.
pub(super) fn declare(params: bool, authorizer: bool, object: Type) -> Env {
    static TYPES: LazyLock<(Type, Type)> =
        LazyLock::new(|| (inputs::NAMESPACE.ty(), inputs::REQUEST.ty()));
    let [asks, asks_of_request] = AUTHORIZER_TYPES;
    // No expression can name a variable without a name.
    let name = |declared: bool, name: &'static str| if declared { name } else { "" };
    Env::new()
        .variable("object", object.clone())
        .variable("oldObject", object)
        .variable("namespaceObject", TYPES.0.clone())
        .variable("request", TYPES.1.clone())
        .variable(name(params, "params"), Type::Dyn)
        .variable(name(authorizer, "authorizer"), asks)
        .variable(name(authorizer, "authorizer.requestResource"), asks_of_request)
}

/// What binds a policy, of either kind; only validations have actions.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) matches: Option<Matches>,
    pub(super) param: Option<ParamRef>,
    pub(super) actions: Vec<Action>,
    pub(super) action_names: Value,
}

/// Which params a binding takes.
pub(super) struct ParamRef {
    pub(super) name: String,
    pub(super) namespace: String,
    /// Instead of a name.
    pub(super) selector: Option<LabelSelector>,
    /// Whether none is an error.
    pub(super) denies: bool,
}

impl Binding {
    pub(super) fn from_value(binding: &Value) -> Self {
        let spec = binding.at(&["spec"]).cloned().unwrap_or_default();
        let param = spec.at(&["paramRef"]).map(|param| ParamRef {
            name: param.text(&["name"]).to_owned(),
            namespace: param.text(&["namespace"]).to_owned(),
            selector: param.at(&["selector"]).map(|selector| {
                LabelSelector::from_value(Some(selector)).unwrap_or(LabelSelector::NOTHING)
            }),
            denies: param.text(&["parameterNotFoundAction"]) == "Deny",
        });
        let actions = spec.list(&["validationActions"]).iter().filter_map(|action| {
            Some(match action.as_str()? {
                "Deny" => Action::Deny,
                "Warn" => Action::Warn,
                "Audit" => Action::Audit,
                _ => return None,
            })
        });
        Self {
            name: binding.text(&["metadata", "name"]).to_owned(),
            policy: spec.text(&["policyName"]).to_owned(),
            matches: spec.at(&["matchResources"]).map(Matches::of_binding),
            param,
            actions: actions.collect(),
            action_names: spec.list(&["validationActions"]).to_vec().into(),
        }
    }
}
