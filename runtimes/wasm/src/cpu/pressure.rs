//! How much others want CPU that hogs have, and what each hog may have therefore.
//!
//! Every hog's share is its weight times one *factor*, the same for all: so that they share in proportion, and none gets
//! less than it requested while the factor is 1 or more. The factor follows what others feel: a canary task sleeps on the
//! guests' threads, and while it wakes late the factor falls. How far, depends on who waits:
//!
//! - nobody but the one container that all hogs are of: not at all, it rises;
//! - other hogs: to where all their shares together are the machine;
//! - requests that are answered within milliseconds: to 1. They go first, up to what hogs requested. Many of them can want
//!   all of a machine without the canary ever being late: while they do, hogs also get no more than was left. See [`most`].

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Cpu;
use super::meter::now;

/// How often the canary sleeps, and from when on it is late.
const EVERY: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_micros(2_500);
/// How often the kernel is asked for what was idle, in nanoseconds.
const LOOK: u64 = 100_000_000;
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
    /// Nanoseconds that containers with hogs have run, and those without, while there were any hogs.
    of_hogs: AtomicU64,
    of_light: AtomicU64,
    /// Millicores.
    machine: u64,
}

static PRESSURE: LazyLock<Pressure> = LazyLock::new(|| Pressure {
    hogs: Mutex::default(),
    any: AtomicBool::new(false),
    watched: AtomicBool::new(false),
    factor: AtomicU64::new(FREE),
    light: AtomicU64::new(0),
    of_hogs: AtomicU64::new(0),
    of_light: AtomicU64::new(0),
    machine: std::thread::available_parallelism().map_or(1, |n| n.get() as u64) * 1000,
});

/// What a hog of this weight may have now, in millicores; None: whatever it gets.
pub(super) fn share(weight: u64) -> Option<u64> {
    let factor = PRESSURE.factor.load(Relaxed);
    (factor < FREE).then(|| (weight * factor / ONE).max(1))
}

/// This one ran for so long.
pub(super) fn charged(cpu: &Cpu, nanos: u64) {
    if !PRESSURE.any.load(Relaxed) {
        return;
    }
    if cpu.hog.load(Relaxed) {
        PRESSURE.of_hogs.fetch_add(nanos, Relaxed);
    } else {
        PRESSURE.of_light.fetch_add(nanos, Relaxed);
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

/// What became of the machine's time for a while, in millicores.
#[derive(Clone, Copy, Debug)]
struct Times {
    hogs: u64,
    light: u64,
    idle: u64,
}

/// The largest factor for hogs that are in the way of much that is light: a quarter of what they had as long as all of the
/// machine is wanted, so that it is the others' within a few looks; else what they had and what nobody wanted. Short requests
/// leave a part of the machine idle even when they want all, for each waits for its client: a quarter of what they use is left
/// out of account, and a sixteenth of the machine in any case. Never less than what hogs requested. What needs little finds its
/// time beside whatever they have: there is no limit then.
fn most(times: Times, machine: u64, weights: u64) -> u64 {
    if times.light < machine / 8 {
        return FREE;
    }
    let fits = machine * ONE / weights.max(1);
    let left = match times.idle.checked_sub((times.light / 4).max(machine / 16)) {
        None => times.hogs / 4,
        Some(spare) => times.hogs + spare,
    };
    (left * ONE / weights.max(1)).clamp(fits.min(ONE), FREE)
}

/// Looks at the machine's time now and then.
struct Watcher {
    looked: u64,
    /// Nanoseconds up to then.
    hogs: u64,
    light: u64,
    idle: Option<u64>,
    /// Millicores that were idle between the last two looks.
    was_idle: u64,
}

impl Watcher {
    fn new() -> Watcher {
        let (hogs, light) = (PRESSURE.of_hogs.load(Relaxed), PRESSURE.of_light.load(Relaxed));
        Watcher { looked: now(), hogs, light, idle: idle(), was_idle: u64::MAX }
    }

    /// What became of it since the last look, if that was long enough ago and the kernel tells.
    fn look(&mut self) -> Option<Times> {
        let passed = now().saturating_sub(self.looked);
        if passed < LOOK {
            return None;
        }
        let last = std::mem::replace(self, Watcher::new());
        let millicores = |new: u64, old: u64| new.saturating_sub(old) * 1000 / passed;
        self.was_idle = millicores(self.idle?, last.idle?);
        Some(Times {
            hogs: millicores(self.hogs, last.hogs),
            light: millicores(self.light, last.light),
            // What was idle once was not left over yet: a client was late, or the kernel counted it late.
            idle: self.was_idle.min(last.was_idle),
        })
    }
}

/// Nanoseconds for which cores had nothing to do, all together. The kernel counts in hundredths of a second.
fn idle() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let mut times = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().skip(3);
    let idle: u64 = times.next()?.parse().ok()?;
    let waits_for_disks: u64 = times.next()?.parse().ok()?;
    Some((idle + waits_for_disks) * 10_000_000)
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
        (hogs.len(), hogs.iter().map(|cpu| cpu.weight()).sum())
    }

    async fn watch(&self) {
        let _watching = Watching;
        let mut watcher = Watcher::new();
        let mut limit = FREE;
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
            if let Some(times) = watcher.look() {
                limit = most(times, self.machine, weights);
            }
            let factor = self.factor.load(Relaxed);
            let factor = next(factor, late, self.machine, weights, others).min(limit);
            self.factor.store(factor, Relaxed);
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

    #[test]
    fn hogs_get_what_light_ones_leave() {
        let check = |(hogs, light, idle), weights, expected| {
            let times = Times { hogs, light, idle };
            assert_eq!(most(times, 2000, weights), expected, "{times:?}");
        };
        // All is wanted: a quarter of it is left for the hogs, down to what they requested.
        check((1600, 400, 0), 200, 2 * ONE);
        check((700, 1300, 100), 400, ONE);
        check((600, 1400, 0), 4000, 500);
        // Half of the machine is not wanted.
        check((100, 900, 1000), 400, 2_187);
        check((100, 400, 1500), 400, 3_687);
        // It is all that is wanted, though a little is idle.
        check((100, 1500, 370), 50, ONE);
        // Nobody else needs much.
        check((1990, 10, 0), 400, FREE);
    }

    #[test]
    fn kernel_tells_what_was_idle() {
        let before = idle().unwrap();
        assert!(idle().unwrap() >= before);
    }
}
