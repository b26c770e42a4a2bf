//! CPU and memory, as they would be with the Pod on the node.

use super::MAX;
use crate::node::Node;
use crate::pod::Shape;

/// Shares of CPU and memory used, of [`MAX`].
fn shares(shape: &Shape, node: &Node) -> (i64, i64) {
    let share = |offered: i64, used: i64| match offered {
        0 => MAX,
        _ => (i128::from(used) * i128::from(MAX) / i128::from(offered)).clamp(0, MAX.into()) as i64,
    };
    (
        share(node.offers.cpu, node.usual.0 + shape.usual.0),
        share(node.offers.memory, node.usual.1 + shape.usual.1),
    )
}

pub(super) fn least(shape: &Shape, node: &Node) -> i64 {
    let (cpu, memory) = shares(shape, node);
    MAX - (cpu + memory) / 2
}

pub(super) fn balanced(shape: &Shape, node: &Node) -> i64 {
    let (cpu, memory) = shares(shape, node);
    // The standard deviation of two numbers is half their distance.
    MAX - (cpu - memory).abs() / 2
}
