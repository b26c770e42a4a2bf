//! Optional values. (`optMap` and `optFlatMap` are macros: the checker expands them.)

use std::rc::Rc;

use super::{Line, Outcome, UNIT};
use crate::error::EvalError;
use crate::value::Val;

pub(super) const TABLE: &[Line] = &[
    ("optional.of(V) -> optional(V)", UNIT, |args| Ok(Val::some(args[0].clone()))),
    ("optional.none() -> optional(V)", UNIT, |_| Ok(Val::Optional(None))),
    ("optional.ofNonZeroValue(V) -> optional(V)", UNIT, |args| {
        Ok(if is_zero(&args[0]) { Val::Optional(None) } else { Val::some(args[0].clone()) })
    }),
    ("optional(V)::hasValue() -> bool", UNIT, |args| Ok(Val::Bool(of(args, 0)?.is_some()))),
    ("optional(V)::value() -> V", UNIT, |args| match of(args, 0)? {
        Some(value) => Ok((**value).clone()),
        None => Err(EvalError::new("optional.none() dereference")),
    }),
    ("optional(V)::or(optional(V)) -> optional(V)", UNIT, |args| {
        Ok(args[usize::from(of(args, 0)?.is_none())].clone())
    }),
    ("optional(V)::orValue(V) -> V", UNIT, |args| match of(args, 0)? {
        Some(value) => Ok((**value).clone()),
        None => Ok(args[1].clone()),
    }),
    ("optional.unwrap(list(optional(V))) -> list(V)", UNIT, unwrap),
    ("list(optional(V))::unwrapOpt() -> list(V)", UNIT, unwrap),
];

fn of<'v, 'a>(args: &'v [Val<'a>], at: usize) -> Result<Option<&'v Rc<Val<'a>>>, EvalError> {
    match &args[at] {
        Val::Optional(value) => Ok(value.as_ref()),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn unwrap<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let items = super::list(args, 0)?.iter().filter_map(|item| match item {
        Val::Optional(value) => value.map(|value| (*value).clone()),
        other => Some(other),
    });
    Ok(Val::items(items.collect()))
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Optional(None) => true,
        Val::Bool(bool) => !bool,
        Val::Int(int) => *int == 0,
        Val::Uint(uint) => *uint == 0,
        Val::Double(double) => *double == 0.0,
        Val::Duration(nanos) => *nanos == 0,
        Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) => value.size() == Some(0),
        _ => false,
    }
}
