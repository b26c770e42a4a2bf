//! What the writer thread, readers and watchers share: the open file and the recent changes.

use super::{
    disk::{Disk, Lent},
    read::Failure,
    tables::Fault,
};
use crate::{Change, ReadError, Revision};
use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    cache_bytes: usize,
    /// Held only to begin a transaction, and by the writer to open the file again.
    database: RwLock<Option<Database>>,
    /// A reader met a failure; the writer should open the file again.
    pub(super) suspect: AtomicBool,
    recent: Mutex<Recent>,
    head: watch::Sender<Head>,
}

/// What wakes watchers.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) revision: Revision,
    pub(super) closed: bool,
}

/// The changes after `floor`, without gap.
struct Recent {
    changes: VecDeque<Arc<Change>>,
    floor: Revision,
    bytes: usize,
    limit: usize,
}

/// How often a read is tried while the writer opens the file again, and how long apart.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(2);

impl Shared {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        cache_bytes: usize,
        recent_bytes: usize,
    ) -> Result<Shared, redb::DatabaseError> {
        let database = open_database(&disk, cache_bytes)?;
        let recent = Recent { changes: VecDeque::new(), floor: 0, bytes: 0, limit: recent_bytes };
        Ok(Shared {
            disk,
            cache_bytes,
            database: RwLock::new(Some(database)),
            suspect: AtomicBool::new(false),
            recent: Mutex::new(recent),
            head: watch::Sender::new(Head { revision: 0, closed: false }),
        })
    }

    /// Runs `read` on a snapshot of what is durable.
    pub(super) fn read<T>(
        &self,
        read: impl Fn(&ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, ReadError> {
        let mut attempt = 0;
        loop {
            let failure = match self.begin_read() {
                Ok(txn) => match read(&txn) {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let fault = match failure {
                Failure::Refused(refusal) => return Err(refusal),
                Failure::Fault(fault) => fault,
            };
            attempt += 1;
            if attempt == ATTEMPTS {
                self.suspect.store(true, Ordering::Release);
                return Err(ReadError::Storage { reason: fault.to_string() });
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn begin_read(&self) -> Result<ReadTransaction, Failure> {
        let database = self.database.read().expect("no panics under this lock");
        match &*database {
            Some(database) => Ok(database.begin_read().map_err(Fault::from)?),
            None if self.head.borrow().closed => Err(Failure::Refused(ReadError::Closed)),
            None => Err(Failure::Fault(Fault::DatabaseClosed)),
        }
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, Fault> {
        let database = self.database.read().expect("no panics under this lock");
        Ok(database.as_ref().ok_or(Fault::DatabaseClosed)?.begin_write()?)
    }

    /// Opens the file again, which redb demands after any failed write. Fails as long as the
    /// cause lasts; reads fail then too.
    pub(super) fn reopen(&self) -> Result<(), Fault> {
        let mut database = self.database.write().expect("no panics under this lock");
        // First, since a database that still works writes when dropped.
        *database = None;
        *database = Some(open_database(&self.disk, self.cache_bytes)?);
        self.suspect.store(false, Ordering::Release);
        Ok(())
    }

    /// Releases the file and ends the watches.
    pub(super) fn close(&self) {
        self.head.send_modify(|head| head.closed = true);
        *self.database.write().expect("no panics under this lock") = None;
        self.disk.release();
    }

    pub(super) fn head(&self) -> Head {
        *self.head.borrow()
    }

    pub(super) fn follow(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// Makes durable changes known, in order.
    pub(super) fn publish(&self, changes: Vec<Change>) {
        let Some(revision) = changes.last().map(|change| change.revision) else { return };
        self.recent.lock().expect("no panics under this lock").push(changes);
        self.head.send_modify(|head| head.revision = revision);
    }

    /// Forgets the recent changes: watchers read those up to `revision` from disk.
    pub(super) fn reset(&self, revision: Revision) {
        self.recent.lock().expect("no panics under this lock").clear(revision);
        self.head.send_if_modified(|head| {
            let moved = head.revision != revision;
            head.revision = revision;
            moved
        });
    }

    /// At most `limit` changes after `after`; `None` if they are only on disk.
    pub(super) fn recent(&self, after: Revision, limit: usize) -> Option<Vec<Arc<Change>>> {
        let recent = self.recent.lock().expect("no panics under this lock");
        let start = recent.changes.partition_point(|change| change.revision <= after);
        (after >= recent.floor)
            .then(|| recent.changes.iter().skip(start).take(limit).cloned().collect())
    }
}

fn open_database(disk: &Arc<dyn Disk>, cache: usize) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(cache).create_with_backend(Lent(disk.clone()))
}

impl Recent {
    fn push(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.bytes += weight(&change);
            self.changes.push_back(Arc::new(change));
        }
        while self.bytes > self.limit
            && let Some(oldest) = self.changes.pop_front()
        {
            self.bytes -= weight(&oldest);
            self.floor = oldest.revision;
        }
    }

    fn clear(&mut self, floor: Revision) {
        self.changes = VecDeque::new();
        self.bytes = 0;
        self.floor = floor;
    }
}

/// Roughly, the memory that a change takes.
fn weight(change: &Change) -> usize {
    let of = |event: &crate::Event| {
        let value = event.value.as_ref().map_or(0, |value| value.len());
        let prev = event.prev.as_ref().map_or(0, |(value, _)| value.len());
        128 + event.key.len() + value + prev
    };
    64 + change.events.iter().map(of).sum::<usize>()
}
