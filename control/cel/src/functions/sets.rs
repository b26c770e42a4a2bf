//! Lists as sets.

use super::{Cost, Line, Outcome, list};
use crate::value::{List, Val};

pub(super) const TABLE: &[Line] = &[
    ("sets.contains(list(T), list(T)) -> bool", Cost::Product(1.0), |args| {
        Ok(Val::Bool(within(list(args, 1)?, list(args, 0)?)))
    }),
    ("sets.equivalent(list(T), list(T)) -> bool", Cost::Product(2.0), |args| {
        let (a, b) = (list(args, 0)?, list(args, 1)?);
        Ok(Val::Bool(within(a, b) && within(b, a)))
    }),
    ("sets.intersects(list(T), list(T)) -> bool", Cost::Product(1.0), intersects),
];

fn within<'a>(small: &List<'a>, large: &List<'a>) -> bool {
    small.iter().all(|item| large.contains(&item))
}

fn intersects<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (a, b) = (list(args, 0)?, list(args, 1)?);
    Ok(Val::Bool(a.iter().any(|item| b.contains(&item))))
}
