//! Requests against what the node has left; every resource that is short is named.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    if node.pods + 1 > node.max_pods {
        reasons.push(Reason::TooManyPods);
    }
    let (wanted, offers, used) = (&shape.requests, &node.offers, &node.used);
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
