//! What a container's requests amount to: who is served, who waits, and what is counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use coracle_sandbox::Usage;
use tokio::sync::Semaphore;

use crate::container::Stamp;

/// Requests of one container that run at once.
const MOST_ACTIVE: usize = 256;

/// A container's requests.
pub(crate) struct Traffic {
    pub(super) room: Semaphore,
    pub(super) waiting: AtomicUsize,
    pub(super) active: AtomicUsize,
    pub(super) connections: AtomicUsize,
    pub(super) requests: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) last: Stamp,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            room: Semaphore::new(MOST_ACTIVE),
            waiting: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last: Stamp::default(),
        }
    }
}

impl Traffic {
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            requests: self.requests.load(Relaxed),
            failed_requests: self.failed.load(Relaxed),
            active_requests: self.active.load(Relaxed) as u64,
            ..Usage::default()
        }
    }
}

/// One more, for as long as this lives.
pub(super) struct Count<'a>(pub(super) &'a AtomicUsize);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
