//! Pods that are the same but for their name share one shape, what is kept to place them, and its explanation.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use coracle_api::Object;

use crate::candidates::Candidates;
use crate::counts::{Counted, CounterId, Counts};
use crate::coupled::{self, Coupled};
use crate::filters::{self, Reason};
use crate::node::{Node, Nodes};
use crate::pod::Shape;

/// Names a shape while any Pod has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShapeId(usize);

/// How many shapes keep what they are placed with; beyond, all begin anew.
const MAX_PLACED: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Shapes {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    by_hash: HashMap<u64, Vec<usize>>,
    hasher: RandomState,
    /// How many there have been so far.
    ever: u64,
    placing: usize,
    counts: Counts,
    /// How many Pods of each priority are on nodes.
    priorities: BTreeMap<i32, usize>,
}

#[derive(Debug)]
struct Entry {
    shape: Arc<Shape>,
    hash: u64,
    /// Where it begins to look for a node: elsewhere than others, and without chance, so that a simulation can be repeated.
    start: u64,
    pods: usize,
    /// Its Pods by slot of their node: all, and those that are not being deleted.
    placed: HashMap<usize, (i64, i64)>,
    /// The counters that its Pods are in.
    counted: Vec<CounterId>,
    /// Those of them that it keeps by its own affinities.
    bonds: Vec<CounterId>,
    /// Whether other Pods' affinities are about it, as of a version of these.
    bound: Option<(u64, bool)>,
    way: Way,
    /// The version of the nodes, and why none fitted then.
    explanation: Option<(u64, Arc<Explanation>)>,
    /// The version of the nodes, and why nobody could be made to go for it then.
    refusal: Option<(u64, Arc<str>)>,
}

/// How a node is found.
#[derive(Debug)]
enum Way {
    Unknown,
    /// Whatever else is where.
    Free(Candidates),
    /// With regard to other Pods.
    Coupled(Box<Coupled>),
}

/// Why no node fits.
#[derive(Debug)]
pub(crate) struct Explanation {
    /// In upstream's words, without a word about preemption.
    pub(crate) why: String,
    /// How many nodes there are.
    pub(crate) total: usize,
    /// Slots of nodes that might fit if other Pods went.
    pub(crate) hopeful: Vec<usize>,
}

impl Shapes {
    pub(crate) fn intern(&mut self, shape: Shape) -> ShapeId {
        let hash = self.hasher.hash_one(&shape.identity);
        for at in self.by_hash.entry(hash).or_default().iter() {
            if let Some(entry) = &mut self.slots[*at]
                && entry.shape.identity == shape.identity
            {
                entry.pods += 1;
                return ShapeId(*at);
            }
        }
        let meant = |(id, counter): (CounterId, &crate::counts::Counter)| {
            let what = &counter.what;
            let counts = matches!(what, Counted::Meant { .. })
                && self.counts.means(what, shape.namespace(), shape.labels());
            counts.then_some(id)
        };
        let mut counted: Vec<_> = self.counts.all().filter_map(meant).collect();
        let bonds = coupled::bonds(&shape).into_iter().map(|what| self.counts.acquire(what).0);
        let bonds: Vec<_> = bonds.collect();
        counted.extend(&bonds);
        self.ever += 1;
        let entry = Entry {
            shape: Arc::new(shape),
            hash,
            start: self.ever.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16,
            pods: 1,
            placed: HashMap::new(),
            counted,
            bonds,
            bound: None,
            way: Way::Unknown,
            explanation: None,
            refusal: None,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = Some(entry);
                at
            }
            None => {
                self.slots.push(Some(entry));
                self.slots.len() - 1
            }
        };
        self.by_hash.entry(hash).or_default().push(at);
        ShapeId(at)
    }

    /// One Pod less has it; whether it was the last.
    pub(crate) fn release(&mut self, id: ShapeId) -> bool {
        let entry = self.entry(id);
        entry.pods -= 1;
        if entry.pods > 0 {
            return false;
        }
        self.unlearn(id.0);
        let Some(entry) = self.slots[id.0].take() else { return true };
        entry.bonds.into_iter().for_each(|counter| self.let_go(counter));
        if let Some(known) = self.by_hash.get_mut(&entry.hash) {
            known.retain(|at| *at != id.0);
            if known.is_empty() {
                self.by_hash.remove(&entry.hash);
            }
        }
        self.free.push(id.0);
        true
    }

    #[expect(clippy::expect_used, reason = "an id lives as long as a Pod that counts in its entry")]
    fn entry(&mut self, id: ShapeId) -> &mut Entry {
        self.slots[id.0].as_mut().expect("the shape of a tracked Pod")
    }

    #[expect(clippy::expect_used, reason = "an id lives as long as a Pod that counts in its entry")]
    pub(crate) fn get(&self, id: ShapeId) -> &Arc<Shape> {
        &self.slots[id.0].as_ref().expect("the shape of a tracked Pod").shape
    }

    /// Whether a node by itself would do.
    pub(crate) fn fits(&self, id: ShapeId, node: &Node) -> bool {
        filters::fits(self.get(id), node)
    }

    /// Some Pod is on a node with a priority less than that.
    pub(crate) fn any_below(&self, priority: i32) -> bool {
        self.priorities.keys().next().is_some_and(|lowest| *lowest < priority)
    }

    /// Puts a Pod of that shape on a node; whether that may matter to Pods that wait.
    pub(crate) fn put_on(&mut self, id: ShapeId, at: usize, nodes: &mut Nodes) -> bool {
        self.move_pod(id, at, 1, 1);
        let shape = self.get(id).clone();
        *self.priorities.entry(shape.priority).or_default() += 1;
        nodes.occupy(at, &shape);
        !self.entry(id).counted.is_empty()
    }

    /// Takes a Pod off a node, which was or was not about to go; whether that may matter to Pods that wait elsewhere.
    pub(crate) fn take_off(
        &mut self,
        id: ShapeId,
        at: usize,
        going: bool,
        nodes: &mut Nodes,
    ) -> bool {
        self.move_pod(id, at, -1, if going { 0 } else { -1 });
        let shape = self.get(id).clone();
        if let Some(count) = self.priorities.get_mut(&shape.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&shape.priority);
            }
        }
        nodes.release(at, &shape);
        !self.entry(id).counted.is_empty()
    }

    /// A Pod on a node is being deleted, or is not after all.
    pub(crate) fn set_going(&mut self, id: ShapeId, at: usize, going: bool, nodes: &mut Nodes) {
        nodes.changed();
        self.move_pod(id, at, 0, if going { -1 } else { 1 });
    }

    fn move_pod(&mut self, id: ShapeId, at: usize, all: i64, staying: i64) {
        let Some(entry) = &mut self.slots[id.0] else { return };
        let placed = entry.placed.entry(at).or_default();
        placed.0 += all;
        placed.1 += staying;
        if *placed == (0, 0) {
            entry.placed.remove(&at);
        }
        for counter in &entry.counted {
            let by = if counts_staying(&self.counts, *counter) { staying } else { all };
            if by != 0 {
                self.counts.add(*counter, at, by);
            }
        }
    }

    /// The best node that fits a Pod of that shape.
    pub(crate) fn choose(&mut self, id: ShapeId, nodes: &mut Nodes) -> Option<usize> {
        if self.learn(id, nodes) {
            let entry = self.entry(id);
            let Way::Coupled(coupled) = &mut entry.way else { return None };
            return coupled.best(&entry.shape, nodes);
        }
        let entry = self.entry(id);
        let Way::Free(candidates) = &mut entry.way else { return None };
        candidates.best(&entry.shape, nodes)
    }

    /// Puts a Pod on the node that was chosen for it; whether that may matter to Pods that wait.
    pub(crate) fn settle(&mut self, id: ShapeId, at: usize, nodes: &mut Nodes) -> bool {
        let stirs = self.put_on(id, at, nodes);
        let entry = self.entry(id);
        if let Way::Free(candidates) = &mut entry.way {
            candidates.settle(at, &entry.shape, nodes);
        }
        stirs
    }

    /// What stands against a Pod of that shape on a node.
    pub(crate) fn reasons<'a>(
        &'a mut self,
        id: ShapeId,
        at: usize,
        nodes: &'a mut Nodes,
    ) -> Vec<Reason<'a>> {
        let coupled = self.learn(id, nodes);
        let (entry, nodes) = (&*self.entry(id), &*nodes);
        let mut reasons = filters::reasons(&entry.shape, nodes.get(at));
        if reasons.is_empty()
            && coupled
            && let Way::Coupled(coupled) = &entry.way
        {
            reasons.extend(coupled.reason(at, nodes));
        }
        reasons
    }

    /// Whether one of the counts that a Pod of `moved` is in may make a node fit a Pod of `waiting`.
    pub(crate) fn concerns(&self, moved: ShapeId, waiting: ShapeId) -> bool {
        let entry = |id: ShapeId| self.slots[id.0].as_ref();
        let (Some(moved), Some(waiting)) = (entry(moved), entry(waiting)) else { return false };
        match &waiting.way {
            Way::Coupled(coupled) => coupled.counters().any(|c| moved.counted.contains(&c)),
            Way::Free(_) => false,
            Way::Unknown => !waiting.shape.relations.is_empty() || self.counts.bonds() > 0,
        }
    }

    /// Takes note of a namespace's labels, by which affinities may choose Pods; whether any does.
    pub(crate) fn namespace(&mut self, object: &Object, gone: bool) -> bool {
        let labels = (!gone).then_some(&object.meta.labels);
        if !self.counts.namespace(&object.meta.name, labels) {
            return false;
        }
        self.counts.clear_meant();
        let meant: Vec<_> = self
            .counts
            .all()
            .filter(|(_, counter)| matches!(counter.what, Counted::Meant { .. }))
            .map(|(id, counter)| (id, counter.what.clone()))
            .collect();
        for entry in self.slots.iter_mut().flatten() {
            entry.counted = entry.bonds.clone();
        }
        for (id, what) in meant {
            fill(&mut self.counts, &mut self.slots, id, &what);
        }
        true
    }

    /// Gets ready to place Pods of a shape; whether they are placed with regard to others.
    fn learn(&mut self, id: ShapeId, nodes: &mut Nodes) -> bool {
        let coupled = self.is_coupled(id);
        let known = match &self.entry(id).way {
            Way::Unknown => false,
            Way::Free(_) => !coupled,
            Way::Coupled(_) => coupled,
        };
        let mut start = self.entry(id).start as usize % nodes.len().max(1);
        if let Way::Coupled(coupled) = &self.entry(id).way {
            start = coupled.start();
        }
        if !known || !self.knows_bonds(id) {
            self.unlearn(id.0);
            if self.placing >= MAX_PLACED {
                (0..self.slots.len()).for_each(|at| self.unlearn(at));
            }
            self.placing += 1;
            let shape = self.get(id).clone();
            self.entry(id).way = if coupled {
                Way::Coupled(Box::new(self.couple(&shape, nodes, start)))
            } else {
                Way::Free(Candidates::new(self.entry(id).start, nodes))
            };
        }
        let Self { slots, counts, .. } = self;
        if let Some(entry) = &mut slots[id.0]
            && let Way::Coupled(coupled) = &mut entry.way
        {
            coupled.catch_up(&entry.shape, nodes, counts);
        }
        coupled
    }

    /// Others' affinities are those that the shape is placed with.
    fn knows_bonds(&mut self, id: ShapeId) -> bool {
        let Some(entry) = &self.slots[id.0] else { return true };
        match &entry.way {
            Way::Coupled(coupled) if coupled.may_be_outdated(&self.counts) => {}
            _ => return true,
        }
        let shape = entry.shape.clone();
        let carried: Vec<_> = self.bonds_about(&shape).map(|(id, _)| id).collect();
        let Self { slots, counts, .. } = self;
        match slots[id.0].as_mut().map(|entry| &mut entry.way) {
            Some(Way::Coupled(coupled)) => coupled.knows(carried.into_iter(), counts),
            _ => true,
        }
    }

    fn couple(&mut self, shape: &Shape, nodes: &mut Nodes, start: usize) -> Coupled {
        let bonds = self.bonds_about(shape).map(|(id, what)| (id, what.clone())).collect();
        let Self { slots, counts, .. } = self;
        let mut acquire = |what: Counted| {
            let (id, new) = counts.acquire(what.clone());
            if new {
                fill(counts, slots, id, &what);
            }
            id
        };
        Coupled::new(shape, nodes, bonds, &mut acquire, start)
    }

    /// The affinities of other Pods that are about Pods of a shape.
    fn bonds_about(&self, shape: &Shape) -> impl Iterator<Item = (CounterId, &Counted)> {
        self.counts.all().map(|(id, counter)| (id, &counter.what)).filter(move |(_, what)| {
            matches!(what, Counted::Carrying(..))
                && self.counts.means(what, shape.namespace(), shape.labels())
        })
    }

    fn is_coupled(&mut self, id: ShapeId) -> bool {
        let shape = self.get(id).clone();
        if !shape.relations.is_empty() {
            return true;
        }
        let version = self.counts.bonds();
        match self.entry(id).bound {
            Some((known, bound)) if known == version => bound,
            _ => {
                let bound = self.bonds_about(&shape).next().is_some();
                self.entry(id).bound = Some((version, bound));
                bound
            }
        }
    }

    fn unlearn(&mut self, at: usize) {
        let Some(entry) = &mut self.slots[at] else { return };
        match std::mem::replace(&mut entry.way, Way::Unknown) {
            Way::Unknown => return,
            Way::Free(_) => {}
            Way::Coupled(coupled) => coupled.counters().for_each(|id| self.let_go(id)),
        }
        self.placing -= 1;
    }

    fn let_go(&mut self, counter: CounterId) {
        if self.counts.release(counter) {
            for entry in self.slots.iter_mut().flatten() {
                entry.counted.retain(|known| *known != counter);
            }
        }
    }

    /// Why no node fits.
    pub(crate) fn explain(&mut self, id: ShapeId, nodes: &mut Nodes) -> Arc<Explanation> {
        let version = nodes.version();
        if let Some((known, explanation)) = &self.entry(id).explanation
            && *known == version
        {
            return explanation.clone();
        }
        let mut total = 0;
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        let mut hopeful = Vec::new();
        for at in 0..nodes.len() {
            if !nodes.get(at).is_present() {
                continue;
            }
            total += 1;
            let found = self.reasons(id, at, nodes);
            let hopeless = found.iter().any(Reason::is_hopeless);
            for reason in found {
                *told.entry(reason.to_string()).or_default() += 1;
            }
            if !hopeless {
                hopeful.push(at);
            }
        }
        let why = match total {
            0 => "no nodes available to schedule pods".to_owned(),
            // What is the same on all nodes is said once.
            _ => match &self.get(id).needs().blocked {
                Some(why) => format!("0/{total} nodes are available: {why}."),
                None => unavailable(total, &told),
            },
        };
        let explanation = Arc::new(Explanation { why, total, hopeful });
        self.entry(id).explanation = Some((version, explanation.clone()));
        explanation
    }

    /// Nothing has changed since no node fitted.
    pub(crate) fn is_known_to_fit_nowhere(&self, id: ShapeId, nodes: &Nodes) -> bool {
        let entry = self.slots[id.0].as_ref();
        let explanation = entry.and_then(|entry| entry.explanation.as_ref());
        explanation.is_some_and(|(known, _)| *known == nodes.version())
    }

    /// Why nobody could be made to go, if nothing has changed since that was found.
    pub(crate) fn refusal(&self, id: ShapeId, nodes: &Nodes) -> Option<Arc<str>> {
        let (known, refusal) = self.slots[id.0].as_ref()?.refusal.as_ref()?;
        (*known == nodes.version()).then(|| refusal.clone())
    }

    pub(crate) fn refuse(&mut self, id: ShapeId, nodes: &Nodes, why: &Arc<str>) {
        self.entry(id).refusal = Some((nodes.version(), why.clone()));
    }
}

/// `0/3 nodes are available: 1 this, 2 that.`
pub(crate) fn unavailable(total: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut told: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
    told.sort();
    format!("0/{total} nodes are available: {}.", told.join(", "))
}

fn counts_staying(counts: &Counts, id: CounterId) -> bool {
    let what = counts.get(id).map(|counter| &counter.what);
    matches!(what, Some(Counted::Meant { staying: true, .. }))
}

/// Counts the Pods that there are.
fn fill(counts: &mut Counts, slots: &mut [Option<Entry>], id: CounterId, what: &Counted) {
    let staying = counts_staying(counts, id);
    for entry in slots.iter_mut().flatten() {
        if counts.means(what, entry.shape.namespace(), entry.shape.labels()) {
            entry.counted.push(id);
            for (at, (all, stay)) in &entry.placed {
                let by = if staying { *stay } else { *all };
                if by != 0 {
                    counts.add(id, *at, by);
                }
            }
        }
    }
}
