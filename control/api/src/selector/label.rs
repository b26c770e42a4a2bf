//! Label selectors, in both forms: text (`a=b,c in (x,y),!d`) and `metav1.LabelSelector`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as metav1;
use serde_json::Value;

use super::SelectorError;
use crate::names;
use crate::status::FieldError;

/// All of some requirements on labels, or nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    /// Sorted by key; `None` selects nothing.
    requirements: Option<Vec<Requirement>>,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is asked of it.
    pub operator: Operator,
    /// Sorted, without duplicates.
    pub values: Vec<String>,
}

/// What is asked of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=` and `==`.
    Equals,
    /// `!=`.
    NotEquals,
    /// One of the values.
    In,
    /// Absent, or none of the values.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// A number greater than the value.
    Gt,
    /// A number less than the value.
    Lt,
}

impl Requirement {
    fn new(key: &str, operator: Operator, values: BTreeSet<String>) -> Result<Self, SelectorError> {
        let requirement =
            Self { key: key.to_owned(), operator, values: values.into_iter().collect() };
        match requirement.errors().first() {
            // The path is unknown in text form; upstream prints it so.
            Some(error) => Err(SelectorError(format!(
                "unable to parse requirement: {}: {}",
                if error.path.is_empty() { "<nil>" } else { &error.path },
                error.body()
            ))),
            None => Ok(requirement),
        }
    }

    fn errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(problem) = names::qualified(&self.key) {
            errors.push(FieldError::invalid("", self.key.as_str(), problem));
        }
        for (i, value) in self.values.iter().enumerate() {
            if matches!(self.operator, Operator::Gt | Operator::Lt) && value.parse::<i64>().is_err()
            {
                errors.push(FieldError::invalid(
                    format!("values[{i}]"),
                    value.as_str(),
                    "for 'Gt', 'Lt' operators, the value must be an integer",
                ));
            } else if let Some(problem) = names::label_value(value) {
                errors.push(FieldError::invalid(
                    format!("values[{i}][{}]", self.key),
                    value.as_str(),
                    problem,
                ));
            }
        }
        errors
    }

    /// Whether a label's value (`None`: absent) meets it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let within = |value: &str| self.values.iter().any(|v| v == value);
        let order = |value: &str| {
            let bound = self.values.first()?.parse::<i64>().ok()?;
            Some(value.parse::<i64>().ok()?.cmp(&bound))
        };
        match (self.operator, value) {
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::Equals | Operator::In, Some(value)) => within(value),
            (Operator::NotEquals | Operator::NotIn, Some(value)) => !within(value),
            (Operator::NotEquals | Operator::NotIn, None) => true,
            (Operator::Gt, Some(value)) => order(value).is_some_and(|o| o.is_gt()),
            (Operator::Lt, Some(value)) => order(value).is_some_and(|o| o.is_lt()),
            (_, None) => false,
        }
    }
}

impl LabelSelector {
    /// Selects every object.
    pub const EVERYTHING: LabelSelector = LabelSelector { requirements: Some(Vec::new()) };
    /// Selects no object.
    pub const NOTHING: LabelSelector = LabelSelector { requirements: None };

    /// Reads the text form, as in `?labelSelector=` and `kubectl -l`.
    ///
    /// # Errors
    /// Upstream's words for what was found and what was expected.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Parser { tokens: lex(text), at: 0 }.selector()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements: Some(requirements) })
    }

    /// Reads a `metav1.LabelSelector`: absent selects nothing, empty selects everything.
    ///
    /// # Errors
    /// An unknown operator, or values that do not suit it.
    pub fn from_value(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else { return Ok(Self::NOTHING) };
        let selector = serde_json::from_value(selector.clone())
            .map_err(|e| SelectorError(format!("not a label selector: {e}")))?;
        Self::from_typed(&selector)
    }

    /// The same of the typed form.
    ///
    /// # Errors
    /// As for [`Self::from_value`].
    pub fn from_typed(selector: &metav1::LabelSelector) -> Result<Self, SelectorError> {
        let mut all = Self::from_map(selector.match_labels.iter().flatten());
        let requirements = all.requirements.get_or_insert_default();
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "\"{other}\" is not a valid label selector operator"
                    )));
                }
            };
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let takes_values = matches!(operator, Operator::In | Operator::NotIn);
            if takes_values == values.is_empty() {
                return Err(SelectorError(if takes_values {
                    "for 'in', 'notin' operators, values set can't be empty".into()
                } else {
                    "values set must be empty for exists and does not exist".into()
                }));
            }
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// Every pair must match, as in a Service's selector. No pairs select everything; a caller to whom an empty map means
    /// nothing tests for that.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let mut requirements: Vec<_> = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::Equals,
                values: vec![value.clone()],
            })
            .collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements: Some(requirements) }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether an object with these labels, a JSON object (`None`: no labels), is selected.
    pub fn matches_value(&self, labels: Option<&Value>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|r| r.matches(label(&r.key))))
    }

    /// Selects every object.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// Its requirements; none for [`Self::NOTHING`].
    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }
}

/// Whether a `metav1.LabelSelector` in JSON selects labels in JSON. A selector that does not parse selects nothing.
pub fn label_selector_matches(selector: Option<&Value>, labels: Option<&Value>) -> bool {
    LabelSelector::from_value(selector).is_ok_and(|s| s.matches_value(labels))
}

impl fmt::Display for LabelSelector {
    /// The text form, as in `status.selector` of a Scale.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements().iter().enumerate() {
            let Requirement { key, operator, values } = requirement;
            let values = values.join(",");
            f.write_str(if i > 0 { "," } else { "" })?;
            match operator {
                Operator::Equals => write!(f, "{key}={values}")?,
                Operator::NotEquals => write!(f, "{key}!={values}")?,
                Operator::In => write!(f, "{key} in ({values})")?,
                Operator::NotIn => write!(f, "{key} notin ({values})")?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::Gt => write!(f, "{key}>{values}")?,
                Operator::Lt => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

/// Operators and punctuation are tokens of their own; `in` and `notin` are words whose meaning their place decides.
fn lex(text: &str) -> Vec<&str> {
    let special = |c: char| "=!(),><".contains(c);
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(blank);
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("!=") || rest.starts_with("==") {
            2
        } else if special(first) {
            1
        } else {
            rest.find(|c| special(c) || blank(c)).unwrap_or(rest.len())
        };
        let (token, tail) = rest.split_at(len);
        tokens.push(token);
        rest = tail.trim_start_matches(blank);
    }
    tokens
}

/// Recursive descent over the tokens; the end of the text reads as the empty token.
struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

fn is_word(token: &str) -> bool {
    !token.is_empty() && !token.starts_with(['=', '!', '(', ')', ',', '>', '<'])
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or("")
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn selector(mut self) -> Result<Vec<Requirement>, SelectorError> {
        let fail = |found: &str, expected: &str| {
            Err(SelectorError(format!("found '{found}', expected: {expected}")))
        };
        let mut requirements = Vec::new();
        match self.peek() {
            "" => return Ok(requirements),
            token if is_word(token) || token == "!" => {}
            token => return fail(token, "!, identifier, or 'end of string'"),
        }
        loop {
            requirements.push(self.requirement()?);
            match self.next() {
                "" => return Ok(requirements),
                "," => match self.peek() {
                    token if is_word(token) || token == "!" => {}
                    token => return fail(token, "identifier after ','"),
                },
                token => return fail(token, "',' or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let fail = |found: &str, expected: &str| {
            Err(SelectorError(format!(
                "unable to parse requirement: found '{found}', expected: {expected}"
            )))
        };
        let absent = self.peek() == "!";
        if absent {
            self.next();
        }
        let key = self.next();
        if !is_word(key) {
            return fail(key, "identifier");
        }
        if matches!(self.peek(), "" | ",") {
            let operator = if absent { Operator::DoesNotExist } else { Operator::Exists };
            return Requirement::new(key, operator, BTreeSet::new());
        }
        // Checked before the operator, as upstream does: the message names the bad key.
        Requirement::new(key, Operator::Exists, BTreeSet::new())?;
        let operator = match self.next() {
            "=" | "==" => Operator::Equals,
            "!=" => Operator::NotEquals,
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            ">" => Operator::Gt,
            "<" => Operator::Lt,
            token => return fail(token, "in, notin, =, ==, !=, gt, lt"),
        };
        let values = if matches!(operator, Operator::In | Operator::NotIn) {
            self.list()?
        } else {
            match self.peek() {
                "" | "," => BTreeSet::from([String::new()]),
                word if is_word(word) => BTreeSet::from([self.next().to_owned()]),
                token => return fail(token, "identifier"),
            }
        };
        Requirement::new(key, operator, values)
    }

    /// `(x,,y)`: values may be empty.
    fn list(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let fail = |found: &str, expected: &str| {
            Err(SelectorError(format!("unable to parse requirement: found '{found}'{expected}")))
        };
        match self.next() {
            "(" => {}
            token => return fail(token, " expected: '('"),
        }
        let mut values = BTreeSet::new();
        loop {
            match self.peek() {
                "," | ")" => values.insert(String::new()),
                word if is_word(word) => values.insert(self.next().to_owned()),
                token => return fail(token, ", expected: ',', ')' or identifier"),
            };
            match self.next() {
                ")" => return Ok(values),
                "," => {}
                token => return fail(token, ", expected: ',' or ')'"),
            }
        }
    }
}
