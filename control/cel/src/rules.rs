//! `x-kubernetes-validations`: rules in the schemas of custom resources.
//!
//! Rules are compiled with their schema, each against the type of the value that it stands at, and kept in a tree of those
//! levels that have rules at or below them. A check walks object and tree together; the whole walk has one budget.
//!
//! Source: `k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::FieldError;
use coracle_api::json::Json;
use serde_json::Value;

use crate::declare::{REQUEST, declare, keys};
use crate::{
    Activation, BUDGET, CALL_LIMIT, CompileError, Decl, ESTIMATED_RULE, ESTIMATED_SCHEMA, Env,
    EvalError, Program, Type, Val,
};

const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";
const EXTENSION: &str = "x-kubernetes-validations";
/// A message that an expression made may have so many bytes.
const LONGEST_MESSAGE: usize = 5 << 10;
/// What upstream prints where an error has no field.
const NOWHERE: &str = "<nil>";

/// What compiling a schema's rules has found.
#[derive(Default)]
struct Found {
    errors: Vec<FieldError>,
    /// How many of them are only about costs: such rules are run all the same, where they are stored.
    costly: usize,
    total: u64,
    /// The costliest expressions, by their paths.
    costliest: Vec<(u64, String)>,
}

/// Expressions that are named where all of a schema's together may cost too much.
const NAMED: usize = 4;

impl Found {
    /// Errors for which a rule cannot be run.
    fn broken(&self) -> usize {
        self.errors.len() - self.costly
    }

    fn cost(&mut self, at: &str, what: &str, cost: u64) {
        if cost > ESTIMATED_RULE {
            let why = exceeds(what, cost, ESTIMATED_RULE);
            self.errors.push(FieldError::forbidden(at, why));
            self.costly += 1;
        }
        self.total = self.total.saturating_add(cost);
        self.costliest.push((cost, at.to_owned()));
        self.costliest.sort_by_key(|(cost, _)| Reverse(*cost));
        self.costliest.truncate(NAMED);
    }

    fn total(&mut self, at: &str) {
        if self.total <= ESTIMATED_SCHEMA {
            return;
        }
        for (_, at) in self.costliest.drain(..) {
            let why = "contributed to estimated rule & messageExpression cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.errors.push(FieldError::forbidden(at, why));
        }
        let what = "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
        let why = exceeds(what, self.total, ESTIMATED_SCHEMA);
        self.errors.push(FieldError::forbidden(at, why));
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// How many values there may be below one of this schema; none if nothing bounds them.
fn most_inside(schema: &Value) -> Option<u64> {
    let bound = |field: &str| u64::try_from(schema.int(&[field])?).ok();
    match schema.text(&["type"]) {
        "array" => bound("maxItems"),
        "object" if schema.at(&["additionalProperties"]).is_some_and(Value::is_object) => {
            bound("maxProperties")
        }
        _ => Some(1),
    }
}

/// The rules of one schema.
#[derive(Debug, Default)]
pub struct Rules {
    root: Option<Level>,
}

#[derive(Debug)]
struct Level {
    /// `object`, `array`…, as errors show the value.
    kind: String,
    decl: Arc<Decl>,
    rules: Vec<Rule>,
    all_of: Vec<Level>,
    properties: BTreeMap<String, Level>,
    additional: Option<Box<Level>>,
    items: Option<Box<Level>>,
    /// What tells items apart.
    keys: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    message: String,
    message_expression: Option<(String, Program)>,
    reason: String,
    /// Below the value that the rule stands at.
    field: String,
    program: Program,
    /// Names `oldSelf`.
    transition: bool,
    /// `oldSelf` is optional, and the rule holds for new values too.
    optional: bool,
}

impl Rules {
    /// Compiles the rules of `openAPIV3Schema`, and tells what does not compile or might cost too much; `at` is its path. That
    /// rules have the right form is the kind's to check.
    pub fn compile(schema: &Value, at: &str) -> (Self, Vec<FieldError>) {
        let mut found = Found::default();
        let root = Level::compile(schema, None, true, "self", at, Some(1), &mut found);
        found.total(at);
        (Self { root }, found.errors)
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Checks an object; `old` is what it replaces. What a value broke before and breaks unchanged is forgiven, but
    /// for rules that compare.
    pub fn check(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut check = Check { budget: Some(BUDGET), errors: Vec::new() };
        if let Some(root) = &self.root {
            check.visit(root, "", new, old, false);
        }
        check.errors
    }
}

impl Level {
    /// `structure` has the types where a schema below `allOf` has none.
    fn compile(
        schema: &Value,
        structure: Option<&Value>,
        root: bool,
        name: &str,
        at: &str,
        cardinality: Option<u64>,
        found: &mut Found,
    ) -> Option<Self> {
        let typed = structure.unwrap_or(schema);
        let kind = match typed.text(&["type"]) {
            "" if typed.flag(&["x-kubernetes-int-or-string"]) => "",
            kind => kind,
        };
        let decl = declare(typed, root, name);
        let written = schema.list(&[EXTENSION]);
        let mut rules = Vec::new();
        match &decl {
            None if !written.is_empty() => {
                let preserve = typed.flag(&["x-kubernetes-preserve-unknown-fields"]);
                let why = format!(
                    "rule declared on schema that does not support validation rules type: '{kind}' x-kubernetes-preserve-unknown-fields: '{preserve}'"
                );
                found.errors.push(FieldError::invalid(
                    format!("{at}.{EXTENSION}"),
                    written.to_vec(),
                    why,
                ));
            }
            None => {}
            Some(decl) => {
                for (i, rule) in written.iter().enumerate() {
                    let at = format!("{at}.{EXTENSION}[{i}]");
                    rules.extend(Rule::compile(rule, decl, typed, &at, cardinality, found));
                }
            }
        }
        let inside = cardinality.and_then(|times| Some(times.saturating_mul(most_inside(typed)?)));
        let below = |field: &str, schema: &Value, at: String, name: String, found: &mut Found| {
            let structure = structure.and_then(|of| match field {
                "items" | "additionalProperties" => of.at(&[field]),
                property => of.at(&["properties", property]),
            });
            Self::compile(schema, structure, false, &name, &at, inside, found)
        };
        let mut properties = BTreeMap::new();
        for (property, of) in schema.pairs(&["properties"]) {
            let at = format!("{at}.properties[{property}]");
            let level = below(property, of, at, format!("{name}.{property}"), found);
            properties.extend(level.map(|level| (property.to_owned(), level)));
        }
        let more = schema.at(&["additionalProperties"]).filter(|more| more.is_object());
        let additional = more.and_then(|of| {
            let at = format!("{at}.additionalProperties");
            below("additionalProperties", of, at, format!("{name}.@elem"), found)
        });
        let items = schema.at(&["items"]).and_then(|of| {
            below("items", of, format!("{at}.items"), format!("{name}.@idx"), found)
        });
        let mut all_of = Vec::new();
        for (i, part) in schema.list(&["allOf"]).iter().enumerate() {
            let at = format!("{at}.allOf[{i}]");
            let part = Self::compile(part, Some(typed), root, name, &at, cardinality, found);
            all_of.extend(part);
        }
        let none = rules.is_empty() && properties.is_empty() && all_of.is_empty();
        if none && additional.is_none() && items.is_none() {
            return None;
        }
        Some(Self {
            kind: kind.to_owned(),
            decl: decl.unwrap_or_default(),
            rules,
            all_of,
            properties,
            additional: additional.map(Box::new),
            items: items.map(Box::new),
            keys: keys(typed),
        })
    }
}

impl Rule {
    fn compile(
        rule: &Value,
        decl: &Arc<Decl>,
        schema: &Value,
        at: &str,
        cardinality: Option<u64>,
        found: &mut Found,
    ) -> Option<Self> {
        let known = found.broken();
        let (text, message) = (rule.text(&["rule"]), rule.text(&["message"]));
        if text.trim().is_empty() {
            return None;
        }
        let expression = rule.text(&["messageExpression"]);
        if rule.has(&["messageExpression"]) && expression.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            let at = format!("{at}.messageExpression");
            found.errors.push(FieldError::invalid(at, expression, why));
        }
        let reason = rule.text(&["reason"]);
        let path = rule.text(&["fieldPath"]);
        let field = match field_path(path, schema) {
            Ok(field) => field,
            Err(why) => {
                let why = format!("fieldPath must be a valid path: {why}");
                found.errors.push(FieldError::invalid(format!("{at}.fieldPath"), path, why));
                String::new()
            }
        };
        let optional = rule.flag(&["optionalOldSelf"]);
        let old = if optional { Type::optional(decl.ty()) } else { decl.ty() };
        let env = Env::new().variable("self", decl.ty()).variable("oldSelf", old);
        let program = env.compile_to(text, &[Type::Bool]);
        if let Err(why) = &program {
            let why = match why {
                CompileError::Result { .. } => "cel expression must evaluate to a bool".into(),
                other => other.detail(),
            };
            found.errors.push(FieldError::invalid(format!("{at}.rule"), rule.clone(), why));
        }
        let declared = [Some(decl.clone()), (!optional).then(|| decl.clone())];
        if let Ok(program) = &program {
            // In how many places, as its lists and maps bound them, or else as many as fit into a request.
            let times = cardinality.unwrap_or_else(|| REQUEST / (decl.min + 1));
            let cost = program.most(&declared).saturating_mul(times);
            found.cost(&format!("{at}.rule"), "estimated rule cost", cost);
        }
        let mut message_expression = None;
        if !expression.trim().is_empty() {
            match env.compile_to(expression, &[Type::String]) {
                Ok(program) => {
                    let cost = program.most(&declared);
                    let at = format!("{at}.messageExpression");
                    found.cost(&at, "estimated messageExpression cost", cost);
                    message_expression = Some((expression.to_owned(), program));
                }
                Err(why) => {
                    let why = match why {
                        CompileError::Result { .. } => {
                            "messageExpression must evaluate to a string".into()
                        }
                        other => format!("messageExpression {}", other.detail()),
                    };
                    let at = format!("{at}.messageExpression");
                    found.errors.push(FieldError::invalid(at, rule.clone(), why));
                }
            }
        }
        let program = program.ok().filter(|_| found.broken() == known)?;
        let transition = program.names(1);
        if optional && !transition {
            let why = "may not be set if oldSelf is not used in rule";
            found.errors.push(FieldError::invalid(format!("{at}.optionalOldSelf"), true, why));
        }
        Some(Self {
            text: text.trim().to_owned(),
            message: message.trim().to_owned(),
            message_expression,
            reason: reason.to_owned(),
            field,
            program,
            transition,
            optional,
        })
    }

    /// What the rule is called in errors.
    fn name(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }

    fn default_message(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.text)
        } else {
            self.message.clone()
        }
    }
}

/// `.spec['x']` as a path of fields and keys that the schema knows.
fn field_path(path: &str, schema: &Value) -> Result<String, String> {
    let (mut rest, mut schema, mut field) = (path, schema, String::new());
    while !rest.is_empty() {
        let name = if let Some(tail) = rest.strip_prefix("['") {
            let (name, tail) = tail.split_once("']").ok_or("unexpected end of JSON path")?;
            rest = tail;
            name
        } else if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            rest = &tail[end..];
            &tail[..end]
        } else {
            return Err(format!("expected [ or . but got: {rest}"));
        };
        let unknown = || "does not refer to a valid field".to_owned();
        match schema.at(&["properties"]) {
            Some(properties) => {
                schema = properties.get(name).ok_or_else(unknown)?;
                if !field.is_empty() {
                    field.push('.');
                }
                field.push_str(name);
            }
            None => {
                schema = schema.at(&["additionalProperties"]).ok_or_else(unknown)?;
                field.push_str(&format!("[{name}]"));
            }
        }
    }
    Ok(field)
}

struct Check {
    /// `None` when it is spent.
    budget: Option<u64>,
    errors: Vec<FieldError>,
}

impl Check {
    /// `same` tells that the nearest value above that has an old one is equal to it.
    fn visit(&mut self, level: &Level, at: &str, new: &Value, old: Option<&Value>, same: bool) {
        if new.is_null() || self.budget.is_none() {
            return;
        }
        let old = old.filter(|old| !old.is_null());
        let same = old.map_or(same, |old| old == new);
        self.run(level, at, new, old, same);
        for part in &level.all_of {
            self.visit(part, at, new, old, same);
        }
        match new {
            Value::Array(items) => {
                let Some(below) = &level.items else { return };
                for (i, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| same_item(item, old, &level.keys));
                    self.visit(below, &format!("{at}[{i}]"), item, old, same);
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let old = old.and_then(|old| old.get(name));
                    if let Some(level) = level.properties.get(name) {
                        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                        self.visit(level, &at, value, old, same);
                    } else if let Some(level) = &level.additional {
                        self.visit(level, &format!("{at}[{name}]"), value, old, same);
                    }
                }
            }
            _ => {}
        }
    }

    fn run(&mut self, level: &Level, at: &str, new: &Value, old: Option<&Value>, same: bool) {
        if level.rules.is_empty() {
            return;
        }
        let old_value = || old.map(|old| Val::declared(old, &level.decl));
        let plain = Activation::new(
            [Some(Val::declared(new, &level.decl)), old_value()].into_iter().flatten().collect(),
        );
        let optional = Val::Optional(old_value().map(std::rc::Rc::new));
        let with_optional = Activation::new(vec![Val::declared(new, &level.decl), optional]);
        for rule in &level.rules {
            if rule.transition && old.is_none() && !rule.optional {
                continue;
            }
            let Some(budget) = self.budget else { return };
            let activation = if rule.optional { &with_optional } else { &plain };
            let (result, cost) = rule.program.evaluate(activation, CALL_LIMIT);
            self.budget = budget.checked_sub(cost);
            if self.budget.is_none() {
                return self.wrong(level, at, SPENT.into());
            }
            let name = rule.name();
            match result {
                Ok(Val::Bool(true)) => {}
                Ok(_) if same && !rule.transition => {}
                Ok(_) => self.failed(level, rule, at, activation),
                Err(EvalError::CostLimit) => {
                    self.budget = None;
                    let why = EvalError::CostLimit;
                    let why = format!(
                        "'{why}': no further validation rules will be run due to call cost exceeds limit for rule: {name}"
                    );
                    return self.wrong(level, at, why);
                }
                Err(why) if why == EvalError::no_such_overload() => {
                    let why = format!(
                        "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {name}"
                    );
                    self.wrong(level, at, why);
                }
                Err(why) => self.wrong(level, at, format!("{why} evaluating rule: {name}")),
            }
        }
    }

    fn wrong(&mut self, level: &Level, at: &str, why: String) {
        let at = if at.is_empty() { NOWHERE } else { at };
        self.errors.push(FieldError::invalid(at, level.kind.as_str(), why));
    }

    fn failed<'a>(&mut self, level: &Level, rule: &'a Rule, at: &str, activation: &Activation<'a>) {
        let at = match (at, rule.field.as_str()) {
            ("", "") => NOWHERE.to_owned(),
            (at, "") => at.to_owned(),
            ("", field) => field.to_owned(),
            (at, field) if field.starts_with('[') => format!("{at}{field}"),
            (at, field) => format!("{at}.{field}"),
        };
        let mut message = None;
        let mut spent = None;
        if let (Some((text, program)), Some(budget)) = (&rule.message_expression, self.budget) {
            let (result, cost) = program.evaluate(activation, CALL_LIMIT);
            self.budget = budget.checked_sub(cost);
            match result {
                _ if self.budget.is_none() => {
                    spent = Some("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned());
                }
                Ok(Val::String(made)) => {
                    let made = made.trim();
                    let fits =
                        !made.is_empty() && made.len() <= LONGEST_MESSAGE && !made.contains('\n');
                    message = fits.then(|| made.to_owned());
                }
                Err(EvalError::CostLimit) => {
                    self.budget = None;
                    spent = Some(format!(
                        "no further validation rules will be run due to call cost exceeds limit for messageExpression: {text:?}"
                    ));
                }
                _ => {}
            }
        }
        let detail = spent.or(message).unwrap_or_else(|| rule.default_message());
        let value = level.kind.as_str();
        let error = match rule.reason.as_str() {
            "FieldValueForbidden" => FieldError::forbidden(at, detail),
            "FieldValueRequired" => FieldError::required(at, detail),
            "FieldValueDuplicate" => FieldError::duplicate(at, value),
            _ => FieldError::invalid(at, value, detail),
        };
        self.errors.push(error);
    }
}

/// The item of an old list that has the same keys.
fn same_item<'v>(item: &Value, old: &'v Value, keys: &[String]) -> Option<&'v Value> {
    if keys.is_empty() {
        return None;
    }
    let same = |known: &&Value| keys.iter().all(|key| known.get(key) == item.get(key));
    old.as_array()?.iter().find(same)
}
