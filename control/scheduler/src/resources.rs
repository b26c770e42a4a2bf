//! Amounts of what nodes offer and Pods ask for.

use std::collections::BTreeMap;

use coracle_api::Quantity;
use serde_json::Value;

/// `cpu`, `memory` and the like, by name.
pub(crate) type Amounts = BTreeMap<Box<str>, Value>;

/// CPU in thousandths, the rest in units. Extended resources in order of name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    pub(crate) extended: Vec<(Box<str>, i64)>,
}

impl Resources {
    /// Reads a resource list; `pods` is counted elsewhere.
    pub(crate) fn of(amounts: &Amounts) -> Self {
        let mut all = Self::default();
        for (name, value) in amounts {
            let Some(quantity) = Quantity::of(value) else { continue };
            match &**name {
                "cpu" => all.cpu = quantity.milli(),
                "memory" => all.memory = quantity.value(),
                "ephemeral-storage" => all.storage = quantity.value(),
                "pods" => {}
                _ => all.extended.push((name.clone(), quantity.value())),
            }
        }
        all
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_sub(b));
    }

    /// The greater amount of each.
    pub(crate) fn at_least(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.cpu = f(self.cpu, other.cpu);
        self.memory = f(self.memory, other.memory);
        self.storage = f(self.storage, other.storage);
        for (name, amount) in &other.extended {
            match self.extended.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(at) => self.extended[at].1 = f(self.extended[at].1, *amount),
                Err(at) => self.extended.insert(at, (name.clone(), f(0, *amount))),
            }
        }
    }

    pub(crate) fn extended(&self, name: &str) -> i64 {
        match self.extended.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(at) => self.extended[at].1,
            Err(_) => 0,
        }
    }
}
