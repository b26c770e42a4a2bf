//! Taints `NoSchedule` and `NoExecute`.

use super::Reason;
use crate::node::{Node, Taint};
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    if let Some(taint) = untolerated(shape, node) {
        reasons.push(Reason::Tainted(taint));
    }
}

/// The first taint that keeps the Pod off.
pub(crate) fn untolerated<'a>(shape: &Shape, node: &'a Node) -> Option<&'a Taint> {
    let repels = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    let tolerated = |key: &str, value: &str, effect: &str| {
        shape.tolerations().iter().any(|t| t.tolerates(key, value, effect))
    };
    node.taints.iter().find(|t| repels(&t.effect) && !tolerated(&t.key, &t.value, &t.effect))
}
