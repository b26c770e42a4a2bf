//! What is wrong with an expression, before and while it runs, in upstream's words.

use crate::types::Type;

/// Why an expression does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// All that was found, each with its place and the line it is on.
    #[error("{0}")]
    Wrong(String),
    /// It is fine, but not what is wanted there.
    #[error("must evaluate to {wanted} but got {found}")]
    Result {
        /// One type, or `one of [a b]`.
        wanted: String,
        /// What it comes to.
        found: String,
    },
}

/// Places reported for one expression, as upstream.
const REPORTED: usize = 100;

impl CompileError {
    /// `found` are places (line from 1, column from 0) and what is wrong there.
    pub(crate) fn new(source: &str, mut found: Vec<((usize, usize), String)>) -> Self {
        found.sort_by_key(|(place, _)| *place);
        found.dedup();
        let lines: Vec<&str> = source.split('\n').collect();
        let mut text = String::new();
        for ((line, column), why) in found.iter().take(REPORTED) {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("ERROR: <input>:{line}:{}: {why}", column + 1));
            if let Some(snippet) = lines.get(line.wrapping_sub(1)) {
                let snippet = snippet.replace('\t', " ");
                text.push_str(&format!("\n | {snippet}\n | "));
                let mut chars = snippet.chars();
                // Characters that are wide in most fonts are pointed at with wide dots.
                for char in chars.by_ref().take(*column) {
                    text.push(if char.len_utf8() > 1 { '\u{ff0e}' } else { '.' });
                }
                let wide = chars.next().is_some_and(|char| char.len_utf8() > 1);
                text.push(if wide { '\u{ff3e}' } else { '^' });
            }
        }
        if found.len() > REPORTED {
            text.push_str(&format!("\n {} more errors were truncated", found.len() - REPORTED));
        }
        Self::Wrong(text)
    }

    pub(crate) fn result(wanted: &[Type], found: &Type) -> Self {
        let name = |ty: &Type| match ty {
            Type::Null => "null_type".to_owned(),
            other => other.to_string(),
        };
        let wanted = match wanted {
            [one] => name(one),
            many => format!("one of [{}]", many.iter().map(name).collect::<Vec<_>>().join(" ")),
        };
        Self::Result { wanted, found: name(found) }
    }

    /// As upstream tells it of a field: what was found after `compilation failed: `, or what is wanted instead.
    pub fn detail(&self) -> String {
        match self {
            Self::Wrong(found) => format!("compilation failed: {found}"),
            Self::Result { .. } => self.to_string(),
        }
    }
}

/// Why an evaluation has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// An operation failed.
    #[error("{0}")]
    Failed(String),
    /// It would cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
}

impl EvalError {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        EvalError::Failed(why.into())
    }

    pub(crate) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }
}
