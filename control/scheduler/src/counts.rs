//! How many Pods of some description each node has, for every description that anybody asks about.
//!
//! This is what keeps spreading and affinity between Pods from walking over Pods: a Pod that comes or goes moves the few
//! numbers that it is in, and says so in a log, from which those who keep sums over zones catch up. The descriptions are
//! those of the Pods that are being placed, and the affinities that Pods carry (they bind others, too); where nobody has any,
//! nothing is counted.

use std::collections::HashMap;

use crate::relations::{Labels, Near, Selection};

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Counted {
    /// Pods that all of these mean; with `staying`, only those that are not being deleted.
    Meant { all: Vec<Selection>, staying: bool },
    /// Pods that have this term about others.
    Carrying(Bond, Near),
}

/// How a term of one Pod binds others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bond {
    /// Whoever is meant stays away.
    Away,
    /// Whoever is meant would better be near (positive) or away, by that much.
    Liked(i64),
}

/// A count for each node.
#[derive(Debug)]
pub(crate) struct Counter {
    pub(crate) what: Counted,
    users: usize,
    /// By slot of the node.
    pub(crate) on: HashMap<usize, i64>,
}

/// A count of a node has changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) counter: CounterId,
    pub(crate) slot: usize,
    pub(crate) by: i64,
}

/// Names a counter while it is used.
pub(crate) type CounterId = u32;

/// The log's length at which it is cut: who is behind by more counts anew.
const LOG: usize = 1 << 14;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    counters: Vec<Option<Counter>>,
    free: Vec<CounterId>,
    known: HashMap<Counted, CounterId>,
    namespaces: HashMap<Box<str>, Labels>,
    log: Vec<Moved>,
    log_from: u64,
    /// Moves with the set of affinities that Pods carry, and with what they mean.
    bonds: u64,
}

impl Counts {
    /// The counter of that, and whether it is new: then it has to be filled by [`Self::add`].
    pub(crate) fn acquire(&mut self, what: Counted) -> (CounterId, bool) {
        if let Some(id) = self.known.get(&what) {
            let id = *id;
            if let Some(counter) = &mut self.counters[id as usize] {
                counter.users += 1;
            }
            return (id, false);
        }
        if matches!(what, Counted::Carrying(..)) {
            self.bonds += 1;
        }
        let counter = Counter { what: what.clone(), users: 1, on: HashMap::new() };
        let id = match self.free.pop() {
            Some(id) => {
                self.counters[id as usize] = Some(counter);
                id
            }
            None => {
                self.counters.push(Some(counter));
                (self.counters.len() - 1) as CounterId
            }
        };
        self.known.insert(what, id);
        (id, true)
    }

    /// One user less; whether it was the last, and the counter is gone.
    pub(crate) fn release(&mut self, id: CounterId) -> bool {
        let Some(counter) = &mut self.counters[id as usize] else { return false };
        counter.users -= 1;
        if counter.users > 0 {
            return false;
        }
        if let Some(counter) = self.counters[id as usize].take() {
            if matches!(counter.what, Counted::Carrying(..)) {
                self.bonds += 1;
            }
            self.known.remove(&counter.what);
        }
        self.free.push(id);
        true
    }

    pub(crate) fn get(&self, id: CounterId) -> Option<&Counter> {
        self.counters[id as usize].as_ref()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (CounterId, &Counter)> {
        let all = self.counters.iter().enumerate();
        all.filter_map(|(id, counter)| Some((id as CounterId, counter.as_ref()?)))
    }

    /// Moves the count of a node.
    pub(crate) fn add(&mut self, id: CounterId, slot: usize, by: i64) {
        let Some(counter) = &mut self.counters[id as usize] else { return };
        let count = counter.on.entry(slot).or_default();
        *count += by;
        if *count == 0 {
            counter.on.remove(&slot);
        }
        if self.log.len() >= LOG {
            self.log_from += self.log.len() as u64;
            self.log.clear();
        }
        self.log.push(Moved { counter: id, slot, by });
    }

    /// Where the log ends.
    pub(crate) fn mark(&self) -> u64 {
        self.log_from + self.log.len() as u64
    }

    /// What moved since a mark; `None` if that is no longer known.
    pub(crate) fn since(&self, mark: u64) -> Option<&[Moved]> {
        self.log.get(usize::try_from(mark.checked_sub(self.log_from)?).ok()?..)
    }

    pub(crate) fn bonds(&self) -> u64 {
        self.bonds
    }

    /// Whether Pods of that namespace with these labels are meant by the counter's description.
    pub(crate) fn means(&self, what: &Counted, namespace: &str, labels: &Labels) -> bool {
        let matches = |selection: &Selection| {
            selection.matches(namespace, labels, |name| self.namespaces.get(name))
        };
        match what {
            Counted::Meant { all, .. } => all.iter().all(matches),
            Counted::Carrying(_, near) => matches(&near.selection),
        }
    }

    /// Takes note of a namespace's labels; whether anything counted may have another meaning now.
    pub(crate) fn namespace(&mut self, name: &str, labels: Option<&Labels>) -> bool {
        let same = self.namespaces.get(name) == labels;
        match labels {
            Some(labels) => self.namespaces.insert(name.into(), labels.clone()),
            None => self.namespaces.remove(name),
        };
        let looks = |counter: &Counter| match &counter.what {
            Counted::Meant { all, .. } => all.iter().any(Selection::looks_at_namespaces),
            Counted::Carrying(_, near) => near.selection.looks_at_namespaces(),
        };
        let matters = !same && self.all().any(|(_, counter)| looks(counter));
        self.bonds += u64::from(matters);
        matters
    }

    /// Forgets the counts of Pods that are meant by something; they are to be added anew.
    pub(crate) fn clear_meant(&mut self) {
        for counter in self.counters.iter_mut().flatten() {
            if matches!(counter.what, Counted::Meant { .. }) {
                counter.on.clear();
            }
        }
        // Whoever keeps sums begins anew.
        self.log_from += self.log.len() as u64 + 1;
        self.log.clear();
    }
}
