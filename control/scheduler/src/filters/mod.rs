//! Which nodes may run a Pod. Each filter names what stands against a node; the first that does ends the row.
//!
//! These look at one node alone. What depends on other Pods, spreading and affinity between them, comes after: [`crate::coupled`].

mod host_ports;
mod node_affinity;
mod node_name;
mod node_ready;
mod resource_fit;
mod taints;
mod unschedulable;
mod volumes;

use std::fmt;

pub(crate) use node_affinity::affinity_allows;
pub(crate) use taints::untolerated;

use crate::node::{Node, Taint};
use crate::pod::Shape;

/// Adds what stands against running the Pod on the node.
type Filter = for<'a> fn(&'a Shape, &'a Node, &mut Vec<Reason<'a>>);

/// In upstream's order. Cheap ones and those that no other Pod's end could change come first.
const FILTERS: [Filter; 8] = [
    // Cordoned nodes take no more Pods.
    unschedulable::filter,
    // Affinity to one node's name, as Pods of a DaemonSet have.
    node_name::filter,
    // Taints keep Pods off that do not tolerate them.
    taints::filter,
    // A node that is not ready may not be tainted yet.
    node_ready::filter,
    // nodeSelector and required node affinity.
    node_affinity::filter,
    // Where the volumes of its claims are.
    volumes::filter,
    // Two Pods cannot have one port of the node.
    host_ports::filter,
    // CPU, memory, storage, extended resources and the number of Pods.
    resource_fit::filter,
];

/// Why a node does not fit, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason<'a> {
    Unschedulable,
    NodeName,
    Tainted(&'a Taint),
    NotReady,
    Affinity,
    /// No node can do, for the sake of a claim.
    Claim(&'a str),
    /// Another Pod has a claim that is for one alone.
    ClaimInUse,
    VolumeElsewhere,
    NoVolume,
    Ports,
    TooManyPods,
    /// Too little of a resource; `ever` if even the empty node has too little.
    Insufficient {
        resource: &'a str,
        ever: bool,
    },
    /// A label that the Pod is to be spread over is missing; see [`crate::coupled`] for this and what follows.
    NoTopology,
    Skewed,
    NotNear,
    TooNear,
    KeptAway,
}

impl Reason<'_> {
    /// Other Pods' going would not help.
    pub(crate) fn is_hopeless(&self) -> bool {
        match self {
            Reason::Ports | Reason::TooManyPods | Reason::ClaimInUse => false,
            Reason::Skewed | Reason::TooNear | Reason::KeptAway => false,
            Reason::Insufficient { ever, .. } => *ever,
            _ => true,
        }
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unschedulable => f.write_str("node(s) were unschedulable"),
            Reason::NodeName => f.write_str("node(s) didn't match the requested node name"),
            Reason::Tainted(taint) => {
                write!(f, "node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value)
            }
            Reason::NotReady => f.write_str("node(s) were not ready"),
            Reason::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Reason::Claim(why) => f.write_str(why),
            Reason::ClaimInUse => f.write_str(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            ),
            Reason::VolumeElsewhere => {
                f.write_str("node(s) didn't match PersistentVolume's node affinity")
            }
            Reason::NoVolume => {
                f.write_str("node(s) didn't find available persistent volumes to bind")
            }
            Reason::Ports => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Reason::TooManyPods => f.write_str("Too many pods"),
            Reason::Insufficient { resource, .. } => write!(f, "Insufficient {resource}"),
            Reason::NoTopology => f.write_str(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ),
            Reason::Skewed => f.write_str("node(s) didn't match pod topology spread constraints"),
            Reason::NotNear => f.write_str("node(s) didn't match pod affinity rules"),
            Reason::TooNear => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Reason::KeptAway => {
                f.write_str("node(s) didn't satisfy existing pods anti-affinity rules")
            }
        }
    }
}

/// What stands against a node, of the first filter that objects.
pub(crate) fn reasons<'a>(shape: &'a Shape, node: &'a Node) -> Vec<Reason<'a>> {
    let mut reasons = Vec::new();
    for filter in FILTERS {
        filter(shape, node, &mut reasons);
        if !reasons.is_empty() {
            break;
        }
    }
    reasons
}

/// Nothing stands against it.
pub(crate) fn fits(shape: &Shape, node: &Node) -> bool {
    reasons(shape, node).is_empty()
}
