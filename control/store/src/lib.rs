//! The store: keys, bytes and revisions, after etcd's model. It knows no Kubernetes.
//!
//! One global, monotonic [`Revision`]; a [`Batch`] of puts and deletes commits atomically under
//! preconditions and gets one revision; a [`Watch`] resumes from any revision that is not
//! compacted, in order, without gap or duplicate. [`Store`] is a cheap handle that hides which
//! backend does it: [`embedded`] (redb, one file, one writer thread) today; etcd fits behind the
//! same `Backend` trait, which is why reads are `async` although redb answers them directly.
//!
//! Reading order: the types a caller meets, the seam, then the embedded engine.
//! Next step of the apply trace: the server's watch cache, which follows [`Store::watch`].

mod backend;
mod batch;
mod embedded;
mod entry;
mod error;
mod options;
mod watch;

pub use batch::{Batch, Committed, Condition, Expect, Op, Retention};
pub use entry::{Entry, Range, RangeResult, Stats};
pub use error::{CommitError, CompactError, FullReason, OpenError, ReadError, WatchError};
pub use options::Options;
pub use watch::{Change, Event, Watch};

/// A point in the history of the whole store. An empty store is at 1, as etcd is; every commit
/// that changes something adds 1.
pub type Revision = u64;

use std::{fmt, path::Path, sync::Arc};

/// A handle on an open store; clones share it. The file is released when the last handle is
/// dropped or [`Store::close`] returns.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn backend::Backend>,
}

impl Store {
    /// Opens the embedded store in the file `path`, creating it (mode 0600) and its folder
    /// (0700) where missing. Blocks for some milliseconds; after a crash, for the repair.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Store, OpenError> {
        Ok(Store { backend: Arc::new(embedded::Embedded::open(path.as_ref(), options)?) })
    }

    /// The latest durable revision.
    pub fn revision(&self) -> Revision {
        self.backend.revision()
    }

    /// Commits `batch` and returns once it is durable. All conditions are checked before any op
    /// is applied, against the state that all earlier commits left.
    ///
    /// Dropping the future does not revoke the batch: it may commit or not.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.backend.commit(batch).await
    }

    /// The latest value of `key`.
    pub async fn get(&self, key: impl AsRef<[u8]> + Send) -> Result<Option<Entry>, ReadError> {
        self.backend.get(key.as_ref(), None).await
    }

    /// The value that `key` had at revision `at`.
    pub async fn get_at(
        &self,
        key: impl AsRef<[u8]> + Send,
        at: Revision,
    ) -> Result<Option<Entry>, ReadError> {
        self.backend.get(key.as_ref(), Some(at)).await
    }

    /// The entries in `range`, in key order, at revision `at` (latest: `None`), at most `limit`.
    ///
    /// To read on when [`RangeResult::more`] is set, repeat with [`Range::after`] the last key
    /// and `at` the revision of the first answer.
    pub async fn range(
        &self,
        range: Range,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<RangeResult, ReadError> {
        self.backend.range(range, at, limit).await
    }

    /// Every change in `range` with a revision greater than `after`: first from history, then as
    /// they are committed.
    pub async fn watch(&self, range: Range, after: Revision) -> Result<Watch, WatchError> {
        self.backend.watch(range, after).await
    }

    /// Forgets history before `to`: reads at `to` and later, and watches from `to` on, still
    /// answer. Returns once that is durable; space is reclaimed in small steps afterwards.
    pub async fn compact(&self, to: Revision) -> Result<(), CompactError> {
        self.backend.compact(to).await
    }

    /// Sizes and counts, for metrics and `coracle status`.
    pub async fn stats(&self) -> Result<Stats, ReadError> {
        self.backend.stats().await
    }

    /// Finishes queued commits, ends all watches and releases the file. Later calls on other
    /// handles answer `Closed`.
    pub async fn close(&self) {
        self.backend.close().await;
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish()
    }
}
