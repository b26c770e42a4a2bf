//! Field selectors: `metadata.name=x,status.phase!=Running`, on the fields that a kind declares.

use super::SelectorError;
use crate::json::peek;
use crate::kinds::Kind;
use crate::object::Object;

/// All of some comparisons of fields with values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    path: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Reads `?fieldSelector=` for a kind.
    ///
    /// # Errors
    /// Bad syntax, or a field that the kind does not select by.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self, SelectorError> {
        Self::parse_for(text, kind, &[])
    }

    /// The same for a kind whose definition makes fields selectable: paths such as `spec.color`.
    ///
    /// # Errors
    /// Bad syntax, or a field that the kind does not select by.
    pub fn parse_for(
        text: &str,
        kind: &Kind,
        selectable: &[String],
    ) -> Result<Self, SelectorError> {
        Self::parse_as(text, kind, selectable, |path| path.to_owned())
    }

    /// The same in words of another version, in which fields have other names: `stored` has those of the kind.
    ///
    /// # Errors
    /// Bad syntax, or a field that the kind does not select by.
    pub fn parse_as(
        text: &str,
        kind: &Kind,
        selectable: &[String],
        stored: impl Fn(&str) -> String,
    ) -> Result<Self, SelectorError> {
        let mut read = Self::read(text)?;
        for term in &mut read.terms {
            term.path = stored(&term.path);
        }
        for Term { path, .. } in &read.terms {
            if !selectable.contains(path) {
                supported(kind, path, selectable.is_empty() && kind.fields.is_empty())?;
            }
        }
        Ok(read)
    }

    /// The one object of this name, of any kind.
    pub fn of_name(name: &str) -> Self {
        let term = Term { path: NAME.to_owned(), value: name.to_owned(), equal: true };
        Self { terms: vec![term] }
    }

    /// The name of the one object that a selector, of whatever kind, allows, read as [`Self::parse`] does: what authorization
    /// decides on must be what is selected.
    pub fn named(text: &str) -> Option<String> {
        let read = Self::read(text).ok()?;
        read.exact(NAME).filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// The terms, whatever fields there are.
    fn read(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split(text).into_iter().filter(|p| !p.is_empty()) {
            let (at, op) = part
                .char_indices()
                .find_map(|(i, _)| {
                    ["!=", "==", "="]
                        .iter()
                        .find(|op| part[i..].starts_with(**op))
                        .map(|op| (i, op))
                })
                .ok_or_else(|| {
                    SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"))
                })?;
            terms.push(Term {
                path: part[..at].to_owned(),
                value: unescape(&part[at + op.len()..])?,
                equal: *op != "!=",
            });
        }
        Ok(Self { terms })
    }

    /// Whether an object, of the kind that the selector was read for, is selected.
    pub fn matches(&self, object: &Object) -> bool {
        self.terms.iter().all(|term| (read(object, &term.path) == term.value) == term.equal)
    }

    /// Selects every object.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// What of it is about names and namespaces, which are the same in every version.
    #[must_use]
    pub fn of_metadata(&self) -> Self {
        let is_of_metadata = |term: &&Term| term.path.starts_with("metadata.");
        Self { terms: self.terms.iter().filter(is_of_metadata).cloned().collect() }
    }

    /// The one value that it allows for a path, if it asks for one: what an index can look up.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.path == path).map(|t| t.value.as_str())
    }
}

const NAME: &str = "metadata.name";

fn supported(kind: &Kind, path: &str, none: bool) -> Result<(), SelectorError> {
    if path == NAME
        || (path == "metadata.namespace" && (kind.namespaced || kind.fields.is_empty()))
        || kind.fields.iter().any(|f| f.path == path)
    {
        return Ok(());
    }
    Err(SelectorError(if none {
        format!(
            "\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    } else {
        format!("field label not supported: {path}")
    }))
}

fn read(object: &Object, path: &str) -> String {
    match path {
        "metadata.name" => object.meta.name.clone(),
        "metadata.namespace" => object.meta.namespace.clone(),
        _ if object.kind.custom => peek(object.json(), path),
        _ => object
            .kind
            .fields
            .iter()
            .find(|f| f.path == path)
            .map_or_else(String::new, |f| (f.read)(object)),
    }
}

/// Parts between commas; a backslash takes the meaning from the next character.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let escape: String = ['\\'].into_iter().chain(other).collect();
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: {escape}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}
