//! When it is a lost node's turn to have its Pods driven away (`pkg/controller/nodelifecycle` upstream: rate limits and
//! disruption modes of zones).
//!
//! Upstream keeps a token bucket for each zone. Here the bucket is what the nodes' taints tell: how many of the zone were given
//! one of late, and how many that wait for one come before this node, by name.

use std::time::Duration;

use coracle_api::{Cluster, Object, kinds};
use jiff::SignedDuration;

use super::{EVICTING, NodeLifecycle, UNREADY_PERIOD};
use crate::nodes::View;

/// What is to happen to a lost node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its Pods are driven away.
    Now,
    /// Others are before it; look again then.
    Later(Duration),
    /// Its zone is small and has lost most of its nodes: nothing new is begun.
    NotWhileSoManyAreLost,
    /// No node anywhere is ready: it is us who hear nobody, and there is nowhere to go.
    NotWhileAllAreLost,
}

/// Fewer lost nodes than this leave any zone healthy.
const FEW: usize = 3;

/// Whether it is the turn of a node that is not ready.
pub(super) fn turn(settings: &NodeLifecycle, cluster: &Cluster, node: &Object) -> Turn {
    let zone = zone(node);
    let (mut ready, mut lost, mut anywhere) = (0, 0, false);
    let (mut before, mut tainted) = (0, Vec::new());
    let mut has_it = false;
    for other in cluster.list(&kinds::NODE) {
        let Ok(view) = other.decode::<View>() else { continue };
        let is_ready = view.ready() == "True";
        anywhere |= is_ready;
        if self::zone(other) != zone {
            continue;
        }
        if is_ready {
            ready += 1;
            continue;
        }
        lost += 1;
        match view.evicting().find(|taint| EVICTING.contains(&taint.key.as_str())) {
            Some(taint) => {
                has_it |= other.meta.name == node.meta.name;
                tainted.extend(taint.time_added);
            }
            None => before += usize::from(other.meta.name < node.meta.name),
        }
    }
    if !anywhere {
        return Turn::NotWhileAllAreLost;
    }
    if has_it {
        return Turn::Now;
    }
    let share = lost as f64 / (lost + ready) as f64;
    let is_unhealthy = ready > 0 && lost >= FEW && share >= settings.unhealthy_zone;
    let rate = match is_unhealthy {
        // A zone that is lost as a whole is left at the usual rate: others are there.
        false => settings.eviction_rate,
        true if lost + ready > settings.large_zone => settings.secondary_eviction_rate,
        true => 0.0,
    };
    if rate <= 0.0 {
        return Turn::NotWhileSoManyAreLost;
    }
    // One in so many seconds, or so many in one second.
    let window = (1.0 / rate).max(1.0);
    let at_once = (rate * window).round().max(1.0) as usize;
    let since = SignedDuration::try_from_secs_f64(window).unwrap_or(SignedDuration::MAX);
    let recent = tainted.iter().filter(|at| cluster.now.duration_since(**at) < since).count();
    if recent + before < at_once {
        return Turn::Now;
    }
    Turn::Later(Duration::from_secs_f64(window.min(UNREADY_PERIOD.as_secs_f64())))
}

/// Region and zone.
fn zone(node: &Object) -> [&str; 2] {
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"]
        .map(|label| node.meta.labels.get(label).map_or("", String::as_str))
}
