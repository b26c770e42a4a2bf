//! Default spreading: Pods of one controller go to different nodes, unless the Pod says how they are to be spread.

use super::MAX;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn score(shape: &Shape, node: &Node) -> i64 {
    match shape.group {
        Some(group) if shape.relations.spread.is_empty() => {
            MAX / (1 + i64::from(node.group(group)))
        }
        _ => 0,
    }
}
