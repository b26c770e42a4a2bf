//! Volumes of the Pod's claims: those that it has, and those that it would be given on the node.

use super::Reason;
use crate::node::Node;
use crate::pod::Shape;

pub(super) fn filter<'a>(shape: &'a Shape, node: &'a Node, reasons: &mut Vec<Reason<'a>>) {
    let needs = shape.needs();
    if let Some(why) = &needs.blocked {
        reasons.push(Reason::Claim(why));
        return;
    }
    if needs.in_use {
        reasons.push(Reason::ClaimInUse);
    }
    if !needs.reach(node) {
        reasons.push(Reason::VolumeElsewhere);
    }
    if needs.choose(node).is_none() {
        reasons.push(Reason::NoVolume);
    }
}
