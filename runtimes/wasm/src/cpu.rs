//! CPU, kept fair and limited by naps.
//!
//! Guests are stopped at every tick of the epoch clock (1 ms). One that answers within a few ticks
//! only yields. One that goes on is a *hog*, and every further tick is charged to its container:
//!
//! - against the container's (and the Pod's) **limit**, if it has one;
//! - against its **share**: while others wait for CPU, what it requested (at least 100m); while
//!   nobody waits, all there is.
//!
//! Whoever is in debt naps until it is paid. Yielding alone is not fair: queued hogs keep the
//! workers from polling for input at all. Whether others wait is measured as they feel it: a
//! canary task sleeps, and its lateness moves the *squeeze* between the two shares. Charging by
//! ticks is a fair sample even for guests that run for microseconds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::engine::TICK;

const TICK_NANOS: u64 = TICK.as_nanos() as u64;
/// After this many ticks of one instance, it is a hog.
const PATIENCE: u32 = 4;
/// What a hog gets at least, in millicores, whatever others want.
const LEAST_SHARE: u64 = 100;
/// Unused CPU can be saved up for this long, as with the kernel's CFS period.
const BURST: u64 = 100_000_000;
/// Debts are not remembered for longer than this.
const MOST_DEBT: u64 = 1_000_000_000;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the host's start; never 0.
fn now() -> u64 {
    START.elapsed().as_nanos() as u64 + BURST + 1
}

/// When what was used will be paid for, at a certain rate: a token bucket as one number.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    /// Charges CPU time at a rate; how long to nap.
    fn charge(&self, nanos: u64, millicores: u64, burst: u64) -> u64 {
        let now = now();
        let cost = nanos * 1000 / millicores.max(1);
        let paid = |at: u64| (at.max(now - burst.min(now)) + cost).min(now + MOST_DEBT);
        let before = self.0.fetch_update(Relaxed, Relaxed, |at| Some(paid(at))).unwrap_or(0);
        paid(before).saturating_sub(now)
    }

    /// How long until the debt is paid.
    fn debt(&self) -> u64 {
        match self.0.load(Relaxed) {
            0 => 0,
            at => at.saturating_sub(now()),
        }
    }
}

/// A container's CPU, or a whole Pod's.
#[derive(Debug)]
pub(crate) struct Cpu {
    limit: Option<u64>,
    limited: Bucket,
    requested: u64,
    shared: Bucket,
    used: AtomicU64,
    parent: Option<Arc<Cpu>>,
}

impl Cpu {
    /// With a limit and a request in millicores.
    pub(crate) fn new(limit: Option<u32>, requested: u32, parent: Option<Arc<Cpu>>) -> Arc<Cpu> {
        Arc::new(Cpu {
            limit: limit.map(u64::from),
            limited: Bucket::default(),
            requested: u64::from(requested).max(LEAST_SHARE),
            shared: Bucket::default(),
            used: AtomicU64::new(0),
            parent,
        })
    }

    /// Nanoseconds used since the start.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// How long a new request must wait because the limit was overdrawn.
    pub(crate) fn debt(&self) -> Option<Duration> {
        let own = if self.limit.is_some() { self.limited.debt() } else { 0 };
        let pods = self.parent.as_ref().and_then(|p| p.debt()).unwrap_or_default();
        let debt = Duration::from_nanos(own).max(pods);
        (debt >= TICK).then_some(debt)
    }

    fn charge_limit(&self) -> u64 {
        self.used.fetch_add(TICK_NANOS, Relaxed);
        let own = self.limit.map_or(0, |limit| self.limited.charge(TICK_NANOS, limit, BURST));
        own.max(self.parent.as_ref().map_or(0, |parent| parent.charge_limit()))
    }
}

/// One instance's run, and how long it has been going on.
#[derive(Default)]
pub(crate) struct Run {
    ticks: u32,
    hog: Option<Hog>,
}

impl Run {
    /// What to do at a tick that met this instance running.
    pub(crate) fn tick(&mut self, cpu: &Cpu) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.ticks += 1;
        let mut nap = cpu.charge_limit();
        if self.ticks > PATIENCE {
            self.hog.get_or_insert_with(Hog::new);
            let share = PRESSURE.share(cpu.requested);
            nap = nap.max(cpu.shared.charge(TICK_NANOS, share, TICK_NANOS));
        }
        if nap >= TICK_NANOS {
            Box::pin(tokio::time::sleep(Duration::from_nanos(nap)))
        } else {
            Box::pin(tokio::task::yield_now())
        }
    }
}

struct Hog;

impl Hog {
    fn new() -> Hog {
        if PRESSURE.hogs.fetch_add(1, Relaxed) == 0 && !PRESSURE.watched.swap(true, Relaxed) {
            tokio::spawn(PRESSURE.watch());
        }
        Hog
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        PRESSURE.hogs.fetch_sub(1, Relaxed);
    }
}

/// How much others want CPU that hogs have.
struct Pressure {
    hogs: AtomicUsize,
    watched: AtomicBool,
    /// Permille: 0, hogs may use everything; 1000, only what they requested.
    squeeze: AtomicU32,
    cores: u64,
}

static PRESSURE: LazyLock<Pressure> = LazyLock::new(|| Pressure {
    hogs: AtomicUsize::new(0),
    watched: AtomicBool::new(false),
    squeeze: AtomicU32::new(0),
    cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64) * 1000,
});

impl Pressure {
    fn share(&self, requested: u64) -> u64 {
        let squeeze = u64::from(self.squeeze.load(Relaxed));
        let most = self.cores.max(requested);
        most - (most - requested) * squeeze / 1000
    }

    /// Squeezes fast and lets go slowly: a latency that people notice comes from hogs that came a
    /// moment ago, and one that lets go too early oscillates.
    async fn watch(&self) {
        loop {
            self.watch_while_hogs().await;
            self.squeeze.store(0, Relaxed);
            self.watched.store(false, Relaxed);
            // A hog that came in between found `watched` still set.
            if self.hogs.load(Relaxed) == 0 || self.watched.swap(true, Relaxed) {
                return;
            }
        }
    }

    async fn watch_while_hogs(&self) {
        const EVERY: Duration = Duration::from_millis(5);
        const LATE: Duration = Duration::from_micros(2_500);
        let mut alone = 0;
        while alone < 200 {
            let due = tokio::time::Instant::now() + EVERY;
            tokio::time::sleep_until(due).await;
            let late = due.elapsed();
            let squeeze = self.squeeze.load(Relaxed);
            let next =
                if late > LATE { (squeeze + 250).min(1000) } else { squeeze.saturating_sub(5) };
            self.squeeze.store(next, Relaxed);
            alone = if self.hogs.load(Relaxed) == 0 { alone + 1 } else { 0 };
        }
    }
}
