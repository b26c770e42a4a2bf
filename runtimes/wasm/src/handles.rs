//! Files and sockets that a container has open, in all of its instances. Descriptors are the whole host's: without a bound for each, one container could take
//! them all, and nobody's connections would be accepted any more.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use coracle_sandbox::NoticeKind;
use nix::sys::resource::{Resource, getrlimit};

use crate::container::Container;
use crate::memory::Lent;

/// As many as a process on Linux has by default.
const MOST: usize = 1024;

/// What one container may have: no more than an eighth of what the process may, either.
static LIMIT: LazyLock<usize> = LazyLock::new(|| {
    let process = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    MOST.min(usize::try_from(process / 8).unwrap_or(MOST)).max(16)
});

/// What a container has.
#[derive(Debug, Default)]
pub(crate) struct Handles(AtomicUsize);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    all: Arc<Handles>,
    /// What a socket's buffers cost; kept for its end.
    cost: Option<Lent>,
}

/// Bytes that the kernel holds for a socket, as far as its buffers are usually filled.
const SOCKET: u64 = 32 << 10;

impl Handles {
    fn take(self: &Arc<Self>, limit: usize) -> Option<Handle> {
        let more = |open: usize| (open < limit).then_some(open + 1);
        self.0.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Handle { all: self.clone(), cost: None })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.all.0.fetch_sub(1, Relaxed);
    }
}

impl Container {
    /// Permission for one more file or socket.
    pub(crate) fn handle(&self) -> Option<Handle> {
        let handle = self.handles.take(*LIMIT);
        if handle.is_none() {
            self.notice(NoticeKind::Limit, || {
                format!(
                    "a file or socket was refused: the container has {} open, the most it may",
                    *LIMIT
                )
            });
        }
        handle
    }

    /// Permission for one more socket, whose buffers are the container's memory.
    pub(crate) fn socket(&self) -> Option<Handle> {
        let cost = self.memory.lend(SOCKET)?;
        let mut handle = self.handle()?;
        handle.cost = Some(cost);
        Some(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_can_be_opened_again() {
        let handles = Arc::new(Handles::default());
        let mut open: Vec<_> = std::iter::from_fn(|| handles.take(3)).collect();
        assert_eq!(open.len(), 3);
        open.pop();
        assert!(handles.take(3).is_some());
        drop(open);
        assert_eq!(handles.0.load(Relaxed), 0);
    }
}
