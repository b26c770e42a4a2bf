//! `nodeSelector`, all of it, and required node affinity, any term of it.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    if !affinity_allows(shape, node) {
        reasons.push(Reason::Affinity);
    }
}

/// The node is one of those that the Pod allows.
pub(crate) fn affinity_allows(shape: &Shape, node: &Node) -> bool {
    let labels = node.labels();
    let selected = shape.node_selector().iter().all(|(key, value)| labels.get(key) == Some(value));
    selected && shape.affinity().allows(&node.name, labels)
}
