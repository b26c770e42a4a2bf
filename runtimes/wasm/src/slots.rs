//! The pool's instance slots, shared out so that whoever takes many leaves some to the others.
//!
//! Exhausting wasmtime's pool is an error; here it is a wait. Who may take a slot depends on how many are free: a Pod
//! that holds [`GREED`] times the free slots or more waits, so that greedy Pods meet at equal parts without anybody
//! keeping a list. The last ones, the *reserve*, are for requests of Pods that hold next to none: neither Pods with many
//! slow requests nor commands, which hold theirs for long, can take those.
//!
//! Of each Pod, one waits at the pool and the others behind it: a slot that becomes free wakes as many as there are Pods
//! that wait, not as many as requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::{Mutex, Notify};

/// How many times the free slots one Pod may hold.
const GREED: usize = 4;
/// With fewer, a Pod may use the reserve.
const FEW: usize = 4;

/// A pool's slots.
#[derive(Debug)]
pub(crate) struct Slots {
    total: usize,
    free: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
}

/// What one Pod holds of all pools.
#[derive(Debug, Default)]
pub(crate) struct Held {
    count: AtomicUsize,
    line: Mutex<()>,
}

impl Held {
    /// Slots that it holds.
    pub(crate) fn count(&self) -> usize {
        self.count.load(SeqCst)
    }
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A moment.
    Request,
    /// Until the guest exits by itself.
    Command,
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    held: Arc<Held>,
}

impl Slots {
    pub(crate) fn new(total: usize) -> Arc<Slots> {
        Arc::new(Slots {
            total,
            free: AtomicUsize::new(total),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// All of them.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Those that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.free.load(SeqCst)
    }

    fn reserve(&self) -> usize {
        (self.total / 8).min(512)
    }

    /// A slot, if this Pod may have one now.
    pub(crate) fn try_take(self: &Arc<Self>, held: &Arc<Held>, purpose: Purpose) -> Option<Slot> {
        let (holds, reserve) = (held.count(), self.reserve());
        let taken = self.free.fetch_update(SeqCst, SeqCst, |free| {
            let common = free.saturating_sub(reserve);
            let allowed = match purpose {
                Purpose::Request => holds < common * GREED || (holds < FEW && free > 0),
                // As many as the Pod's spec says.
                Purpose::Command => common > 0,
            };
            allowed.then(|| free - 1)
        });
        taken.ok()?;
        held.count.fetch_add(1, SeqCst);
        Some(Slot { slots: self.clone(), held: held.clone() })
    }

    /// A slot, as soon as this Pod may have one.
    pub(crate) async fn take(self: &Arc<Self>, held: &Arc<Held>, purpose: Purpose) -> Slot {
        if let Some(slot) = self.try_take(held, purpose) {
            return slot;
        }
        let _first = held.line.lock().await;
        self.waiting.fetch_add(1, SeqCst);
        let _waiting = Waiting(&self.waiting);
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.try_take(held, purpose) {
                return slot;
            }
            freed.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.held.count.fetch_sub(1, SeqCst);
        self.slots.free.fetch_add(1, SeqCst);
        if self.slots.waiting.load(SeqCst) > 0 {
            self.slots.freed.notify_waiters();
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests;
