//! CPU, kept fair and limited by naps.
//!
//! **Charging.** Whatever runs on a container's behalf, its connections included, runs in [`metered`] futures: each poll
//! is timed and charged, to the microsecond, to the container and its Pod.
//!
//! **Holding back.** Guests are stopped at every tick of the epoch clock (1 ms). One that answers within a few
//! milliseconds only yields. One that goes on is a *hog*, and must pay for what it ran:
//!
//! - against the container's (and the Pod's) **limit**, if it has one; short requests pay that too, before they start;
//! - against its **share**: while others wait for CPU, a part in proportion to what it requested, and at least that;
//!   while nobody waits, all there is. See [`pressure`].
//!
//! Whoever is in debt naps until it is paid. Yielding alone is not fair: queued hogs keep the workers from polling for
//! input at all.

mod meter;
mod pressure;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use wasmtime::UpdateDeadline;

use crate::activity::Note;
use crate::engine::TICK;
pub(crate) use meter::metered;
use meter::now;

const TICK_NANOS: u64 = TICK.as_nanos() as u64;
/// Nanoseconds after which an instance is a hog.
const PATIENCE: u64 = 4 * TICK_NANOS;
/// One that waits for so much longer than it runs is none.
const RECOVERY: u64 = 8;
/// The weight, in millicores, of those that request less: what a hog gets at least, whatever others want.
const LEAST_WEIGHT: u64 = 20;
/// A limit's unused CPU can be saved up for this long, as with the kernel's CFS period.
const LIMIT_BURST: u64 = 100_000_000;
/// A share's, for this long: timers are that late.
const SHARE_BURST: u64 = 4 * TICK_NANOS;
/// Debts are not remembered for longer than this. Hundreds of instances in debt at once must fit in.
const MOST_DEBT: u64 = 60_000_000_000;

/// When what was used will be paid for, at a certain rate: a token bucket as one number.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// Charges CPU time at a rate; how long to nap.
    pub(crate) fn charge(&self, nanos: u64, millicores: u64, burst: u64) -> u64 {
        let now = now();
        let cost = nanos.saturating_mul(1000) / millicores.max(1);
        let paid =
            |at: u64| at.max(now.saturating_sub(burst)).saturating_add(cost).min(now + MOST_DEBT);
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
    /// In millicores; 0: none.
    limit: AtomicU64,
    limited: Bucket,
    weight: AtomicU64,
    shared: Bucket,
    used: AtomicU64,
    /// Whether it has hogs, and until when they surely count as such.
    hog: AtomicBool,
    hog_until: AtomicU64,
    parent: Option<Arc<Cpu>>,
    /// Where it is noted that it used some. Pods only.
    note: Option<Note>,
}

impl Cpu {
    /// With a limit and a request in millicores.
    pub(crate) fn new(limit: Option<u32>, requested: u32, parent: Option<Arc<Cpu>>) -> Arc<Cpu> {
        Arc::new(Cpu::with(limit, requested, parent, None))
    }

    /// The same for a whole Pod, which is noted when it uses some.
    pub(crate) fn noted(limit: Option<u32>, requested: u32, note: Note) -> Arc<Cpu> {
        Arc::new(Cpu::with(limit, requested, None, Some(note)))
    }

    fn with(
        limit: Option<u32>,
        requested: u32,
        parent: Option<Arc<Cpu>>,
        note: Option<Note>,
    ) -> Cpu {
        Cpu {
            limit: AtomicU64::new(in_force(limit)),
            limited: Bucket::default(),
            weight: AtomicU64::new(u64::from(requested).max(LEAST_WEIGHT)),
            shared: Bucket::default(),
            used: AtomicU64::new(0),
            hog: AtomicBool::new(false),
            hog_until: AtomicU64::new(0),
            parent,
            note,
        }
    }

    /// Sets another limit and another request. What was overdrawn is still to be paid.
    pub(crate) fn resize(&self, limit: Option<u32>, requested: u32) {
        self.limit.store(in_force(limit), Relaxed);
        self.weight.store(u64::from(requested).max(LEAST_WEIGHT), Relaxed);
    }

    fn weight(&self) -> u64 {
        self.weight.load(Relaxed)
    }

    fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Relaxed)).filter(|limit| *limit > 0)
    }

    /// Forgets that it used some; how much that was until now.
    pub(crate) fn forget(&self) -> u64 {
        if let Some(note) = &self.note {
            note.forget();
        }
        self.used()
    }

    /// Nanoseconds used since the start.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// How long a new request must wait because the limit was overdrawn.
    pub(crate) fn debt(&self) -> Option<Duration> {
        let debt = Duration::from_nanos(self.limit_debt());
        (debt >= TICK).then_some(debt)
    }

    fn limit_debt(&self) -> u64 {
        let own = if self.limit().is_some() { self.limited.debt() } else { 0 };
        own.max(self.parent.as_ref().map_or(0, |pod| pod.limit_debt()))
    }

    /// It ran for so long.
    fn charge(&self, nanos: u64) {
        self.used.fetch_add(nanos, Relaxed);
        if let Some(note) = &self.note {
            note.note();
        }
        if let Some(limit) = self.limit() {
            self.limited.charge(nanos, limit, LIMIT_BURST);
        }
        if let Some(pod) = &self.parent {
            pod.charge(nanos);
        }
    }
}

/// A limit as it is kept: one of nothing is the least that there is.
fn in_force(limit: Option<u32>) -> u64 {
    limit.map_or(0, |limit| u64::from(limit).max(1))
}

/// One instance's run, and how long it has been going on.
#[derive(Default)]
pub(crate) struct Run {
    spent: u64,
    /// Until when it ran or napped, the last time that it was looked at.
    seen: u64,
}

impl Run {
    /// What to do at a tick that met this instance running. Ticks that pass while it waits are seen when it goes on: the
    /// clock tells those from ticks that it ran through.
    pub(crate) fn tick(&mut self, cpu: &Arc<Cpu>) -> UpdateDeadline {
        let (ran, wall) = meter::lap(cpu);
        let now = now();
        let waited = if self.seen == 0 { 0 } else { now.saturating_sub(self.seen + ran) };
        self.spent = self.spent.saturating_sub(waited / RECOVERY) + ran;
        let mut nap = cpu.limit_debt();
        if self.spent > PATIENCE {
            if let Some(share) = pressure::share(cpu.weight()) {
                nap = nap.max(cpu.shared.charge(ran, share, SHARE_BURST));
            }
            pressure::hog(cpu, nap);
        }
        self.seen = now;
        if nap >= TICK_NANOS {
            self.seen += nap;
            UpdateDeadline::YieldCustom(1, Box::pin(tokio::time::sleep(Duration::from_nanos(nap))))
        } else if wall < TICK_NANOS / 4 {
            UpdateDeadline::Continue(1)
        } else {
            UpdateDeadline::Yield(1)
        }
    }
}

#[cfg(test)]
mod tests;
