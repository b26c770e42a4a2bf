//! What type parameters stand for, found by making types agree, as upstream's checker does it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Type;

/// Parameters of signatures are letters; those made here come after them.
const FIRST: u32 = 1000;

#[derive(Debug, Default)]
pub(super) struct Unifier {
    known: HashMap<u32, Type>,
    /// What was known before each change, so that a failed attempt leaves nothing behind.
    trail: Vec<(u32, Option<Type>)>,
    made: u32,
}

impl Unifier {
    pub(super) fn fresh(&mut self) -> Type {
        self.made += 1;
        Type::Param(FIRST + self.made)
    }

    /// A signature with parameters of its own.
    pub(super) fn instantiate(&mut self, params: &[Type], result: &Type) -> (Vec<Type>, Type) {
        let mut letters = HashMap::new();
        let params = params.iter().map(|param| self.renamed(param, &mut letters)).collect();
        (params, self.renamed(result, &mut letters))
    }

    fn renamed(&mut self, ty: &Type, letters: &mut HashMap<u32, Type>) -> Type {
        match ty {
            Type::Param(letter) => match letters.get(letter) {
                Some(known) => known.clone(),
                None => {
                    let fresh = self.fresh();
                    letters.insert(*letter, fresh.clone());
                    fresh
                }
            },
            Type::List(items) => Type::list(self.renamed(items, letters)),
            Type::Optional(of) => Type::optional(self.renamed(of, letters)),
            Type::Map(keys, values) => {
                let keys = self.renamed(keys, letters);
                Type::map(keys, self.renamed(values, letters))
            }
            other => other.clone(),
        }
    }

    /// The type with known parameters put in; with `to_dyn` unknown ones are `dyn`.
    pub(super) fn resolve(&self, ty: &Type, to_dyn: bool) -> Type {
        match ty {
            Type::Param(n) => match self.known.get(n) {
                Some(known) => self.resolve(known, to_dyn),
                None if to_dyn => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(items) => Type::list(self.resolve(items, to_dyn)),
            Type::Optional(of) => Type::optional(self.resolve(of, to_dyn)),
            Type::Map(keys, values) => {
                Type::map(self.resolve(keys, to_dyn), self.resolve(values, to_dyn))
            }
            Type::TypeOf(Some(of)) => Type::TypeOf(Some(Arc::new(self.resolve(of, to_dyn)))),
            other => other.clone(),
        }
    }

    /// Whether `a` may be given for `b`.
    pub(super) fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        self.attempt(|unifier| unifier.fit(a, b))
    }

    pub(super) fn all_assignable(&mut self, given: &[Type], wanted: &[Type]) -> bool {
        self.attempt(|unifier| {
            given.len() == wanted.len() && given.iter().zip(wanted).all(|(a, b)| unifier.fit(a, b))
        })
    }

    fn attempt(&mut self, make: impl FnOnce(&mut Self) -> bool) -> bool {
        self.trail.clear();
        let fits = make(self);
        if !fits {
            while let Some((n, before)) = self.trail.pop() {
                match before {
                    Some(before) => self.known.insert(n, before),
                    None => self.known.remove(&n),
                };
            }
        }
        fits
    }

    fn learn(&mut self, n: u32, ty: Type) {
        let before = self.known.insert(n, ty);
        self.trail.push((n, before));
    }

    fn fit(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Param(n) = b {
            match self.substitutes(a, *n) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Param(n) = a {
            return self.substitutes(b, *n).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, _) => matches!(
                b,
                Type::Null
                    | Type::Object(_)
                    | Type::Opaque(_)
                    | Type::Optional(_)
                    | Type::Timestamp
                    | Type::Duration
            ),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
                self.fit(a, b)
            }
            (Type::Map(k, v), Type::Map(l, w)) => self.fit(k, l) && self.fit(v, w),
            _ => a == b,
        }
    }

    /// Whether parameter `n` may stand for `ty`, and whether it stood for something before.
    fn substitutes(&mut self, ty: &Type, n: u32) -> (bool, bool) {
        if *ty == Type::Param(n) {
            return (true, true);
        }
        if let Some(known) = self.known.get(&n).cloned() {
            if *ty == known {
                return (true, true);
            }
            if self.fit(ty, &known) {
                let wider = general(ty.clone(), known);
                if !self.occurs(n, &wider) {
                    self.learn(n, wider);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(n, ty) {
            return (false, false);
        }
        self.learn(n, ty.clone());
        (true, false)
    }

    fn occurs(&self, n: u32, within: &Type) -> bool {
        match within {
            Type::Param(m) => {
                *m == n || self.known.get(m).is_some_and(|known| self.occurs(n, known))
            }
            Type::List(of) | Type::Optional(of) => self.occurs(n, of),
            Type::Map(keys, values) => self.occurs(n, keys) || self.occurs(n, values),
            _ => false,
        }
    }
}

/// Whether two types are the same where both are known.
pub(super) fn alike(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Error | Type::Param(_), _)
        | (_, Type::Dyn | Type::Error | Type::Param(_)) => true,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => alike(a, b),
        (Type::Map(k, v), Type::Map(l, w)) => alike(k, l) && alike(v, w),
        _ => a == b,
    }
}

/// Of two types that agree, the one that says less.
pub(super) fn general(a: Type, b: Type) -> Type {
    if says_less(&a, &b) { a } else { b }
}

fn says_less(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => says_less(a, b),
        (Type::Map(k, v), Type::Map(l, w)) => says_less(k, l) && says_less(v, w),
        _ => a == b,
    }
}
