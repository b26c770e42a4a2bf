//! What is wrong with an expression, before and while it runs, in upstream's words.

use std::fmt;

use crate::types::Type;

/// Why an expression does not compile: all that was found, each with its place and the line it is on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    text: String,
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
        Self { text }
    }
}

impl CompileError {
    /// The expression is fine, but not what is wanted here.
    pub(crate) fn result(expected: &[Type]) -> Self {
        let names: Vec<String> = expected.iter().map(Type::to_string).collect();
        Self { text: format!("must evaluate to {}", names.join(" or ")) }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
