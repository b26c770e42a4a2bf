//! Pod ranges: a Node without one gets a part of the cluster's (`spec.podCIDR`), as upstream's node IPAM controller does it,
//! but of a size that follows from how many Pods the node takes.
//!
//! All nodes are one key: two plans at once would give one range away twice.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan, Quantity, kinds};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::BURST;

/// How many Pods a Node takes that does not say.
const USUAL_PODS: u64 = 110;
/// The smallest and the largest range of a node, as prefix lengths: agents work with no others.
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=28;

/// Plans the Pod ranges of Nodes.
#[derive(Debug, Clone, Copy)]
pub struct NodeIpam {
    /// The cluster's Pod range: its first address and its prefix length.
    pub range: (Ipv4Addr, u8),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    capacity: Capacity,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Capacity {
    pods: Value,
}

impl View {
    fn of(node: &Object) -> Cow<'_, View> {
        node.decode().unwrap_or_else(|_| Cow::Owned(View::default()))
    }

    /// First and last address of the range that it has.
    fn range(&self) -> Option<(u64, u64)> {
        let (address, prefix) = self.spec.pod_cidr.split_once('/')?;
        let (address, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
        let (first, size) = (u64::from(u32::from(address)), size(prefix.min(32)));
        Some((first - first % size, first - first % size + size - 1))
    }

    /// Prefix length of the range that it needs.
    fn wanted(&self) -> u8 {
        let pods = Quantity::of(&self.status.capacity.pods).map(|pods| pods.value());
        prefix_for(pods.and_then(|pods| pods.try_into().ok()).unwrap_or(USUAL_PODS))
    }
}

fn size(prefix: u8) -> u64 {
    1 << (32 - prefix)
}

/// Prefix length of the smallest range with addresses for so many Pods. Agents keep the first /24 of a range to themselves, or
/// the first quarter of a small one, and the last address.
fn prefix_for(pods: u64) -> u8 {
    let holds = |prefix: &u8| size(*prefix) - (size(*prefix) / 4).min(256) > pods;
    PREFIXES.rev().find(holds).unwrap_or(*PREFIXES.start())
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        // One that goes away may make room for another.
        let matters = object.kind.resource == kinds::NODE.resource
            && (View::of(object).spec.pod_cidr.is_empty()
                || cluster.get(&kinds::NODE, "", &object.meta.name).is_none());
        if matters { vec![Key::new("", "nodes")] } else { Vec::new() }
    }

    fn reconcile(&self, cluster: &Cluster, _: &Key) -> Plan {
        let mut plan = Plan::none();
        let nodes = cluster.list(&kinds::NODE).map(|node| (node, View::of(node)));
        let (given, without): (Vec<_>, Vec<_>) =
            nodes.partition(|(_, view)| !view.spec.pod_cidr.is_empty());
        let mut used: Vec<(u64, u64)> = given.iter().filter_map(|(_, view)| view.range()).collect();
        used.sort_unstable();
        let mut is_told = false;
        for (node, view) in without {
            if plan.writes.len() >= BURST {
                plan.requeue(std::time::Duration::ZERO);
                break;
            }
            if let Some((first, prefix)) = self.free(&used, view.wanted()) {
                let range = format!("{first}/{prefix}");
                plan.patch(node, json!({"spec": {"podCIDR": range, "podCIDRs": [range]}}));
                let first = u64::from(u32::from(first));
                let at = used.partition_point(|other| other.0 < first);
                used.insert(at, (first, first + size(prefix) - 1));
            } else if !std::mem::replace(&mut is_told, true) {
                let message = format!("Node {} status is now: CIDRNotAvailable", node.meta.name);
                plan.warning(node, "CIDRNotAvailable", message);
            }
        }
        plan
    }
}

/// Another node that has addresses of a range which `node` is to have, if there is one; nobody has those of what is no range.
pub fn owner_of_range<'a>(cluster: &'a Cluster, range: &str, node: &str) -> Option<&'a str> {
    let asked = View { spec: Spec { pod_cidr: range.to_owned() }, status: Status::default() };
    let (first, last) = asked.range()?;
    let has =
        |other: &Object| View::of(other).range().is_some_and(|(a, b)| a <= last && first <= b);
    let mut others = cluster.list(&kinds::NODE).filter(|other| other.meta.name != node);
    others.find(|other| has(other)).map(|other| other.meta.name.as_str())
}

impl NodeIpam {
    /// The first range of that size that overlaps none in use, which are in order.
    fn free(&self, used: &[(u64, u64)], prefix: u8) -> Option<(Ipv4Addr, u8)> {
        let (address, cluster) = self.range;
        let prefix = prefix.max(cluster);
        let start = u64::from(u32::from(address));
        let end = start + size(cluster);
        let mut first = start;
        for (taken, last) in used {
            if *last < first {
                continue;
            }
            if *taken >= first + size(prefix) {
                break;
            }
            first = (last + 1).next_multiple_of(size(prefix));
        }
        let fits = first + size(prefix) <= end;
        fits.then(|| (Ipv4Addr::from(first as u32), prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_their_nodes_take() {
        for (pods, prefix) in [
            (0, 28),
            (11, 28),
            (12, 27),
            (110, 24),
            (1_000, 21),
            (10_000, 18),
            (50_000, 16),
            (1_000_000, 16),
        ] {
            assert_eq!(prefix_for(pods), prefix, "{pods}");
        }
    }

    #[test]
    fn what_nodes_take_is_a_quantity() {
        for (pods, prefix) in [
            (json!("10k"), 18),
            (json!("11000"), 18),
            (json!(1000), 21),
            (json!("110"), 24),
            (json!("many"), 24),
            (Value::Null, 24),
        ] {
            let capacity = Capacity { pods: pods.clone() };
            let view = View { status: Status { capacity }, ..View::default() };
            assert_eq!(view.wanted(), prefix, "{pods}");
        }
    }

    #[test]
    fn free_ranges_are_the_first_that_fit() {
        let ipam = NodeIpam { range: (Ipv4Addr::new(10, 8, 0, 0), 22) };
        let used = |list: &[&str]| -> Vec<(u64, u64)> {
            let ranges = list.iter().map(|text| View {
                spec: Spec { pod_cidr: (*text).to_owned() },
                status: Status::default(),
            });
            ranges.filter_map(|view| view.range()).collect()
        };
        for (taken, prefix, expected) in [
            (&[][..], 24, Some("10.8.0.0/24")),
            (&["10.8.0.0/24"], 24, Some("10.8.1.0/24")),
            (&["10.8.0.0/28"], 24, Some("10.8.1.0/24")),
            (&["10.8.0.0/28"], 28, Some("10.8.0.16/28")),
            (&["10.8.0.0/24", "10.8.2.0/24"], 24, Some("10.8.1.0/24")),
            (&["10.8.0.0/24", "10.8.2.0/24"], 23, None),
            (&["10.8.1.0/24"], 23, Some("10.8.2.0/23")),
            // Others' ranges, one around ours among them.
            (&["10.0.0.0/24", "10.9.0.0/16"], 22, Some("10.8.0.0/22")),
            (&["10.0.0.0/8"], 28, None),
            // No node gets more than there is.
            (&[], 16, Some("10.8.0.0/22")),
        ] {
            let free = ipam.free(&used(taken), prefix);
            let free = free.map(|(first, prefix)| format!("{first}/{prefix}"));
            assert_eq!(free.as_deref(), expected, "{taken:?} {prefix}");
        }
    }
}
