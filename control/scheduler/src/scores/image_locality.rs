//! Images that the node's status lists: nothing below 23 MB counts, nothing above 1 GB counts more, as upstream has it.

use super::MAX;
use crate::node::Node;
use crate::pod::Shape;

const FROM: i64 = 23 << 20;
const TO: i64 = 1000 << 20;

pub(super) fn score(shape: &Shape, node: &Node) -> i64 {
    if node.images.is_empty() {
        return 0;
    }
    let known = shape.images.iter().filter_map(|image| node.images.get(image)).sum::<i64>();
    let most = TO * shape.images.len().max(1) as i64;
    (known.clamp(FROM, most) - FROM) * 1000 / (most - FROM) * (MAX / 1000)
}
