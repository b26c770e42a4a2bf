//! `nodeSelector`, all of it, and required node affinity, any term of it.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    let labels = node.labels();
    let selected = shape.node_selector().iter().all(|(key, value)| labels.get(key) == Some(value));
    if !selected || !shape.affinity().allows(&node.name, labels) {
        reasons.push(Reason::Affinity);
    }
}
