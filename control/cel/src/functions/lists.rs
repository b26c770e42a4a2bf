//! Lists and maps: Kubernetes' `isSorted`, `sum`, `min`, `max`, `indexOf`, and CEL's `slice`, `flatten`, `range`, `sort`…

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{Cost, Line, Outcome, UNIT, int, list};
use crate::error::EvalError;
use crate::functions::time;
use crate::value::{Key, Val};

/// Items that `lists.range` and `flatten` make at most: what they make costs nothing but itself.
const MADE: usize = 100_000;

pub(super) const TABLE: &[Line] = &[
    ("size(string) -> int", UNIT, size),
    ("size(bytes) -> int", UNIT, size),
    ("size(list(A)) -> int", UNIT, size),
    ("size(map(A, B)) -> int", UNIT, size),
    ("string::size() -> int", UNIT, size),
    ("bytes::size() -> int", UNIT, size),
    ("list(A)::size() -> int", UNIT, size),
    ("map(A, B)::size() -> int", UNIT, size),
    ("list(int)::isSorted() -> bool", Cost::Walk, is_sorted),
    ("list(uint)::isSorted() -> bool", Cost::Walk, is_sorted),
    ("list(double)::isSorted() -> bool", Cost::Walk, is_sorted),
    ("list(bool)::isSorted() -> bool", Cost::Walk, is_sorted),
    ("list(duration)::isSorted() -> bool", Cost::Walk, is_sorted),
    ("list(timestamp)::isSorted() -> bool", Cost::Walk, is_sorted),
    ("list(string)::isSorted() -> bool", Cost::Walk, is_sorted),
    ("list(bytes)::isSorted() -> bool", Cost::Walk, is_sorted),
    ("list(int)::sum() -> int", Cost::Walk, |args| sum(args, Val::Int(0))),
    ("list(uint)::sum() -> uint", Cost::Walk, |args| sum(args, Val::Uint(0))),
    ("list(double)::sum() -> double", Cost::Walk, |args| sum(args, Val::Double(0.0))),
    ("list(duration)::sum() -> duration", Cost::Walk, |args| sum(args, Val::Duration(0))),
    ("list(int)::min() -> int", Cost::Walk, min),
    ("list(uint)::min() -> uint", Cost::Walk, min),
    ("list(double)::min() -> double", Cost::Walk, min),
    ("list(bool)::min() -> bool", Cost::Walk, min),
    ("list(duration)::min() -> duration", Cost::Walk, min),
    ("list(timestamp)::min() -> timestamp", Cost::Walk, min),
    ("list(string)::min() -> string", Cost::Walk, min),
    ("list(bytes)::min() -> bytes", Cost::Walk, min),
    ("list(int)::max() -> int", Cost::Walk, max),
    ("list(uint)::max() -> uint", Cost::Walk, max),
    ("list(double)::max() -> double", Cost::Walk, max),
    ("list(bool)::max() -> bool", Cost::Walk, max),
    ("list(duration)::max() -> duration", Cost::Walk, max),
    ("list(timestamp)::max() -> timestamp", Cost::Walk, max),
    ("list(string)::max() -> string", Cost::Walk, max),
    ("list(bytes)::max() -> bytes", Cost::Walk, max),
    ("list(T)::indexOf(T) -> int", Cost::Walk, |args| {
        let place = list(args, 0)?.iter().position(|item| item.equals(&args[1]));
        Ok(Val::Int(place.map_or(-1, |place| place as i64)))
    }),
    ("list(T)::lastIndexOf(T) -> int", Cost::Walk, |args| {
        let items: Vec<_> = list(args, 0)?.iter().collect();
        let place = items.iter().rposition(|item| item.equals(&args[1]));
        Ok(Val::Int(place.map_or(-1, |place| place as i64)))
    }),
    ("list(T)::slice(int, int) -> list(T)", Cost::Walk, slice),
    ("list(T)::flatten() -> list(dyn)", Cost::Walk, |args| flatten(args, 1)),
    ("list(T)::flatten(int) -> list(dyn)", Cost::Walk, |args| flatten(args, int(args, 1)?)),
    ("list(T)::distinct() -> list(T)", Cost::Product(1.0), distinct),
    ("list(T)::reverse() -> list(T)", Cost::Walk, |args| {
        let mut items: Vec<_> = list(args, 0)?.iter().collect();
        items.reverse();
        Ok(Val::items(items))
    }),
    ("list(T)::sort() -> list(T)", Cost::Product(1.0), sort),
    ("lists.range(int) -> list(int)", Cost::Fixed(10), |args| {
        let end = usize::try_from(int(args, 0)?).unwrap_or(0);
        if end > MADE {
            return Err(EvalError::new(format!("lists.range: at most {MADE} items, not {end}")));
        }
        Ok(Val::items((0..end).map(|n| Val::Int(n as i64)).collect()))
    }),
    ("list(T)::first() -> optional(T)", UNIT, |args| {
        Ok(list(args, 0)?.get(0).map_or(Val::Optional(None), Val::some))
    }),
    ("list(T)::last() -> optional(T)", UNIT, |args| {
        let list = list(args, 0)?;
        Ok(list.get(list.len().wrapping_sub(1)).map_or(Val::Optional(None), Val::some))
    }),
];

fn size<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match args[0].size() {
        Some(size) => Ok(Val::Int(size as i64)),
        None => Err(EvalError::no_such_overload()),
    }
}

fn compare<'a>(a: &Val<'a>, b: &Val<'a>) -> Result<Ordering, EvalError> {
    a.compare(b).ok_or_else(EvalError::no_such_overload)
}

fn is_sorted<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let items: Vec<_> = list(args, 0)?.iter().collect();
    for pair in items.windows(2) {
        if compare(&pair[0], &pair[1])? == Ordering::Greater {
            return Ok(Val::Bool(false));
        }
    }
    Ok(Val::Bool(true))
}

/// Of a list whose items' type is not declared the first says what nothing is.
fn sum<'a>(args: &[Val<'a>], nothing: Val<'a>) -> Outcome<'a> {
    let plus = super::find("_+_").ok_or_else(EvalError::no_such_overload)?;
    let mut total: Option<Val<'a>> = None;
    for item in list(args, 0)?.iter() {
        total = Some(match total {
            None => item,
            Some(Val::Duration(so_far)) => time::add(&[Val::Duration(so_far), item])?,
            Some(so_far) => {
                let pair = [so_far, item];
                let numeric = &plus.overloads[..3];
                let fitting = numeric
                    .iter()
                    .find(|o| o.params.iter().zip(&pair).all(|(p, v)| super::fits(v, p)));
                (fitting.ok_or_else(EvalError::no_such_overload)?.body)(&pair)?
            }
        });
    }
    Ok(total.unwrap_or(nothing))
}

fn min<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    extreme(args, "min", Ordering::Less)
}

fn max<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    extreme(args, "max", Ordering::Greater)
}

fn extreme<'a>(args: &[Val<'a>], name: &str, wanted: Ordering) -> Outcome<'a> {
    let mut found: Option<Val<'a>> = None;
    for item in list(args, 0)?.iter() {
        match &found {
            Some(known) if compare(&item, known)? != wanted => {}
            _ => found = Some(item),
        }
    }
    found.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn slice<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (list, start, end) = (list(args, 0)?, int(args, 1)?, int(args, 2)?);
    let why = if start < 0 || end < 0 {
        format!("cannot slice({start}, {end}), negative indexes not supported")
    } else if start > end {
        format!("cannot slice({start}, {end}), start index must be less than or equal to end index")
    } else if end > list.len() as i64 {
        format!("cannot slice({start}, {end}), list is length {}", list.len())
    } else {
        let items = list.iter().skip(start as usize).take((end - start) as usize);
        return Ok(Val::items(items.collect()));
    };
    Err(EvalError::new(why))
}

fn flatten<'a>(args: &[Val<'a>], depth: i64) -> Outcome<'a> {
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut items: Vec<_> = list(args, 0)?.iter().collect();
    for _ in 0..depth {
        if !items.iter().any(|item| matches!(item, Val::List(_))) {
            break;
        }
        let mut flat = Vec::new();
        for item in items {
            match item {
                Val::List(inner) => flat.extend(inner.iter()),
                other => flat.push(other),
            }
            if flat.len() > MADE {
                return Err(EvalError::new(format!("flatten: more than {MADE} items")));
            }
        }
        items = flat;
    }
    Ok(Val::items(items))
}

fn distinct<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let mut items: Vec<Val<'a>> = Vec::new();
    for item in list(args, 0)?.iter() {
        if !items.iter().any(|known| known.equals(&item)) {
            items.push(item);
        }
    }
    Ok(Val::items(items))
}

fn sort<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let mut items: Vec<_> = list(args, 0)?.iter().collect();
    if let Some(first) = items.first() {
        for item in &items {
            compare(first, item)?;
        }
    }
    items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(Val::items(items))
}

/// Puts an entry into a map that is being made.
pub(crate) fn insert<'a>(
    map: &mut BTreeMap<Key<'a>, Val<'a>>,
    key: &Val<'a>,
    value: Val<'a>,
) -> Result<(), EvalError> {
    let key = match key {
        Val::Double(_) => None,
        other => Key::of(other),
    };
    let key = key.ok_or_else(|| EvalError::new("unsupported key type"))?;
    if map.contains_key(&key) {
        let name = match key.value() {
            Val::String(text) => text.to_string(),
            Val::Int(n) => n.to_string(),
            Val::Uint(n) => n.to_string(),
            other => format!("{other:?}"),
        };
        return Err(EvalError::new(format!("insert failed: key {name} already exists")));
    }
    map.insert(key, value);
    Ok(())
}
