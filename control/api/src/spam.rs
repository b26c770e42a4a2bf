//! How many events a source records about one object: client-go's spam filter (`EventSourceObjectSpamFilter`), with its bounds.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

/// Events about an object at once…
const BURST: u32 = 25;
/// …and after those, one in this time.
const REFILL: Duration = Duration::from_secs(300);
/// Objects that are remembered at least, and half of those that are at most.
const REMEMBERED: usize = 4096;

/// Tells which events are too many.
#[derive(Default)]
pub struct SpamFilter {
    /// By hashes of who tells of what: those that were told of lately, and those before them.
    recent: HashMap<u64, Bucket>,
    earlier: HashMap<u64, Bucket>,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Events that may still be recorded.
    left: f64,
    since: Instant,
}

impl SpamFilter {
    /// Whether one more may be recorded of this source and object; it then counts as such.
    pub fn admits(&mut self, about: impl Hash, now: Instant) -> bool {
        let key = self.hasher.hash_one(about);
        let fresh = Bucket { left: BURST.into(), since: now };
        let mut bucket = match self.recent.get(&key) {
            Some(known) => *known,
            None => self.earlier.remove(&key).unwrap_or(fresh),
        };
        let refilled = now.duration_since(bucket.since).as_secs_f64() / REFILL.as_secs_f64();
        bucket = Bucket { left: (bucket.left + refilled).min(BURST.into()), since: now };
        let admitted = bucket.left >= 1.0;
        if admitted {
            bucket.left -= 1.0;
        }
        self.recent.insert(key, bucket);
        if self.recent.len() >= REMEMBERED {
            self.earlier = std::mem::take(&mut self.recent);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_in_five_minutes() {
        let (mut filter, start) = (SpamFilter::default(), Instant::now());
        let mut admitted = |key: u32, after: u64, count: u32| {
            let now = start + Duration::from_secs(after);
            (0..count).filter(|_| filter.admits(key, now)).count()
        };
        assert_eq!(admitted(1, 0, 100), 25);
        assert_eq!(admitted(2, 0, 1), 1, "another object has bounds of its own");
        assert_eq!(admitted(1, 299, 10), 0);
        assert_eq!(admitted(1, 301, 10), 1);
        assert_eq!(admitted(1, 301 + 600, 10), 2);
        assert_eq!(admitted(1, 301 + 600 + 86_400, 100), 25, "no more than at first");
    }

    #[test]
    fn those_told_of_lately_are_remembered_among_many() {
        let (mut filter, now) = (SpamFilter::default(), Instant::now());
        let mut admitted = 0;
        for other in 1..50_000 {
            filter.admits(other, now);
            if other % 1000 == 0 && filter.admits(0, now) {
                admitted += 1;
            }
        }
        assert_eq!(admitted, 25);
        assert!(filter.recent.len() + filter.earlier.len() <= 2 * REMEMBERED);
    }
}
