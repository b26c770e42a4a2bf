//! Taints `PreferNoSchedule`: the fewer not tolerated, the better.

use super::MAX;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn score(shape: &Shape, node: &Node) -> i64 {
    let tolerated = |key: &str, value: &str, effect: &str| {
        shape.tolerations().iter().any(|t| t.tolerates(key, value, effect))
    };
    let taints = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    let disliked = taints.filter(|t| !tolerated(&t.key, &t.value, &t.effect)).count();
    MAX / (1 + disliked as i64)
}
