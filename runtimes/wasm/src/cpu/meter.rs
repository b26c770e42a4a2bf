//! How long something ran: two looks at a cheap clock around each poll.
//!
//! The cheap clock goes on while the kernel runs another process instead. So polls that seem long, and those only, are
//! checked against the thread's own CPU time, which costs a system call; between them a look each millisecond keeps that
//! check sharp.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use super::{Cpu, pressure};

/// A poll that took longer may have been interrupted by the kernel.
const LONG: u64 = 500_000;
/// How often a thread's CPU time is looked at.
const SYNC: u64 = 1_000_000;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds on a clock that is cheap to read; never near 0.
pub(super) fn now() -> u64 {
    START.elapsed().as_nanos() as u64 + 1_000_000_000
}

thread_local! {
    static THREAD: Thread =
        const { Thread { begun: Cell::new(0), owed: Cell::new(0), synced: Cell::new((0, 0)) } };
}

struct Thread {
    /// Since when what runs now has not been charged; 0: nothing is metered.
    begun: Cell<u64>,
    /// What ran before that and has not been charged: a nested poll came in between.
    owed: Cell<u64>,
    /// When the thread's CPU time was looked at last, and what it was.
    synced: Cell<(u64, u64)>,
}

impl Thread {
    /// What ran and has not been charged, and a new beginning.
    fn lap(&self, now: u64) -> u64 {
        let owed = self.owed.replace(0);
        let wall = now.saturating_sub(self.begun.replace(now));
        if wall < LONG {
            return owed + wall;
        }
        let cpu = thread_cpu();
        let (_, before) = self.synced.replace((now, cpu));
        owed + wall.min(cpu.saturating_sub(before))
    }
}

/// A future whose polls are charged to `cpu`. They may be nested: the inner one pays for itself.
pub(crate) async fn metered<F: Future>(cpu: Arc<Cpu>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _meter = Meter::start(&cpu);
        future.as_mut().poll(cx)
    })
    .await
}

/// Charges what the present poll has run so far; how much that was, and how long it took since the last time.
pub(super) fn lap(cpu: &Cpu) -> (u64, u64) {
    THREAD.with(|thread| {
        // Whoever is not metered has run for a tick, as far as can be told.
        let (ran, wall) = match thread.begun.get() {
            0 => (super::TICK_NANOS, super::TICK_NANOS),
            begun => {
                let now = now();
                (thread.lap(now), now.saturating_sub(begun))
            }
        };
        charge(cpu, ran);
        (ran, wall)
    })
}

fn charge(cpu: &Cpu, nanos: u64) {
    cpu.charge(nanos);
    pressure::charged(cpu, nanos);
}

struct Meter<'a> {
    cpu: &'a Cpu,
    /// What the outer one owed when this one began, if there is one.
    outer: Option<u64>,
}

impl<'a> Meter<'a> {
    fn start(cpu: &'a Cpu) -> Meter<'a> {
        let now = now();
        THREAD.with(|thread| {
            let outer = (thread.begun.get() != 0).then(|| thread.lap(now));
            if now.saturating_sub(thread.synced.get().0) > SYNC {
                thread.synced.set((now, thread_cpu()));
            }
            thread.begun.set(now);
            Meter { cpu, outer }
        })
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        let now = now();
        THREAD.with(|thread| {
            charge(self.cpu, thread.lap(now));
            thread.begun.set(if self.outer.is_some() { now } else { 0 });
            thread.owed.set(self.outer.unwrap_or(0));
        });
    }
}

/// CPU time of this thread, in nanoseconds.
pub(super) fn thread_cpu() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
