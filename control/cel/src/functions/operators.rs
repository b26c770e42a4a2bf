//! Arithmetic, comparison, containment and indexing. Overflow is an error, never a wrapped number.

use std::cmp::Ordering;

use super::{Cost, Line, Outcome, UNIT};
use crate::error::EvalError;
use crate::functions::time;
use crate::value::{Key, List, Val};

pub(super) const TABLE: &[Line] = &[
    ("_==_(A, A) -> bool", Cost::Smaller, |args| Ok(Val::Bool(args[0].equals(&args[1])))),
    ("_!=_(A, A) -> bool", Cost::Smaller, |args| Ok(Val::Bool(!args[0].equals(&args[1])))),
    ("_+_(int, int) -> int", UNIT, arithmetic::<ADD>),
    ("_+_(uint, uint) -> uint", UNIT, arithmetic::<ADD>),
    ("_+_(double, double) -> double", UNIT, arithmetic::<ADD>),
    ("_+_(string, string) -> string", Cost::Both, join),
    ("_+_(bytes, bytes) -> bytes", Cost::Both, join),
    ("_+_(list(A), list(A)) -> list(A)", UNIT, join),
    ("_+_(duration, duration) -> duration", UNIT, time::add),
    ("_+_(timestamp, duration) -> timestamp", UNIT, time::add),
    ("_+_(duration, timestamp) -> timestamp", UNIT, time::add),
    ("_-_(int, int) -> int", UNIT, arithmetic::<SUBTRACT>),
    ("_-_(uint, uint) -> uint", UNIT, arithmetic::<SUBTRACT>),
    ("_-_(double, double) -> double", UNIT, arithmetic::<SUBTRACT>),
    ("_-_(duration, duration) -> duration", UNIT, time::subtract),
    ("_-_(timestamp, duration) -> timestamp", UNIT, time::subtract),
    ("_-_(timestamp, timestamp) -> duration", UNIT, time::subtract),
    ("_*_(int, int) -> int", UNIT, arithmetic::<MULTIPLY>),
    ("_*_(uint, uint) -> uint", UNIT, arithmetic::<MULTIPLY>),
    ("_*_(double, double) -> double", UNIT, arithmetic::<MULTIPLY>),
    ("_/_(int, int) -> int", UNIT, arithmetic::<DIVIDE>),
    ("_/_(uint, uint) -> uint", UNIT, arithmetic::<DIVIDE>),
    ("_/_(double, double) -> double", UNIT, arithmetic::<DIVIDE>),
    ("_%_(int, int) -> int", UNIT, arithmetic::<MODULO>),
    ("_%_(uint, uint) -> uint", UNIT, arithmetic::<MODULO>),
    ("-_(int) -> int", UNIT, negate),
    ("-_(double) -> double", UNIT, negate),
    ("!_(bool) -> bool", UNIT, |args| match args[0] {
        Val::Bool(bool) => Ok(Val::Bool(!bool)),
        _ => Err(EvalError::no_such_overload()),
    }),
    ("_<_(bool, bool) -> bool", UNIT, order::<LESS>),
    ("_<_(int, int) -> bool", UNIT, order::<LESS>),
    ("_<_(int, double) -> bool", UNIT, order::<LESS>),
    ("_<_(int, uint) -> bool", UNIT, order::<LESS>),
    ("_<_(uint, uint) -> bool", UNIT, order::<LESS>),
    ("_<_(uint, double) -> bool", UNIT, order::<LESS>),
    ("_<_(uint, int) -> bool", UNIT, order::<LESS>),
    ("_<_(double, double) -> bool", UNIT, order::<LESS>),
    ("_<_(double, int) -> bool", UNIT, order::<LESS>),
    ("_<_(double, uint) -> bool", UNIT, order::<LESS>),
    ("_<_(string, string) -> bool", Cost::Smaller, order::<LESS>),
    ("_<_(bytes, bytes) -> bool", Cost::Smaller, order::<LESS>),
    ("_<_(timestamp, timestamp) -> bool", UNIT, order::<LESS>),
    ("_<_(duration, duration) -> bool", UNIT, order::<LESS>),
    ("_<=_(bool, bool) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(int, int) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(int, double) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(int, uint) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(uint, uint) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(uint, double) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(uint, int) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(double, double) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(double, int) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(double, uint) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(string, string) -> bool", Cost::Smaller, order::<LESS_EQUALS>),
    ("_<=_(bytes, bytes) -> bool", Cost::Smaller, order::<LESS_EQUALS>),
    ("_<=_(timestamp, timestamp) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_<=_(duration, duration) -> bool", UNIT, order::<LESS_EQUALS>),
    ("_>_(bool, bool) -> bool", UNIT, order::<GREATER>),
    ("_>_(int, int) -> bool", UNIT, order::<GREATER>),
    ("_>_(int, double) -> bool", UNIT, order::<GREATER>),
    ("_>_(int, uint) -> bool", UNIT, order::<GREATER>),
    ("_>_(uint, uint) -> bool", UNIT, order::<GREATER>),
    ("_>_(uint, double) -> bool", UNIT, order::<GREATER>),
    ("_>_(uint, int) -> bool", UNIT, order::<GREATER>),
    ("_>_(double, double) -> bool", UNIT, order::<GREATER>),
    ("_>_(double, int) -> bool", UNIT, order::<GREATER>),
    ("_>_(double, uint) -> bool", UNIT, order::<GREATER>),
    ("_>_(string, string) -> bool", Cost::Smaller, order::<GREATER>),
    ("_>_(bytes, bytes) -> bool", Cost::Smaller, order::<GREATER>),
    ("_>_(timestamp, timestamp) -> bool", UNIT, order::<GREATER>),
    ("_>_(duration, duration) -> bool", UNIT, order::<GREATER>),
    ("_>=_(bool, bool) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(int, int) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(int, double) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(int, uint) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(uint, uint) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(uint, double) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(uint, int) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(double, double) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(double, int) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(double, uint) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(string, string) -> bool", Cost::Smaller, order::<GREATER_EQUALS>),
    ("_>=_(bytes, bytes) -> bool", Cost::Smaller, order::<GREATER_EQUALS>),
    ("_>=_(timestamp, timestamp) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("_>=_(duration, duration) -> bool", UNIT, order::<GREATER_EQUALS>),
    ("@in(A, list(A)) -> bool", Cost::Items, contained),
    ("@in(A, map(A, B)) -> bool", UNIT, contained),
    ("_[_](list(A), int) -> A", UNIT, |args| at(&args[0], &args[1])),
    ("_[_](map(A, B), A) -> B", UNIT, |args| at(&args[0], &args[1])),
    ("_[_](optional(list(A)), int) -> optional(A)", UNIT, |args| optional_at(&args[0], &args[1])),
    ("_[_](optional(map(A, B)), A) -> optional(B)", UNIT, |args| optional_at(&args[0], &args[1])),
    ("_[?_](list(A), int) -> optional(A)", UNIT, |args| optional_at(&args[0], &args[1])),
    ("_[?_](map(A, B), A) -> optional(B)", UNIT, |args| optional_at(&args[0], &args[1])),
    ("_[?_](optional(list(A)), int) -> optional(A)", UNIT, |args| optional_at(&args[0], &args[1])),
    ("_[?_](optional(map(A, B)), A) -> optional(B)", UNIT, |args| optional_at(&args[0], &args[1])),
];

const ADD: u8 = 0;
const SUBTRACT: u8 = 1;
const MULTIPLY: u8 = 2;
const DIVIDE: u8 = 3;
const MODULO: u8 = 4;

fn arithmetic<'a, const OP: u8>(args: &[Val<'a>]) -> Outcome<'a> {
    let zero = || EvalError::new(if OP == MODULO { "modulus by zero" } else { "division by zero" });
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => {
            if OP >= DIVIDE && *b == 0 {
                return Err(zero());
            }
            let result = match OP {
                ADD => a.checked_add(*b),
                SUBTRACT => a.checked_sub(*b),
                MULTIPLY => a.checked_mul(*b),
                DIVIDE => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            result.map(Val::Int).ok_or_else(|| EvalError::new("integer overflow"))
        }
        (Val::Uint(a), Val::Uint(b)) => {
            if OP >= DIVIDE && *b == 0 {
                return Err(zero());
            }
            let result = match OP {
                ADD => a.checked_add(*b),
                SUBTRACT => a.checked_sub(*b),
                MULTIPLY => a.checked_mul(*b),
                DIVIDE => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            result.map(Val::Uint).ok_or_else(|| EvalError::new("unsigned integer overflow"))
        }
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(match OP {
            ADD => a + b,
            SUBTRACT => a - b,
            MULTIPLY => a * b,
            _ => a / b,
        })),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn negate<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Int(int) => {
            int.checked_neg().map(Val::Int).ok_or_else(|| EvalError::new("integer overflow"))
        }
        Val::Double(double) => Ok(Val::Double(-double)),
        _ => Err(EvalError::no_such_overload()),
    }
}

const LESS: u8 = 0;
const LESS_EQUALS: u8 = 1;
const GREATER: u8 = 2;
const GREATER_EQUALS: u8 = 3;

fn order<'a, const OP: u8>(args: &[Val<'a>]) -> Outcome<'a> {
    let Some(order) = args[0].compare(&args[1]) else {
        let nan = |value: &Val<'_>| matches!(value, Val::Double(double) if double.is_nan());
        return Err(if args.iter().any(nan) {
            EvalError::new("NaN values cannot be ordered")
        } else {
            EvalError::no_such_overload()
        });
    };
    Ok(Val::Bool(match OP {
        LESS => order == Ordering::Less,
        LESS_EQUALS => order != Ordering::Greater,
        GREATER => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }))
}

fn join<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(match (&args[0], &args[1]) {
        (Val::String(a), Val::String(b)) => Val::string([&**a, &**b].concat()),
        (Val::Bytes(a), Val::Bytes(b)) => Val::Bytes([&**a, &**b].concat().into()),
        (Val::List(a), Val::List(b)) => Val::items(a.concat(b)),
        _ => return Err(EvalError::no_such_overload()),
    })
}

fn contained<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(Val::Bool(match &args[1] {
        Val::List(list) => list.contains(&args[0]),
        Val::Map(map) => map.get(&args[0]).is_some(),
        _ => return Err(EvalError::no_such_overload()),
    }))
}

/// What a list or map holds at an index or under a key.
fn at<'a>(of: &Val<'a>, index: &Val<'a>) -> Outcome<'a> {
    match of {
        Val::List(list) => {
            let place = place(list, index)?;
            list.get(place).ok_or_else(|| EvalError::new(format!("index out of bounds: {place}")))
        }
        Val::Map(map) => map.get(index).ok_or_else(|| no_such_key(index)),
        Val::Optional(_) => optional_at(of, index),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The same, or none.
fn optional_at<'a>(of: &Val<'a>, index: &Val<'a>) -> Outcome<'a> {
    let found = match of {
        Val::Optional(None) => None,
        Val::Optional(Some(of)) => return optional_at(of, index),
        Val::List(list) => place(list, index).ok().and_then(|place| list.get(place)),
        Val::Map(map) => map.get(index),
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok(found.map_or(Val::Optional(None), Val::some))
}

fn place(list: &List<'_>, index: &Val<'_>) -> Result<usize, EvalError> {
    let whole = match (index, Key::of(index)) {
        (Val::Int(_) | Val::Uint(_) | Val::Double(_), Some(Key::Whole(whole, _))) => whole,
        _ => return Err(EvalError::new("no such overload")),
    };
    let outside = || EvalError::new(format!("index out of bounds: {whole}"));
    usize::try_from(whole).ok().filter(|place| *place < list.len()).ok_or_else(outside)
}

fn no_such_key(key: &Val<'_>) -> EvalError {
    EvalError::new(match key {
        Val::String(name) => format!("no such key: {}", &**name),
        Val::Int(n) => format!("no such key: {n}"),
        Val::Uint(n) => format!("no such key: {n}"),
        Val::Bool(bool) => format!("no such key: {bool}"),
        other => format!("unsupported key type: {}", other.type_name()),
    })
}
