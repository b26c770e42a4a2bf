//! What a container's requests amount to. Counting costs a few atomic additions per request; a
//! container that was never asked anything has no counters at all.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use coracle_sandbox::{HttpSpec, Usage};
use tokio::sync::Semaphore;

use super::place::PATIENCE;
use super::reuse::Idle;
use crate::container::Stamp;
use crate::cpu::Bucket;

/// Requests of one container that run at once, unless it says otherwise.
const MOST_ACTIVE: u32 = 256;
/// No container may have more than this.
const EVER_ACTIVE: u32 = 100_000;

/// Upper bounds of the histogram's buckets, in microseconds; a last one takes the rest.
pub(crate) const BUCKETS: [u64; 7] =
    [1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000];
/// No request takes longer, in microseconds: a day.
const LONGEST: u64 = 86_400_000_000;
/// What answers are told apart by: `2xx` and so on, and those whose client left before the answer.
pub(crate) const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "aborted"];

/// So many requests of one container may be refused at once, and again in each second.
const REFUSALS: u64 = 1000;
/// Nobody waits longer for a refusal than for room. With as many connections as one container may have, each refused once in
/// this time, it is the rate above that holds.
const LATEST: Duration = PATIENCE;

/// A container's requests.
pub(crate) struct Traffic {
    /// Places for guests.
    pub(super) room: Semaphore,
    /// Requests that wait for a place.
    pub(super) waiting: AtomicUsize,
    /// Guests at work, also after their answer has left.
    pub(super) guests: AtomicUsize,
    /// Requests whose answer has not left yet.
    pub(super) open: AtomicUsize,
    pub(super) connections: AtomicUsize,
    pub(super) last: Stamp,
    pub(crate) idle: Idle,
    counts: OnceLock<Box<Counts>>,
}

/// What was counted since the start.
#[derive(Default)]
pub(crate) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
    refusals: Bucket,
    pub(super) traps: AtomicU64,
    pub(super) microseconds: AtomicU64,
    /// When the requests began that are being served, all added up; it wraps around.
    begun: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    classes: [AtomicU64; CLASSES.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
}

impl Traffic {
    pub(crate) fn new(spec: &HttpSpec) -> Traffic {
        let most = spec.max_active.unwrap_or(MOST_ACTIVE).clamp(1, EVER_ACTIVE);
        Traffic {
            room: Semaphore::new(most as usize),
            waiting: AtomicUsize::new(0),
            guests: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            last: Stamp::default(),
            idle: Idle::default(),
            counts: OnceLock::new(),
        }
    }

    /// Whether nobody is being served and nothing is left to do.
    pub(super) fn is_quiet(&self) -> bool {
        self.guests.load(Relaxed) == 0 && self.open.load(Relaxed) == 0
    }

    pub(super) fn counts(&self) -> &Counts {
        self.counts.get_or_init(Box::default)
    }

    /// None if there was never a request.
    pub(crate) fn counted(&self) -> Option<&Counts> {
        self.counts.get().map(|counts| &**counts)
    }

    /// Requests that wait for a place now.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed) as u64
    }

    /// Connections that were accepted since the start.
    pub(crate) fn accepted(&self) -> u64 {
        self.counted().map_or(0, |counts| counts.accepted.load(Relaxed))
    }

    /// Connections that are open now.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Relaxed) as u64
    }

    pub(crate) fn usage(&self) -> Usage {
        let Some(counts) = self.counted() else { return Usage::default() };
        let (finished, open) = (counts.microseconds.load(Relaxed), self.open.load(Relaxed) as u64);
        let serving =
            open.wrapping_mul(micros(Instant::now())).wrapping_sub(counts.begun.load(Relaxed));
        // Requests that come and go meanwhile may be in one of the numbers and not in the other.
        let serving = serving.min(open.saturating_mul(LONGEST));
        Usage {
            requests: counts.requests.load(Relaxed),
            failed_requests: counts.failed.load(Relaxed),
            refused_requests: counts.refused.load(Relaxed),
            active_requests: open,
            request_microseconds: finished,
            busy_microseconds: finished + serving,
            instances: self.guests.load(Relaxed) as u64 + self.idle.count() as u64,
            traps: counts.traps.load(Relaxed),
            ..Usage::default()
        }
    }
}

impl Counts {
    /// A request is refused for want of room; how long its client waits for the answer. Being refused must not pay: who asks
    /// again at once, over thousands of connections, would keep the host busy with refusals alone.
    pub(super) fn refuse(&self) -> Duration {
        self.refused.fetch_add(1, Relaxed);
        const SECOND: u64 = 1_000_000_000;
        Duration::from_nanos(self.refusals.charge(SECOND / REFUSALS, 1000, SECOND)).min(LATEST)
    }

    /// A request begins.
    pub(super) fn begin(&self, now: Instant) {
        self.requests.fetch_add(1, Relaxed);
        self.begun.fetch_add(micros(now), Relaxed);
    }

    /// A request that began then is over. A status of 0 is one that was never answered.
    pub(super) fn finish(&self, status: u16, begun: Instant, took: Duration) {
        let micros = took.as_micros() as u64;
        self.microseconds.fetch_add(micros, Relaxed);
        self.begun.fetch_sub(self::micros(begun), Relaxed);
        let class = match status {
            100..=599 => usize::from(status / 100) - 1,
            _ => CLASSES.len() - 1,
        };
        self.classes[class].fetch_add(1, Relaxed);
        let bucket = BUCKETS.iter().position(|most| micros <= *most).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
    }

    /// Finished requests by [`CLASSES`].
    pub(crate) fn by_class(&self) -> [u64; CLASSES.len()] {
        std::array::from_fn(|n| self.classes[n].load(Relaxed))
    }

    /// Finished requests by [`BUCKETS`], and the rest.
    pub(crate) fn by_time(&self) -> [u64; BUCKETS.len() + 1] {
        std::array::from_fn(|n| self.buckets[n].load(Relaxed))
    }

    /// Bytes of bodies, in and out.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }
}

/// Microseconds on a clock of this process's.
fn micros(at: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    at.saturating_duration_since(*START).as_micros() as u64
}

/// One more, for as long as this lives.
pub(super) struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    pub(super) fn one(count: &'a AtomicUsize) -> Count<'a> {
        count.fetch_add(1, Relaxed);
        Count(count)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refusals_are_late_ones() {
        let counts = Counts::default();
        let first: Vec<_> = (0..REFUSALS / 2).map(|_| counts.refuse()).collect();
        assert!(first.iter().all(Duration::is_zero), "{first:?}");
        let last = (0..20 * REFUSALS).map(|_| counts.refuse()).last();
        assert_eq!(last, Some(LATEST));
        assert_eq!(counts.refused.load(Relaxed), REFUSALS / 2 + 20 * REFUSALS);
    }
}
