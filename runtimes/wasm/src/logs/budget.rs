//! How fast a log may be written: a token bucket, for one container's and for all logs of this host together, so that many
//! floods do not amount to one that the disk cannot take.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes a second of one container's log.
const RATE: u64 = 4 << 20;
/// Bytes a second of all.
const RATE_OF_ALL: u64 = 64 << 20;
/// What was not used can be saved up for this long.
const BURST: u64 = 1_000_000_000;
/// What an entry costs besides its text.
pub(super) const ENTRY: usize = 64;

static ALL: Budget = Budget(AtomicU64::new(0));
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When what was written will be paid for, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicU64);

impl Budget {
    /// So much was written.
    pub(super) fn charge(&self, bytes: usize) {
        self.pay(bytes, RATE);
        ALL.pay(bytes, RATE_OF_ALL);
    }

    /// How long nothing more may be written.
    pub(super) fn debt(&self) -> Option<Duration> {
        let paid = self.0.load(Relaxed).max(ALL.0.load(Relaxed));
        let debt = if paid == 0 { 0 } else { paid.saturating_sub(now()) };
        (debt > 0).then(|| Duration::from_nanos(debt))
    }

    fn pay(&self, bytes: usize, rate: u64) {
        let cost = (bytes as u64).saturating_mul(1_000_000_000) / rate;
        let earliest = now() - BURST;
        let _ = self.0.fetch_update(Relaxed, Relaxed, |at| Some(at.max(earliest) + cost));
    }
}

fn now() -> u64 {
    START.elapsed().as_nanos() as u64 + BURST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_the_rate_counts() {
        let budget = Budget::default();
        assert_eq!(budget.debt(), None);
        budget.charge((RATE - RATE / 10) as usize);
        assert_eq!(budget.debt(), None);
        budget.charge(RATE as usize);
        let debt = budget.debt().unwrap();
        assert!(debt <= Duration::from_millis(900), "{debt:?}");
        assert!(debt > Duration::from_millis(500), "{debt:?}");
    }
}
