//! Values against their structure, in the words of upstream's validator (`k8s.io/kube-openapi/pkg/validation/validate`).
//!
//! What has not changed is not checked again, so that a definition may become stricter than objects that are stored
//! already ("validation ratcheting"); lists are compared item by item where their items have keys.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::format::fits;
use super::list_types::{self, same_key};
use super::structure::{Bound, Checks, Structure, Ty};
use crate::schema::ListType;
use crate::status::{FieldError, FieldProblem};

/// Errors of one object beyond this many are not worth a client's while.
const MAX_ERRORS: usize = 100;
/// What upstream prints where an error has no field.
const NOWHERE: &str = "<nil>";

impl Structure {
    /// Checks a whole object; `old` is what it replaces.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut checker = Checker { path: String::new(), errors: Vec::new() };
        checker.visit(self, new, old);
        if self.has_lists {
            let twice = |value: &Value| {
                let mut errors = Vec::new();
                list_types::check(self, value, &mut String::new(), &mut errors);
                errors
            };
            let found = twice(new);
            // Lists that were wrong already may stay as wrong as they like.
            if found.is_empty() || old.is_none_or(|old| twice(old).is_empty()) {
                checker.errors.extend(found);
            }
        }
        checker.errors.truncate(MAX_ERRORS);
        checker.errors
    }

    /// Checks a value that is no whole object, such as a default at `path`.
    pub(crate) fn validate_at(&self, value: &Value, path: &str) -> Vec<FieldError> {
        let mut checker = Checker { path: path.to_owned(), errors: Vec::new() };
        checker.visit(self, value, None);
        checker.errors.truncate(MAX_ERRORS);
        checker.errors
    }
}

struct Checker {
    path: String,
    errors: Vec<FieldError>,
}

impl Checker {
    fn at(&self) -> &str {
        if self.path.is_empty() { NOWHERE } else { &self.path }
    }

    /// `spec.replicas in body should be …`
    fn invalid(&mut self, value: &Value, what: impl std::fmt::Display) {
        let detail = format!("{} in body {what}", self.path);
        self.errors.push(FieldError::invalid(self.at(), value.clone(), detail));
    }

    fn mistyped(&mut self, value: Value, wanted: &str) {
        let detail = match &value {
            Value::String(text) => {
                format!("{} in body must be of type {wanted}: {text:?}", self.path)
            }
            _ => format!("{} in body must be of type {wanted}", self.path),
        };
        self.errors.push(FieldError {
            problem: FieldProblem::TypeInvalid(value),
            path: self.at().to_owned(),
            detail,
        });
    }

    /// What concerns the value as a whole has no field upstream.
    fn composite(&mut self, what: &str) {
        let detail = format!("{:?} {what}", self.path);
        self.errors.push(FieldError::invalid(NOWHERE, "", detail));
    }

    fn below(&mut self, name: &str, visit: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        visit(self);
        self.path.truncate(length);
    }

    fn visit(&mut self, structure: &Structure, value: &Value, old: Option<&Value>) {
        if self.errors.len() >= MAX_ERRORS || old == Some(value) {
            return;
        }
        if value.is_null() {
            if let Some(ty) = structure.ty
                && !structure.nullable
            {
                self.mistyped("null".into(), ty.name());
            }
            return;
        }
        let found = type_of(value);
        if structure.int_or_string && !matches!(found, "integer" | "string") {
            self.mistyped(found.into(), "integer,string");
        } else if let Some(ty) = structure.ty
            && !is_of(ty, value)
        {
            self.mistyped(found.into(), ty.name());
        }
        self.compositions(&structure.checks, value);
        self.scalars(&structure.checks, structure.ty, value);
        match value {
            Value::Array(items) => self.items(structure, items, value, old),
            Value::Object(map) => self.fields(structure, map, old),
            _ => {}
        }
    }

    fn compositions(&mut self, checks: &Checks, value: &Value) {
        let tries = |all: &[Structure], path: &str| -> Vec<Vec<FieldError>> {
            all.iter().map(|one| one.validate_at(value, path)).collect()
        };
        if !checks.any_of.is_empty() {
            let tried = tries(&checks.any_of, &self.path);
            if !tried.iter().any(Vec::is_empty) {
                self.composite("must validate at least one schema (anyOf)");
                self.errors.extend(best(tried));
            }
        }
        if !checks.one_of.is_empty() {
            let tried = tries(&checks.one_of, &self.path);
            match tried.iter().filter(|errors| errors.is_empty()).count() {
                1 => {}
                0 => {
                    self.composite(
                        "must validate one and only one schema (oneOf). Found none valid",
                    );
                    self.errors.extend(best(tried));
                }
                n => self.composite(&format!(
                    "must validate one and only one schema (oneOf). Found {n} valid alternatives"
                )),
            }
        }
        if !checks.all_of.is_empty() {
            let tried = tries(&checks.all_of, &self.path);
            let valid = tried.iter().filter(|errors| errors.is_empty()).count();
            if valid < tried.len() {
                self.errors.extend(tried.into_iter().flatten());
                let none = if valid == 0 { ". None validated" } else { "" };
                self.composite(&format!("must validate all the schemas (allOf){none}"));
            }
        }
        if let Some(not) = &checks.not
            && not.validate_at(value, &self.path).is_empty()
        {
            self.composite("must not validate the schema (not)");
        }
    }

    fn scalars(&mut self, checks: &Checks, ty: Option<Ty>, value: &Value) {
        match value {
            Value::String(text) => self.text(checks, ty, text, value),
            Value::Number(_) => self.number(checks, value),
            _ => {}
        }
        if !checks.enumeration.is_empty() && !checks.enumeration.iter().any(|one| same(one, value))
        {
            let shown: Vec<String> = checks
                .enumeration
                .iter()
                .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
                .collect();
            let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
            let error = FieldError::not_supported(self.at(), value.clone(), &shown);
            self.errors.push(error);
        }
    }

    fn text(&mut self, checks: &Checks, ty: Option<Ty>, text: &str, value: &Value) {
        let counted = checks.max_length.is_some() || checks.min_length.is_some();
        let length = if counted { text.chars().count() as u64 } else { 0 };
        if let Some(most) = checks.max_length.filter(|most| length > *most) {
            self.errors.push(FieldError {
                problem: FieldProblem::TooLong,
                path: self.at().to_owned(),
                detail: format!("may not be more than {most} bytes"),
            });
        }
        if let Some(least) = checks.min_length.filter(|least| length < *least) {
            self.invalid(value, format_args!("should be at least {least} chars long"));
        }
        if let Some(pattern) = &checks.pattern
            && !pattern.regex.is_match(text)
        {
            self.invalid(value, format_args!("should match '{}'", pattern.text));
        }
        if matches!(ty, None | Some(Ty::String)) && !fits(&checks.format, text) {
            self.mistyped(value.clone(), &checks.format);
        }
    }

    fn number(&mut self, checks: &Checks, value: &Value) {
        let Some(number) = value.as_f64() else { return };
        if let Some(step) = checks.multiple_of
            && step > 0.0
        {
            let times = number / step;
            if (times - times.round()).abs() > 1e-9 * times.abs().max(1.0) {
                self.invalid(value, format_args!("should be a multiple of {step}"));
            }
        }
        if let Some(Bound { at, exclusive }) = checks.maximum
            && (number > at || (exclusive && number >= at))
        {
            let or = if exclusive { "" } else { " or equal to" };
            self.invalid(value, format_args!("should be less than{or} {at}"));
        }
        if let Some(Bound { at, exclusive }) = checks.minimum
            && (number < at || (exclusive && number <= at))
        {
            let or = if exclusive { "" } else { " or equal to" };
            self.invalid(value, format_args!("should be greater than{or} {at}"));
        }
        let range = match &*checks.format {
            "int32" => f64::from(i32::MIN)..=f64::from(i32::MAX),
            "float" => f64::from(f32::MIN)..=f64::from(f32::MAX),
            _ => return,
        };
        if !range.contains(&number) {
            let ty = if &*checks.format == "int32" { "integer" } else { "number" };
            let detail = format!(
                "Checked value must be of type {ty} with format {} in {}",
                checks.format, self.path
            );
            self.errors.push(FieldError::invalid(NOWHERE, "", detail));
        }
    }

    fn items(
        &mut self,
        structure: &Structure,
        items: &[Value],
        value: &Value,
        old: Option<&Value>,
    ) {
        if let Some(item) = &structure.items {
            let before = old.and_then(Value::as_array);
            let length = self.path.len();
            for (i, value) in items.iter().enumerate() {
                let old = match (&structure.list, before) {
                    (Some(ListType::Map(keys)), Some(before)) => {
                        before.iter().find(|old| same_key(keys, old, value))
                    }
                    _ => None,
                };
                let _ = write!(self.path, "[{i}]");
                self.visit(item, value, old);
                self.path.truncate(length);
            }
        }
        let checks = &structure.checks;
        let count = items.len() as u64;
        if let Some(least) = checks.min_items.filter(|least| count < *least) {
            self.invalid(&count.into(), format_args!("should have at least {least} items"));
        }
        if let Some(most) = checks.max_items.filter(|most| count > *most) {
            self.too_many(items.len(), most);
        }
        if checks.unique && (1..items.len()).any(|i| items[..i].contains(&items[i])) {
            self.invalid(value, "shouldn't contain duplicates");
        }
    }

    fn too_many(&mut self, count: usize, most: u64) {
        let noun = if most == 1 { "item" } else { "items" };
        self.errors.push(FieldError {
            problem: FieldProblem::TooMany(count),
            path: self.at().to_owned(),
            detail: format!("must have at most {most} {noun}"),
        });
    }

    fn fields(&mut self, structure: &Structure, map: &Map<String, Value>, old: Option<&Value>) {
        let checks = &structure.checks;
        let count = map.len() as u64;
        if let Some(least) = checks.min_properties.filter(|least| count < *least) {
            self.invalid(&count.into(), format_args!("should have at least {least} properties"));
        }
        if let Some(most) = checks.max_properties.filter(|most| count > *most) {
            self.too_many(map.len(), most);
        }
        for name in &checks.required {
            if !map.contains_key(&**name) {
                self.below(name, |it| it.errors.push(FieldError::required(it.at(), "")));
            }
        }
        for (name, value) in map {
            if let Some(child) = structure.child(name) {
                let old = old.and_then(|old| old.get(name));
                self.below(name, |it| it.visit(child, value, old));
            }
        }
    }
}

/// The errors of the alternative that is nearest to being right.
fn best(tried: Vec<Vec<FieldError>>) -> Vec<FieldError> {
    tried.into_iter().min_by_key(Vec::len).unwrap_or_default()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of(ty: Ty, value: &Value) -> bool {
    match (ty, value) {
        (Ty::Integer, Value::Number(number)) => {
            !number.is_f64() || number.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        (Ty::Number, Value::Number(_)) => true,
        (ty, value) => type_of(value) == ty.name(),
    }
}

/// Equal, numbers by what they amount to.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (one, other) => one == other,
    }
}
