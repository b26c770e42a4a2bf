//! How long a failed Pod of a DaemonSet stays before another takes its place: the first goes at once, one that fails again
//! soon after waits for a second, the next for two, up to fifteen minutes (upstream's `failedPodsBackoff`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::plan::Memory;
use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(1);
const LONGEST: SignedDuration = SignedDuration::from_mins(15);

/// By node: when a failed Pod was last let go, and how long the next one stays. Nodes without failures have no entry.
#[derive(Debug, Clone, Default)]
pub(super) struct BackOffs(BTreeMap<String, (Timestamp, SignedDuration)>);

impl BackOffs {
    /// A Pod on a node has failed: how long it stays yet, if it does. Otherwise it is let go now.
    pub(super) fn fails(&mut self, node: &str, now: Timestamp) -> Option<Duration> {
        let known = self.0.get(node).filter(|known| !is_over(known, now));
        let delay = match known {
            None => FIRST,
            Some((at, delay)) => {
                let left = *delay - now.duration_since(*at);
                if left.is_positive() {
                    return Some(Duration::try_from(left).unwrap_or_default());
                }
                (*delay * 2).min(LONGEST)
            }
        };
        self.0.insert(node.to_owned(), (now, delay));
        None
    }

    /// What is to be remembered, if anything.
    pub(super) fn keep(mut self, now: Timestamp) -> Option<Memory> {
        self.0.retain(|_, known| !is_over(known, now));
        (!self.0.is_empty()).then(|| Arc::new(self) as Memory)
    }
}

/// Failures that long ago count no more.
fn is_over((at, _): &(Timestamp, SignedDuration), now: Timestamp) -> bool {
    now.duration_since(*at) > LONGEST * 2
}
