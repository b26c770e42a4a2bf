//! Required affinity to nodes by `metadata.name`, and nothing else: the Pod of a DaemonSet has one node it can be on.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    let Some(term) = shape.affinity().by_name() else { return };
    if !term.matches(&node.name, node.labels()) {
        reasons.push(Reason::NodeName);
    }
}
