//! The nodes that fit a shape, best first, so that the next Pod of the shape need not look at all of them.
//!
//! A heap of scores that may be out of date: whatever comes up is filtered and scored anew. That suffices, because
//! Pods being placed only make nodes worse; nodes that got better are put in again. Nodes are looked at in portions, the first
//! as large as upstream's `percentageOfNodesToScore`, so that a shape seen once does not pay for a thousand nodes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::node::Nodes;
use crate::pod::Shape;
use crate::{filters, scores};

#[derive(Debug)]
pub(crate) struct Candidates {
    heap: BinaryHeap<Candidate>,
    /// The stamp of each slot's one valid entry; 0 if it has none.
    stamps: Vec<u32>,
    next_stamp: u32,
    /// Slots are visited from a start of this shape's own, so that shapes do not all begin with the same nodes.
    start: usize,
    visited: usize,
    slots: usize,
    /// Improvements of nodes up to here are taken in.
    mark: u64,
}

/// Ordered by score, then in an order that spreads equals.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    score: i64,
    tie: Reverse<u64>,
    at: usize,
    stamp: u32,
}

/// How many nodes each further Pod of a shape adds to those it chooses from.
const PORTION: usize = 64;

impl Candidates {
    pub(crate) fn new(seed: u64, nodes: &Nodes) -> Self {
        let slots = nodes.len();
        Self {
            heap: BinaryHeap::new(),
            stamps: vec![0; slots],
            next_stamp: 0,
            start: if slots == 0 { 0 } else { (seed % slots as u64) as usize },
            visited: 0,
            slots,
            mark: nodes.mark(),
        }
    }

    /// The slot of the best node that fits.
    pub(crate) fn best(&mut self, shape: &Shape, nodes: &Nodes) -> Option<usize> {
        match nodes.improved_since(self.mark) {
            Some(improved) => {
                for at in improved {
                    self.enter(*at, shape, nodes);
                }
                self.mark = nodes.mark();
            }
            None => *self = Self::new(self.start as u64, nodes),
        }
        let wanted = if self.visited == 0 { sample(self.slots) } else { PORTION };
        self.visit(wanted, shape, nodes);
        loop {
            while let Some(top) = self.heap.pop() {
                if self.stamps[top.at] != top.stamp {
                    continue;
                }
                self.stamps[top.at] = 0;
                let node = nodes.get(top.at);
                if !node.is_present() || !filters::fits(shape, node) {
                    continue;
                }
                let score = scores::score(shape, node);
                if score >= top.score || self.heap.peek().is_none_or(|next| score >= next.score) {
                    return Some(top.at);
                }
                self.push(top.at, score);
            }
            if self.visited >= self.slots {
                return None;
            }
            self.visit(sample(self.slots), shape, nodes);
        }
    }

    /// Puts a node back after a Pod was placed on it.
    pub(crate) fn settle(&mut self, at: usize, shape: &Shape, nodes: &Nodes) {
        self.enter(at, shape, nodes);
    }

    /// Looks at further slots until `wanted` fit.
    fn visit(&mut self, mut wanted: usize, shape: &Shape, nodes: &Nodes) {
        while wanted > 0 && self.visited < self.slots {
            let at = (self.start + self.visited) % self.slots;
            self.visited += 1;
            if self.enter(at, shape, nodes) {
                wanted -= 1;
            }
        }
    }

    fn enter(&mut self, at: usize, shape: &Shape, nodes: &Nodes) -> bool {
        let node = nodes.get(at);
        let fits = node.is_present() && filters::fits(shape, node);
        if fits {
            self.push(at, scores::score(shape, node));
        }
        fits
    }

    fn push(&mut self, at: usize, score: i64) {
        if at >= self.stamps.len() {
            self.stamps.resize(at + 1, 0);
        }
        self.next_stamp = self.next_stamp.wrapping_add(1).max(1);
        self.stamps[at] = self.next_stamp;
        let tie =
            (at as u64 ^ self.start as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        self.heap.push(Candidate { score, tie: Reverse(tie), at, stamp: self.next_stamp });
    }
}

/// Upstream's `numFeasibleNodesToFind`: all of a hundred, then a share that shrinks to a twentieth.
pub(crate) fn sample(nodes: usize) -> usize {
    if nodes <= 100 {
        return nodes;
    }
    let percentage = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percentage / 100).max(100)
}
