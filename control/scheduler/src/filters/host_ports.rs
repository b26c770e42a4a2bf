//! `hostPort`: by port, protocol and address.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    if shape.ports.is_empty() {
        return;
    }
    let kept = node.nominees(shape.priority).flat_map(|nominee| &nominee.ports);
    let mut taken = node.ports.iter().chain(kept);
    if taken.any(|taken| shape.ports.iter().any(|port| taken.conflicts(port))) {
        reasons.push(Reason::Ports);
    }
}
