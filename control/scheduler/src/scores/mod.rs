//! Which of the nodes that fit is best: a weighted sum of scores from 0 to [`MAX`], with upstream's weights.
//!
//! A score looks at one node alone, never at the others: so a Pod placed on one node changes no other node's score, which
//! is what lets [`crate::candidates`] keep them in order. Scores that compare nodes are in [`crate::coupled`].

mod allocation;
mod image_locality;
mod node_affinity;
mod spread;
mod taints;

use crate::node::Node;
use crate::pod::Shape;

/// The best score.
pub(crate) const MAX: i64 = 100_000;

type Score = fn(&Shape, &Node) -> i64;

const SCORES: [(Score, i64); 6] = [
    // Few PreferNoSchedule taints that the Pod does not tolerate.
    (taints::score, 3),
    // Preferred node affinity.
    (node_affinity::score, 2),
    // Few Pods of the same controller.
    (spread::score, 2),
    // Much CPU and memory left.
    (allocation::least, 1),
    // CPU and memory used in like shares.
    (allocation::balanced, 1),
    // Images that are there already.
    (image_locality::score, 1),
];

/// How good a node is for a Pod.
pub(crate) fn score(shape: &Shape, node: &Node) -> i64 {
    SCORES.iter().map(|(score, weight)| score(shape, node) * weight).sum()
}
