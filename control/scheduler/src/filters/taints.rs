//! Taints `NoSchedule` and `NoExecute`.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    let repels = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    let tolerated = |key: &str, value: &str, effect: &str| {
        shape.tolerations().iter().any(|t| t.tolerates(key, value, effect))
    };
    let found =
        node.taints.iter().find(|t| repels(&t.effect) && !tolerated(&t.key, &t.value, &t.effect));
    if let Some(taint) = found {
        reasons.push(Reason::Tainted(taint));
    }
}
