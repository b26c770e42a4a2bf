//! Pods that are the same but for their name share one shape, its candidates and its explanation.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::candidates::Candidates;
use crate::filters::{self, Reason};
use crate::node::{Node, Nodes};
use crate::pod::Shape;

/// Names a shape while any Pod has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ShapeId(usize);

/// How many shapes keep their candidates; beyond, all begin anew.
const MAX_CANDIDATES: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Shapes {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    by_hash: HashMap<u64, Vec<usize>>,
    hasher: RandomState,
    with_candidates: usize,
}

#[derive(Debug)]
struct Entry {
    shape: Arc<Shape>,
    hash: u64,
    pods: usize,
    candidates: Option<Candidates>,
    /// The version of the nodes, and why none fitted then.
    explanation: Option<(u64, Arc<str>)>,
}

impl Shapes {
    pub(crate) fn intern(&mut self, shape: Shape) -> ShapeId {
        let hash = self.hasher.hash_one(&shape.identity);
        let known = self.by_hash.entry(hash).or_default();
        for at in known.iter() {
            if let Some(entry) = &mut self.slots[*at]
                && entry.shape.identity == shape.identity
            {
                entry.pods += 1;
                return ShapeId(*at);
            }
        }
        let entry =
            Entry { shape: Arc::new(shape), hash, pods: 1, candidates: None, explanation: None };
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
        known.push(at);
        ShapeId(at)
    }

    /// One Pod less has it; whether it was the last.
    pub(crate) fn release(&mut self, id: ShapeId) -> bool {
        let entry = self.entry(id);
        entry.pods -= 1;
        if entry.pods > 0 {
            return false;
        }
        let hash = entry.hash;
        if self.slots[id.0].take().is_some_and(|entry| entry.candidates.is_some()) {
            self.with_candidates -= 1;
        }
        if let Some(known) = self.by_hash.get_mut(&hash) {
            known.retain(|at| *at != id.0);
            if known.is_empty() {
                self.by_hash.remove(&hash);
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
    pub(crate) fn get(&self, id: ShapeId) -> &Shape {
        &self.slots[id.0].as_ref().expect("the shape of a tracked Pod").shape
    }

    pub(crate) fn fits(&self, id: ShapeId, node: &Node) -> bool {
        filters::fits(self.get(id), node)
    }

    /// Puts a Pod of that shape on the best node that fits; returns its slot.
    pub(crate) fn place(&mut self, id: ShapeId, nodes: &mut Nodes) -> Option<usize> {
        if self.entry(id).candidates.is_none() {
            if self.with_candidates >= MAX_CANDIDATES {
                for entry in self.slots.iter_mut().flatten() {
                    entry.candidates = None;
                }
                self.with_candidates = 0;
            }
            self.with_candidates += 1;
        }
        let entry = self.entry(id);
        let candidates = entry.candidates.get_or_insert_with(|| Candidates::new(entry.hash, nodes));
        let at = candidates.best(&entry.shape, nodes)?;
        nodes.occupy(at, &entry.shape);
        candidates.settle(at, &entry.shape, nodes);
        Some(at)
    }

    /// Why no node fits, in upstream's words.
    pub(crate) fn explain(&mut self, id: ShapeId, nodes: &Nodes) -> Arc<str> {
        let version = nodes.version();
        let entry = self.entry(id);
        match &entry.explanation {
            Some((known, message)) if *known == version => message.clone(),
            _ => {
                let message: Arc<str> = explain(&entry.shape, nodes).into();
                entry.explanation = Some((version, message.clone()));
                message
            }
        }
    }
}

fn explain(shape: &Shape, nodes: &Nodes) -> String {
    let mut total = 0;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut hopeless = 0;
    for node in nodes.present() {
        total += 1;
        let found = filters::reasons(shape, node);
        hopeless += usize::from(found.iter().any(Reason::is_hopeless));
        for reason in found {
            *reasons.entry(reason.to_string()).or_default() += 1;
        }
    }
    if total == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut told: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
    told.sort();
    let told = told.join(", ");
    let head = format!("0/{total} nodes are available");
    if !shape.may_preempt() {
        return format!("{head}: {told}. preemption: not eligible due to preemptionPolicy=Never.");
    }
    let mut helps = Vec::new();
    if total > hopeless {
        let n = total - hopeless;
        helps.push(format!("{n} No preemption victims found for incoming pod"));
    }
    if hopeless > 0 {
        helps.push(format!("{hopeless} Preemption is not helpful for scheduling"));
    }
    helps.sort();
    format!("{head}: {told}. preemption: {head}: {}.", helps.join(", "))
}
