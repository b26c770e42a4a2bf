//! `spec.unschedulable` of a Node.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    let tolerated = || {
        shape
            .tolerations()
            .iter()
            .any(|t| t.tolerates("node.kubernetes.io/unschedulable", "", "NoSchedule"))
    };
    if node.unschedulable && !tolerated() {
        reasons.push(Reason::Unschedulable);
    }
}
