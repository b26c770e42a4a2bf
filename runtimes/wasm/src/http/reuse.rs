//! Instances that serve several requests, one after the other, for Pods that ask for it.
//!
//! An instance is free again once its answer is complete. It is kept while it is younger than its
//! last request allows, holds no more memory than it should, and its container serves; what failed,
//! took too long or lost its client is never used again. The instance that was used last is used
//! first, so that those not needed end. What idle instances hold counts as their container's.
//!
//! Idle instances hold slots of the host's pool. Whoever finds the pool empty ends one of them.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

use super::place::Slot;
use crate::container::{Container, Phase};
use crate::engine::ClassKind;
use crate::images::Compiled;
use crate::instance::State;
use crate::program::Program;

/// Idle instances of one container.
const MOST_IDLE: usize = 64;
/// An instance may grow to twice of what it held after its first request, and by this much.
const GROWTH: u64 = 4 << 20;

/// An instance that served and may serve again. Dropped in this order: the slot is free last.
pub(super) struct Warm {
    pub(super) store: Store<State>,
    pub(super) proxy: Proxy,
    pub(super) slot: Slot,
    pub(super) served: u32,
    /// Bytes that it held after its first request; 0 before.
    pub(super) held_first: u64,
    since: Instant,
}

impl Warm {
    pub(super) fn new(
        store: Store<State>,
        proxy: Proxy,
        slot: Slot,
        served: u32,
        held_first: u64,
    ) -> Warm {
        Warm { store, proxy, slot, served, held_first, since: Instant::now() }
    }

    /// Whether it holds more than it should: next to its first request, or of its container's limit.
    fn outgrew(&self, limit: u64) -> bool {
        let held = self.store.data().memory.held();
        held > self.held_first * 2 + GROWTH || held > limit / 2
    }
}

/// Whether instances of a component may serve again. JavaScript's event loop is over after its first
/// answer: it would hang. Those of WASI 0.3 end with their store's event loop.
pub(crate) fn may_reuse(compiled: &Compiled) -> bool {
    let is_script = |name: &String| {
        let name = name.to_ascii_lowercase();
        name == "javascript" || name.contains("componentizejs") || name.contains("componentize-js")
    };
    let is_async = matches!(compiled.program, Program::AsyncHttp(_));
    !is_async && !compiled.info.languages.iter().any(is_script)
}

/// A container's idle instances.
#[derive(Default)]
pub(crate) struct Idle {
    kept: Mutex<Kept>,
    count: AtomicUsize,
}

#[derive(Default)]
struct Kept {
    /// The one that was used last comes last.
    #[expect(clippy::vec_box, reason = "they come boxed and are moved about as such")]
    warm: Vec<Box<Warm>>,
    /// Somebody ends those that are idle for too long.
    kept: bool,
    /// The container has exited.
    closed: bool,
}

impl Idle {
    pub(super) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    pub(super) fn take(&self) -> Option<Box<Warm>> {
        if self.count() == 0 {
            return None;
        }
        self.change(|kept| kept.warm.pop())
    }

    /// Ends all, and keeps none from now on.
    pub(crate) fn close(&self) {
        let ended = self.change(|kept| {
            kept.closed = true;
            mem::take(&mut kept.warm)
        });
        drop(ended);
    }

    /// Whatever leaves is dropped by the caller, outside of the lock: that takes a while.
    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut kept);
        self.count.store(kept.warm.len(), Relaxed);
        result
    }
}

/// Keeps an instance for the next request, if it may serve again.
pub(super) fn keep(container: &Arc<Container>, mut warm: Box<Warm>) {
    let Some(reuse) = container.reuse else { return };
    if warm.served >= reuse.max_requests
        || *container.phase.borrow() >= Phase::Closing
        || warm.outgrew(container.memory.limit())
    {
        return;
    }
    warm.since = Instant::now();
    let idle = &container.traffic.idle;
    let mut first = false;
    let refused = idle.change(|kept| {
        if kept.closed || kept.warm.len() >= MOST_IDLE {
            return Some(warm);
        }
        kept.warm.push(warm);
        first = !mem::replace(&mut kept.kept, true);
        None
    });
    drop(refused);
    if first {
        container.node.keepers.add(container);
        let patience = Duration::from_millis(u64::from(reuse.idle_milliseconds.max(1)));
        let group = container.sandbox.group.clone();
        group.spawn(end_idle(Arc::downgrade(container), patience));
    }
}

/// Ends what is idle for too long, until nothing is left.
async fn end_idle(container: Weak<Container>, patience: Duration) {
    let mut wake = Instant::now() + patience;
    loop {
        tokio::time::sleep_until(wake).await;
        let Some(container) = container.upgrade() else { return };
        let now = Instant::now();
        let mut done = false;
        let ended = container.traffic.idle.change(|kept| {
            let fresh = kept.warm.iter().position(|warm| now - warm.since < patience);
            let ended: Vec<_> = kept.warm.drain(..fresh.unwrap_or(kept.warm.len())).collect();
            match kept.warm.first() {
                Some(oldest) => wake = oldest.since + patience,
                None => {
                    kept.kept = false;
                    done = true;
                }
            }
            ended
        });
        drop(ended);
        if done {
            container.node.keepers.remove(&container);
            return;
        }
    }
}

/// The containers that have idle instances.
#[derive(Default)]
pub(crate) struct Keepers(Mutex<Vec<Weak<Container>>>);

impl Keepers {
    fn add(&self, container: &Arc<Container>) {
        self.all().push(Arc::downgrade(container));
    }

    /// One entry: another may have been added for the same container since.
    fn remove(&self, container: &Arc<Container>) {
        let mut all = self.all();
        if let Some(at) = all.iter().position(|kept| kept.as_ptr() == Arc::as_ptr(container)) {
            all.swap_remove(at);
        }
    }

    /// Ends the oldest idle instance of some container, to free a slot of this class.
    pub(crate) fn end_one(&self, class: ClassKind) -> bool {
        let all: Vec<_> = self.all().iter().filter_map(Weak::upgrade).collect();
        let mut keepers = all.iter().filter(|container| container.compiled.class == class);
        let ended = keepers.find_map(|container| {
            container
                .traffic
                .idle
                .change(|kept| if kept.warm.is_empty() { None } else { Some(kept.warm.remove(0)) })
        });
        ended.is_some()
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Container>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
