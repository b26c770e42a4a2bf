//! From text to a syntax tree, by the `cel` crate's parser, which is generated from the language's own grammar.
//!
//! The parser and whatever walks the tree recurse, and a chain of a hundred thousand operators is a tree as deep. So the
//! text is measured first, roughly; the tree may then be [`DEPTH`] deep, as upstream.

use cel::common::ast::{IdedExpr, SourceInfo};

use crate::CompileError;

/// How deep expressions nest; upstream's parser stops there too.
pub(crate) const DEPTH: usize = 250;
/// Operators that may nest by the quick measure, which counts some twice; the checker measures exactly.
const OPERATORS: usize = 4 * DEPTH;
/// Code points of an expression.
const LENGTH: usize = 100_000;
pub(crate) fn parse(text: &str) -> Result<(IdedExpr, SourceInfo), CompileError> {
    let count = text.chars().count();
    if count > LENGTH {
        let why =
            format!("expression code point size exceeds limit: size: {count}, limit {LENGTH}");
        return Err(CompileError::new(text, vec![((1, 0), why)]));
    }
    if deepest(text) > OPERATORS {
        let why = format!("expression recursion limit exceeded: {DEPTH}");
        return Err(CompileError::new(text, vec![((1, 0), why)]));
    }
    // Without macros: the checker expands them, and so knows what was written.
    let parser = cel::Env::default().parser().max_recursion_depth(DEPTH as u16);
    parser.parse_with_source_info(text).map_err(|errors| {
        let place = |(line, column): (isize, isize)| {
            (usize::try_from(line).unwrap_or(1), usize::try_from(column - 1).unwrap_or(0))
        };
        let found = errors.errors.into_iter().map(|error| (place(error.pos), error.msg)).collect();
        CompileError::new(text, found)
    })
}

/// An upper bound of the syntax tree's depth: within each open bracket, the longest run of operators that nest, which
/// commas, `&&` and `||` (whose trees are balanced) end.
fn deepest(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut open, mut run, mut total, mut deepest) = (Vec::new(), 0_usize, 0_usize, 0_usize);
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' | b'\'' => {
                let raw = at > 0 && matches!(bytes[at - 1], b'r' | b'R');
                at = after_string(bytes, at, raw);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'(' | b'[' | b'{' => {
                run += 1;
                total += run;
                open.push(run);
                run = 0;
            }
            b')' | b']' | b'}' => {
                run = open.pop().unwrap_or(0);
                total = total.saturating_sub(run);
            }
            b',' | b'&' | b'|' => run = 0,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' | b'!' | b'?' | b'.' => run += 1,
            b'i' if bytes[at..].starts_with(b"in") => run += 1,
            _ => {}
        }
        deepest = deepest.max(total + run);
        at += 1;
    }
    deepest
}

/// Where the literal ends whose first quote is at `start`.
fn after_string(bytes: &[u8], start: usize, raw: bool) -> usize {
    let quote = bytes[start];
    let width = if bytes[start..].starts_with(&[quote; 3]) { 3 } else { 1 };
    let mut at = start + width;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if !raw => at += 2,
            byte if byte == quote && bytes[at..].starts_with(&[quote; 3][..width]) => {
                return at + width;
            }
            _ => at += 1,
        }
    }
    bytes.len()
}
