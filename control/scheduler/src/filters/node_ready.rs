//! Condition Ready of a Node, for the moment before its taint says so. Who tolerates the taint may run there.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    let tolerated = || {
        shape
            .tolerations()
            .iter()
            .any(|t| t.tolerates("node.kubernetes.io/not-ready", "", "NoSchedule"))
    };
    if !node.ready && !tolerated() {
        reasons.push(Reason::NotReady);
    }
}
