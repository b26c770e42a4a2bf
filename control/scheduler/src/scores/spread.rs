//! Default spreading: Pods of one controller go to different nodes.

use super::MAX;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn score(shape: &Shape, node: &Node) -> i64 {
    match shape.group {
        Some(group) => MAX / (1 + i64::from(node.group(group))),
        None => 0,
    }
}
