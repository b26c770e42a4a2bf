//! `hostPort`: by port, protocol and address.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    if shape.ports.iter().any(|port| node.ports.iter().any(|taken| taken.conflicts(port))) {
        reasons.push(Reason::Ports);
    }
}
