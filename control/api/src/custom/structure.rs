//! A structural schema, compiled once per version of a definition.
//!
//! Structure (types, properties, items) and value checks stand in one tree, as they do in `openAPIV3Schema`; the checks
//! below `allOf`, `anyOf`, `oneOf` and `not` are trees of the same shape that only ever check.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::json::Json;
use crate::schema::{ListType, Str};

/// Memory that one compiled pattern may take, in bytes.
const PATTERN_SIZE: usize = 1 << 20;

/// The `type` of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    /// `object`
    Object,
    /// `array`
    Array,
    /// `string`
    String,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
}

impl Ty {
    /// The type of that name.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What `additionalProperties` allows.
#[derive(Debug)]
pub enum Additional {
    /// Anything.
    Any,
    /// Values of this structure.
    Of(Box<Structure>),
}

/// One node of a schema.
#[derive(Debug, Default)]
pub struct Structure {
    /// `type`; none with `x-kubernetes-int-or-string` or `x-kubernetes-preserve-unknown-fields`.
    pub ty: Option<Ty>,
    /// `null` is a value.
    pub nullable: bool,
    /// Named fields.
    pub properties: BTreeMap<Box<str>, Structure>,
    /// Fields that have no name here.
    pub additional: Option<Additional>,
    /// Items of a list.
    pub items: Option<Box<Structure>>,
    /// What an absent value becomes.
    pub default: Option<Value>,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-list-type` with its keys.
    pub list: Option<ListType>,
    /// `x-kubernetes-map-type: atomic`
    pub atomic: bool,
    /// What values are checked for.
    pub(super) checks: Checks,
    /// A default stands here or below.
    pub(super) has_defaults: bool,
    /// A list type that is checked stands here or below.
    pub(super) has_lists: bool,
}

/// A bound, and whether it is outside of what it allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) at: f64,
    pub(super) exclusive: bool,
}

#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) format: Box<str>,
    pub(super) enumeration: Vec<Value>,
    pub(super) minimum: Option<Bound>,
    pub(super) maximum: Option<Bound>,
    pub(super) multiple_of: Option<f64>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) pattern: Option<Pattern>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) unique: bool,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) required: Vec<Box<str>>,
    pub(super) all_of: Vec<Structure>,
    pub(super) any_of: Vec<Structure>,
    pub(super) one_of: Vec<Structure>,
    pub(super) not: Option<Box<Structure>>,
}

impl Structure {
    /// Compiles `openAPIV3Schema`.
    ///
    /// # Errors
    /// A pattern that is no regular expression, or a too large one.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        let mut node = Self {
            ty: Ty::of(schema.text(&["type"])),
            nullable: schema.flag(&["nullable"]),
            preserve: schema.flag(&["x-kubernetes-preserve-unknown-fields"]),
            int_or_string: schema.flag(&["x-kubernetes-int-or-string"]),
            embedded: schema.flag(&["x-kubernetes-embedded-resource"]),
            atomic: schema.text(&["x-kubernetes-map-type"]) == "atomic",
            list: list_type(schema),
            default: schema.at(&["default"]).cloned(),
            checks: Checks::compile(schema)?,
            ..Self::default()
        };
        for (name, property) in schema.pairs(&["properties"]) {
            node.properties.insert(name.into(), Self::compile(property)?);
        }
        node.additional = match schema.at(&["additionalProperties"]) {
            Some(Value::Bool(true)) => Some(Additional::Any),
            Some(of @ Value::Object(_)) => Some(Additional::Of(Box::new(Self::compile(of)?))),
            _ => None,
        };
        if let Some(items @ Value::Object(_)) = schema.at(&["items"]) {
            node.items = Some(Box::new(Self::compile(items)?));
        }
        node.has_defaults =
            node.default.is_some() || node.children().any(|child| child.has_defaults);
        node.has_lists = matches!(node.list, Some(ListType::Set | ListType::Map(_)))
            || node.embedded
            || node.children().any(|child| child.has_lists);
        Ok(node)
    }

    fn children(&self) -> impl Iterator<Item = &Structure> {
        let additional = match &self.additional {
            Some(Additional::Of(of)) => Some(&**of),
            _ => None,
        };
        self.properties.values().chain(additional).chain(self.items.as_deref())
    }

    /// The structure of a field, where it has one.
    pub(super) fn child(&self, name: &str) -> Option<&Structure> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Of(of)) => Some(&**of),
            _ => None,
        })
    }
}

fn list_type(schema: &Value) -> Option<ListType> {
    match schema.text(&["x-kubernetes-list-type"]) {
        "atomic" => Some(ListType::Atomic),
        "set" => Some(ListType::Set),
        "map" => {
            let keys = schema.list(&["x-kubernetes-list-map-keys"]).iter();
            let keys = keys.filter_map(Value::as_str).map(|key| Str::from(key.to_owned()));
            Some(ListType::Map(keys.collect()))
        }
        _ => None,
    }
}

impl Checks {
    fn compile(schema: &Value) -> Result<Self, String> {
        let count = |name: &str| schema.at(&[name]).and_then(Value::as_u64);
        let bound = |name: &str, exclusive: &str| {
            let at = schema.at(&[name]).and_then(Value::as_f64)?;
            Some(Bound { at, exclusive: schema.flag(&[exclusive]) })
        };
        let all = |name: &str| -> Result<Vec<Structure>, String> {
            schema.list(&[name]).iter().map(Structure::compile).collect()
        };
        let pattern = match schema.text(&["pattern"]) {
            "" => None,
            text => Some(Pattern { text: text.into(), regex: compile_pattern(text)? }),
        };
        let not = match schema.at(&["not"]) {
            Some(not) => Some(Box::new(Structure::compile(not)?)),
            None => None,
        };
        Ok(Self {
            format: schema.text(&["format"]).into(),
            enumeration: schema.list(&["enum"]).to_vec(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema.at(&["multipleOf"]).and_then(Value::as_f64),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern,
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique: schema.flag(&["uniqueItems"]),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: schema
                .list(&["required"])
                .iter()
                .filter_map(Value::as_str)
                .map(Box::from)
                .collect(),
            all_of: all("allOf")?,
            any_of: all("anyOf")?,
            one_of: all("oneOf")?,
            not,
        })
    }
}

/// A regular expression, and as it was written.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) text: Box<str>,
    pub(super) regex: Regex,
}

/// Compiles a pattern of Go's syntax: matched in time linear in the text, as there.
///
/// # Errors
/// It is none, or one that is too large.
pub(crate) fn compile_pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(&from_go(text))
        .size_limit(PATTERN_SIZE)
        .dfa_size_limit(PATTERN_SIZE)
        .build()
        .map_err(|error| error.to_string())
}

/// The same expression in this library's syntax, which differs in classes within classes, in braces that repeat nothing and in
/// what `\d`, `\w` and `\s` take beyond ASCII.
fn from_go(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len() + 8);
    let mut in_class = false;
    let mut i = 0;
    while let Some(&c) = chars.get(i) {
        let next = chars.get(i + 1).copied();
        match (in_class, c, next) {
            (_, '\\', Some(escaped)) => {
                match escaped {
                    'd' => out.push_str("[0-9]"),
                    'D' => out.push_str("[^0-9]"),
                    'w' => out.push_str("[0-9A-Za-z_]"),
                    'W' => out.push_str("[^0-9A-Za-z_]"),
                    's' => out.push_str("[\\t\\n\\f\\r ]"),
                    'S' => out.push_str("[^\\t\\n\\f\\r ]"),
                    'b' if !in_class => out.push_str("(?-u:\\b)"),
                    other => out.extend(['\\', other]),
                }
                i += 1;
            }
            (true, '[', Some(':')) => {
                // `[:alpha:]`
                let end = (i..chars.len()).find(|&j| chars[j..].starts_with(&[':', ']']));
                let end = end.map_or(i + 1, |j| j + 2);
                out.extend(&chars[i..end]);
                i = end - 1;
            }
            (true, '[' | '&' | '~', _) | (true, '-', Some('-')) => out.extend(['\\', c]),
            (true, ']', _) => {
                in_class = false;
                out.push(c);
            }
            (false, '[', _) => {
                in_class = true;
                out.push('[');
                // A bracket that comes first does not close.
                if next == Some('^') {
                    out.push('^');
                    i += 1;
                }
                if chars.get(i + 1) == Some(&']') {
                    out.push_str("\\]");
                    i += 1;
                }
            }
            (false, '{', _) if !repeats(&chars[i + 1..]) => out.push_str("\\{"),
            _ => out.push(c),
        }
        i += 1;
    }
    out
}

/// Whether a brace before this text means a repetition.
fn repeats(rest: &[char]) -> bool {
    let end = rest.iter().position(|c| *c == '}').unwrap_or(0);
    let inner: String = rest[..end].iter().collect();
    let (least, most) = inner.split_once(',').unwrap_or((&inner, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}
