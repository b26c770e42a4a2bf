//! Preferred node affinity: the weight of the terms that match, of all.

use super::MAX;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn score(shape: &Shape, node: &Node) -> i64 {
    let terms = shape.affinity().preferred();
    let total: i64 = terms.iter().map(|term| i64::from(term.weight)).sum();
    if total <= 0 {
        return 0;
    }
    let matching = terms.iter().filter(|term| term.preference.matches(&node.name, node.labels()));
    matching.map(|term| i64::from(term.weight)).sum::<i64>() * MAX / total
}
