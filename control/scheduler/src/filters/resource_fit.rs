//! Requests against what the node has left; every resource that is short is named. Room that is kept for others is not left.

use std::borrow::Cow;

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    let mut pods = node.pods;
    let mut used = Cow::Borrowed(&node.used);
    for nominee in node.nominees(shape.priority) {
        pods += 1;
        used.to_mut().add(&nominee.requests);
    }
    if pods + 1 > node.max_pods {
        reasons.push(Reason::TooManyPods);
    }
    let (wanted, offers) = (&shape.requests, &node.offers);
    let mut check = |resource, wanted: i64, offered: i64, used: i64| {
        if wanted > 0 && wanted > offered - used {
            reasons.push(Reason::Insufficient { resource, ever: wanted > offered });
        }
    };
    check("cpu", wanted.cpu, offers.cpu, used.cpu);
    check("memory", wanted.memory, offers.memory, used.memory);
    check("ephemeral-storage", wanted.storage, offers.storage, used.storage);
    for (name, amount) in &wanted.extended {
        check(name, *amount, offers.extended(name), used.extended(name));
    }
}
