//! How much others want CPU that hogs have, and what each hog may have therefore.
//!
//! Every hog's share is its weight times one *factor*, the same for all: so that they share in proportion, and none gets
//! less than it requested while the factor is 1 or more. The factor follows what others feel: a canary task sleeps on the
//! guests' threads, and while it wakes late the factor falls. How far, depends on who waits:
//!
//! - nobody but the one container that all hogs are of: not at all, it rises;
//! - other hogs: to where all their shares together are the machine;
//! - requests that are answered within milliseconds: to 1. They go first, up to what hogs requested.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Cpu;
use super::meter::now;

/// How often the canary sleeps, and from when on it is late.
const EVERY: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_micros(2_500);
/// Others are there if one of them ran within this time. They may have to wait for long before they do.
const RECENT: u64 = 500_000_000;
/// A hog counts as one for so long while it naps.
const LONGEST_NAP: u64 = 1_000_000_000;
/// The factor's unit.
const ONE: u64 = 1000;
/// A factor without effect.
const FREE: u64 = 1000 * ONE;

struct Pressure {
    /// Containers that have hogs.
    hogs: Mutex<Vec<Arc<Cpu>>>,
    any: AtomicBool,
    watched: AtomicBool,
    factor: AtomicU64,
    /// When a container without hogs ran last.
    light: AtomicU64,
    /// Millicores.
    machine: u64,
}

static PRESSURE: LazyLock<Pressure> = LazyLock::new(|| Pressure {
    hogs: Mutex::default(),
    any: AtomicBool::new(false),
    watched: AtomicBool::new(false),
    factor: AtomicU64::new(FREE),
    light: AtomicU64::new(0),
    machine: std::thread::available_parallelism().map_or(1, |n| n.get() as u64) * 1000,
});

/// What a hog of this weight may have now, in millicores; None: whatever it gets.
pub(super) fn share(weight: u64) -> Option<u64> {
    let factor = PRESSURE.factor.load(Relaxed);
    (factor < FREE).then(|| (weight * factor / ONE).max(1))
}

/// This one ran.
pub(super) fn charged(cpu: &Cpu) {
    if PRESSURE.any.load(Relaxed) && !cpu.hog.load(Relaxed) {
        PRESSURE.light.store(now(), Relaxed);
    }
}

/// This one has an instance that has been running for long, and naps now.
pub(super) fn hog(cpu: &Arc<Cpu>, nap: u64) {
    cpu.hog_until.store(now() + nap.min(LONGEST_NAP) + RECENT, Relaxed);
    if !cpu.hog.swap(true, Relaxed) {
        PRESSURE.hogs().push(cpu.clone());
        PRESSURE.any.store(true, Relaxed);
    }
    if !PRESSURE.watched.load(Relaxed) && !PRESSURE.watched.swap(true, Relaxed) {
        tokio::spawn(PRESSURE.watch());
    }
}

/// Somebody watches; also until the runtime that does so ends.
struct Watching;

impl Drop for Watching {
    fn drop(&mut self) {
        PRESSURE.factor.store(FREE, Relaxed);
        PRESSURE.watched.store(false, Relaxed);
    }
}

/// The next factor: falls fast and rises slowly, for a latency that people notice comes from hogs that came a moment ago,
/// and letting go too early oscillates.
fn next(factor: u64, late: bool, machine: u64, weights: u64, others: Others) -> u64 {
    let fits = machine * ONE / weights.max(1);
    let next = match (others, late) {
        (Others::None, _) => factor + factor / 4 + 1,
        (_, false) => factor + factor / 32 + 1,
        // What was too much by far is no place to start from. No lower than half of all: other processes want CPU too.
        (Others::Hogs, true) => (factor.min(fits * 2) * 7 / 10).max(fits / 2),
        (Others::Light, true) => (factor.min(fits) / 3).max(fits.min(ONE)),
    };
    next.clamp(1, FREE)
}

/// Who else wants CPU, but one hog's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    None,
    Hogs,
    Light,
}

impl Pressure {
    fn hogs(&self) -> MutexGuard<'_, Vec<Arc<Cpu>>> {
        self.hogs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many containers have hogs still, and their weights together.
    fn count(&self) -> (usize, u64) {
        let now = now();
        let mut hogs = self.hogs();
        hogs.retain(|cpu| {
            let stays = cpu.hog_until.load(Relaxed) > now;
            cpu.hog.store(stays, Relaxed);
            stays
        });
        self.any.store(!hogs.is_empty(), Relaxed);
        (hogs.len(), hogs.iter().map(|cpu| cpu.weight).sum())
    }

    async fn watch(&self) {
        let _watching = Watching;
        let mut quiet = 0;
        while quiet < 200 {
            let due = tokio::time::Instant::now() + EVERY;
            tokio::time::sleep_until(due).await;
            let late = due.elapsed() > LATE;
            let (containers, weights) = self.count();
            let others = if now().saturating_sub(self.light.load(Relaxed)) < RECENT {
                Others::Light
            } else if containers > 1 {
                Others::Hogs
            } else {
                Others::None
            };
            let factor = self.factor.load(Relaxed);
            self.factor.store(next(factor, late, self.machine, weights, others), Relaxed);
            quiet = if containers == 0 { quiet + 1 } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_follows_who_waits() {
        let check = |factor, late, weights, others, expected| {
            assert_eq!(next(factor, late, 2000, weights, others), expected, "{factor} {others:?}");
        };
        check(FREE, true, 400, Others::None, FREE);
        check(8 * ONE, true, 400, Others::None, 10_001);
        // 400m of hogs on two cores fit five times; other processes may need half of that.
        check(FREE, true, 400, Others::Hogs, 7 * ONE);
        check(3 * ONE, true, 400, Others::Hogs, 2_500);
        check(ONE, true, 400, Others::Light, ONE);
        check(1_200, true, 400, Others::Light, ONE);
        check(FREE, true, 400, Others::Light, 1_666);
        // More hogs than there is machine: not even what they requested.
        check(ONE, true, 4000, Others::Light, 500);
        check(FREE, false, 400, Others::Light, FREE);
        check(3_200, false, 400, Others::Light, 3_301);
    }
}
