//! Text, as CEL's strings extension has it; places count code points.

use std::fmt::Write;

use super::convert::format_double;
use super::{Cost, Line, Outcome, UNIT, int, list, text, time};
use crate::error::EvalError;
use crate::value::{Opaque, Val};

const ONCE: Cost = Cost::Text(1.0);
const TWICE: Cost = Cost::Text(2.0);

pub(super) const TABLE: &[Line] = &[
    ("string::contains(string) -> bool", Cost::Contained, |args| {
        Ok(Val::Bool(text(args, 0)?.contains(text(args, 1)?)))
    }),
    ("string::startsWith(string) -> bool", ONCE, |args| {
        Ok(Val::Bool(text(args, 0)?.starts_with(text(args, 1)?)))
    }),
    ("string::endsWith(string) -> bool", ONCE, |args| {
        Ok(Val::Bool(text(args, 0)?.ends_with(text(args, 1)?)))
    }),
    ("string::charAt(int) -> string", UNIT, char_at),
    ("string::indexOf(string) -> int", Cost::Walk, |args| index_of(args, 0)),
    ("string::indexOf(string, int) -> int", Cost::Walk, |args| index_of(args, int(args, 2)?)),
    ("string::lastIndexOf(string) -> int", Cost::Walk, |args| last_index_of(args, None)),
    ("string::lastIndexOf(string, int) -> int", Cost::Walk, |args| {
        last_index_of(args, Some(int(args, 2)?))
    }),
    ("string::lowerAscii() -> string", ONCE, |args| {
        Ok(Val::string(text(args, 0)?.to_ascii_lowercase()))
    }),
    ("string::upperAscii() -> string", ONCE, |args| {
        Ok(Val::string(text(args, 0)?.to_ascii_uppercase()))
    }),
    ("string::reverse() -> string", ONCE, |args| {
        Ok(Val::string(text(args, 0)?.chars().rev().collect::<String>()))
    }),
    ("string::trim() -> string", ONCE, |args| Ok(Val::string(text(args, 0)?.trim()))),
    ("string::replace(string, string) -> string", TWICE, |args| replace(args, -1)),
    ("string::replace(string, string, int) -> string", TWICE, |args| replace(args, int(args, 3)?)),
    ("string::split(string) -> list(string)", TWICE, |args| split(args, -1)),
    ("string::split(string, int) -> list(string)", TWICE, |args| split(args, int(args, 2)?)),
    ("string::substring(int) -> string", ONCE, |args| substring(args, None)),
    ("string::substring(int, int) -> string", ONCE, |args| substring(args, Some(int(args, 2)?))),
    ("list(string)::join() -> string", Cost::Result, |args| join(args, "")),
    ("list(string)::join(string) -> string", Cost::Result, |args| join(args, text(args, 1)?)),
    ("string::format(list(dyn)) -> string", Cost::Result, |args| {
        let values: Vec<_> = list(args, 1)?.iter().collect();
        format(text(args, 0)?, &values).map(Val::string)
    }),
    ("strings.quote(string) -> string", ONCE, |args| Ok(Val::string(quote(text(args, 0)?)))),
];

/// What one call may make: many times the largest object, and little of a machine's memory.
const MADE: usize = 16 << 20;

fn bounded(size: usize, name: &str) -> Result<(), EvalError> {
    if size > MADE {
        return Err(EvalError::new(format!("{name}: the result would have {size} bytes")));
    }
    Ok(())
}

fn outside(place: i64) -> EvalError {
    EvalError::new(format!("index out of range: {place}"))
}

fn char_at<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (text, place) = (text(args, 0)?, int(args, 1)?);
    let at = usize::try_from(place).map_err(|_| outside(place))?;
    match text.chars().nth(at) {
        Some(char) => Ok(Val::string(char.to_string())),
        None if at == text.chars().count() => Ok(Val::str("")),
        None => Err(outside(place)),
    }
}

/// The byte at which a code point begins, or the end.
fn byte(text: &str, place: i64) -> Option<usize> {
    let place = usize::try_from(place).ok()?;
    let mut places = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    places.nth(place)
}

fn points<'a>(text: &str, at: Option<usize>) -> Val<'a> {
    Val::Int(at.map_or(-1, |at| text[..at].chars().count() as i64))
}

fn index_of<'a>(args: &[Val<'a>], from: i64) -> Outcome<'a> {
    let (text, wanted) = (text(args, 0)?, text(args, 1)?);
    if wanted.is_empty() {
        return Ok(Val::Int(from));
    }
    let start = byte(text, from).ok_or_else(|| outside(from))?;
    Ok(points(text, text[start..].find(wanted).map(|at| start + at)))
}

fn last_index_of<'a>(args: &[Val<'a>], until: Option<i64>) -> Outcome<'a> {
    let (text, wanted) = (text(args, 0)?, text(args, 1)?);
    let Some(until) = until else {
        return Ok(points(text, text.rfind(wanted)));
    };
    let last = byte(text, until).ok_or_else(|| outside(until))?;
    if wanted.is_empty() {
        return Ok(Val::Int(until));
    }
    // The match begins at `until` or before.
    let mut end = (last + wanted.len()).min(text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    Ok(points(text, text[..end].rfind(wanted).filter(|at| *at <= last)))
}

fn replace<'a>(args: &[Val<'a>], times: i64) -> Outcome<'a> {
    let (text, from, to) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let found = if from.is_empty() { text.len() + 1 } else { text.len() / from.len() };
    bounded(text.len().saturating_add(found.saturating_mul(to.len())), "replace")?;
    Ok(Val::string(match usize::try_from(times) {
        Ok(times) => text.replacen(from, to, times),
        Err(_) => text.replace(from, to),
    }))
}

fn split<'a>(args: &[Val<'a>], limit: i64) -> Outcome<'a> {
    let (text, separator) = (text(args, 0)?, text(args, 1)?);
    let parts: Vec<String> = match limit {
        0 => Vec::new(),
        1 => vec![text.to_owned()],
        _ if separator.is_empty() => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let mut chars = text.chars();
            let mut parts: Vec<String> =
                chars.by_ref().take(limit - 1).map(|char| char.to_string()).collect();
            let rest = chars.as_str();
            if !rest.is_empty() {
                parts.push(rest.to_owned());
            }
            parts
        }
        _ => match usize::try_from(limit) {
            Ok(limit) => text.splitn(limit, separator).map(str::to_owned).collect(),
            Err(_) => text.split(separator).map(str::to_owned).collect(),
        },
    };
    Ok(Val::items(parts.into_iter().map(Val::string).collect()))
}

fn substring<'a>(args: &[Val<'a>], until: Option<i64>) -> Outcome<'a> {
    let (text, from) = (text(args, 0)?, int(args, 1)?);
    let start = byte(text, from).ok_or_else(|| outside(from))?;
    let end = match until {
        Some(until) => byte(text, until).ok_or_else(|| outside(until))?,
        None => text.len(),
    };
    if start > end {
        let until = until.unwrap_or_default();
        return Err(EvalError::new(format!(
            "invalid substring range. start: {from}, end: {until}"
        )));
    }
    Ok(Val::string(&text[start..end]))
}

fn join<'a>(args: &[Val<'a>], separator: &str) -> Outcome<'a> {
    let mut joined = String::new();
    for (at, item) in list(args, 0)?.iter().enumerate() {
        let Some(item) = item.as_str() else {
            return Err(EvalError::new("no such overload"));
        };
        if at > 0 {
            joined.push_str(separator);
        }
        joined.push_str(item);
        bounded(joined.len(), "join")?;
    }
    Ok(Val::string(joined))
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o` and `%%`, with a precision where numbers have one.
fn format(pattern: &str, values: &[Val<'_>]) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let wanted = digits.parse::<usize>().ok().filter(|wanted| *wanted <= 100);
            precision = Some(wanted.ok_or_else(|| {
                EvalError::new("error while formatting: unable to parse precision")
            })?);
        }
        let Some(verb) = chars.next() else {
            return Err(EvalError::new("unexpected end of string"));
        };
        let Some(value) = values.next() else {
            let at = pattern.matches('%').count().saturating_sub(1);
            return Err(EvalError::new(format!("index {at} out of range")));
        };
        match verb {
            's' => show(value, &mut out)?,
            'd' => match value {
                Val::Int(n) => write!(out, "{n}").unwrap_or_default(),
                Val::Uint(n) => write!(out, "{n}").unwrap_or_default(),
                Val::Double(double) if !double.is_finite() => out.push_str(&format_double(*double)),
                _ => return Err(only("decimal", "integers", value)),
            },
            'f' | 'e' => {
                let double = match value {
                    Val::Double(double) => *double,
                    Val::Int(n) => *n as f64,
                    Val::Uint(n) => *n as f64,
                    _ => return Err(only("fixed-point", "doubles", value)),
                };
                let precision = precision.unwrap_or(6);
                if !double.is_finite() {
                    out.push_str(&format_double(double));
                } else if verb == 'f' {
                    write!(out, "{double:.precision$}").unwrap_or_default();
                } else {
                    let text = format!("{double:.precision$e}");
                    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                    let exponent: i32 = exponent.parse().unwrap_or_default();
                    let sign = if exponent < 0 { '-' } else { '+' };
                    write!(out, "{digits}e{sign}{:02}", exponent.abs()).unwrap_or_default();
                }
            }
            'b' => match value {
                Val::Int(n) if *n < 0 => write!(out, "-{:b}", n.unsigned_abs()).unwrap_or_default(),
                Val::Int(n) => write!(out, "{n:b}").unwrap_or_default(),
                Val::Uint(n) => write!(out, "{n:b}").unwrap_or_default(),
                Val::Bool(bool) => out.push(if *bool { '1' } else { '0' }),
                _ => return Err(only("binary", "integers and bools", value)),
            },
            'o' => match value {
                Val::Int(n) if *n < 0 => write!(out, "-{:o}", n.unsigned_abs()).unwrap_or_default(),
                Val::Int(n) => write!(out, "{n:o}").unwrap_or_default(),
                Val::Uint(n) => write!(out, "{n:o}").unwrap_or_default(),
                _ => return Err(only("octal", "integers", value)),
            },
            'x' | 'X' => {
                let hex = match value {
                    Val::Int(n) if *n < 0 => format!("-{:x}", n.unsigned_abs()),
                    Val::Int(n) => format!("{n:x}"),
                    Val::Uint(n) => format!("{n:x}"),
                    Val::String(text) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
                    Val::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                    _ => {
                        return Err(only("hex", "integers, byte buffers, and strings", value));
                    }
                };
                out.push_str(&if verb == 'X' { hex.to_ascii_uppercase() } else { hex });
            }
            other => {
                let why = format!("unrecognized formatting clause \"{other}\"");
                return Err(EvalError::new(format!("could not parse formatting clause: {why}")));
            }
        }
        bounded(out.len(), "format")?;
    }
    Ok(out)
}

fn only(clause: &str, what: &str, value: &Val<'_>) -> EvalError {
    let given = value.type_name();
    EvalError::new(format!(
        "error during formatting: {clause} clause can only be used on {what}, was given {given}"
    ))
}

/// A value as `%s` shows it.
fn show(value: &Val<'_>, out: &mut String) -> Result<(), EvalError> {
    match value {
        Val::Null => out.push_str("null"),
        Val::Bool(bool) => write!(out, "{bool}").unwrap_or_default(),
        Val::Int(n) => write!(out, "{n}").unwrap_or_default(),
        Val::Uint(n) => write!(out, "{n}").unwrap_or_default(),
        Val::Double(double) => out.push_str(&format_double(*double)),
        Val::String(text) => out.push_str(text),
        Val::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Val::Timestamp(at) => out.push_str(&time::format_timestamp(*at)),
        Val::Duration(nanos) => out.push_str(&time::format_duration(*nanos)),
        Val::Type(name) => out.push_str(name),
        Val::List(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                show(&item, out)?;
                bounded(out.len(), "format")?;
            }
            out.push(']');
        }
        Val::Map(map) => {
            out.push('{');
            for (at, (key, value)) in map.entries().iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                show(&key.value(), out)?;
                out.push_str(": ");
                show(value, out)?;
                bounded(out.len(), "format")?;
            }
            out.push('}');
        }
        Val::Opaque(Opaque::Quantity(quantity)) => write!(out, "{quantity}").unwrap_or_default(),
        Val::Opaque(Opaque::Url(_, text)) => out.push_str(text),
        other => {
            return Err(only(
                "string",
                "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
                other,
            ));
        }
    }
    Ok(())
}
