//! The embedded backend: one redb file, one writer thread, direct reads.
//!
//! Durability is one fsync per group (redb's one-phase commit: a torn commit is told by its
//! checksum and rolled back when the file is opened). redb's cache is bounded; the server keeps
//! the hot objects decoded in a cache of its own.

mod apply;
mod compact;
mod disk;
mod follow;
mod policy;
mod read;
mod shared;
mod tables;
mod writer;

#[cfg(test)]
mod tests;

use crate::{
    Batch, CommitError, Committed, CompactError, Entry, OpenError, Options, Range, RangeResult,
    ReadError, Revision, Stats, Watch, WatchError, backend::Backend,
};
use async_trait::async_trait;
use disk::{Disk, FileDisk, open_error};
use redb::WriteTransaction;
use shared::Shared;
use std::{
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
};
use tables::{FORMAT, Fault, META, State, Tables, position};
use tokio::sync::{Semaphore, oneshot};
use writer::{Commit, Request, Writer};

/// Commits that may wait for the writer; more callers wait for a place.
const QUEUE: usize = 4096;

pub(crate) struct Embedded {
    shared: Arc<Shared>,
    options: Options,
    places: Arc<Semaphore>,
    requests: Option<mpsc::Sender<Request>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    pub(crate) fn open(path: &Path, options: Options) -> Result<Embedded, OpenError> {
        let disk = FileDisk::open(path, |draft| {
            let init = || -> Result<(), Fault> {
                let database = redb::Database::builder().create_with_backend(draft)?;
                let txn = database.begin_write()?;
                init(&txn)?;
                Ok(txn.commit()?)
            };
            init().map_err(|fault| fault_error(path, fault))
        })?;
        Embedded::open_on(path, Arc::new(disk), options)
    }

    fn open_on(path: &Path, disk: Arc<dyn Disk>, options: Options) -> Result<Embedded, OpenError> {
        let shared = Shared::open(disk, options.cache_bytes, options.recent_bytes)
            .map_err(|e| fault_error(path, e.into()))?;
        let shared = Arc::new(shared);
        let state = load(path, &shared)?;
        shared.reset(state.revision);
        let (requests, receiver) = mpsc::channel();
        let writer = Writer::new(shared.clone(), options.clone(), receiver, state);
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| open_error(path, e))?;
        Ok(Embedded {
            shared,
            options,
            places: Arc::new(Semaphore::new(QUEUE)),
            requests: Some(requests),
            writer: Mutex::new(Some(writer)),
        })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, CommitError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(CommitError::Closed)?;
        requests.send(request(reply)).map_err(|_| CommitError::Closed)?;
        answer.await.map_err(|_| CommitError::Closed)
    }

    /// Runs a read that may be long off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || read(&shared)).await.map_err(|_| ReadError::Closed)?
    }
}

/// Writes the format and the first state into a new file.
fn init(txn: &WriteTransaction) -> Result<State, Fault> {
    let state = State {
        revision: 1,
        compacted: 1,
        short_compacted: 1,
        swept: position(2, 0) - 1,
        ..State::default()
    };
    let mut tables = Tables::open(txn)?;
    tables.meta.insert("format", &FORMAT.to_le_bytes()[..])?;
    tables.save(&state)?;
    Ok(state)
}

/// Checks the format, or writes it into a new file, and reads the state.
fn load(path: &Path, shared: &Shared) -> Result<State, OpenError> {
    let corrupt = |reason: &str| OpenError::Corrupt { path: path.into(), reason: reason.into() };
    let fault = |fault: Fault| fault_error(path, fault);
    let txn = shared.begin_write().map_err(fault)?;
    let known: Vec<String> = txn
        .list_tables()
        .map_err(|e| fault(e.into()))?
        .map(|table| redb::TableHandle::name(&table).to_owned())
        .collect();
    if known.is_empty() {
        // An empty file, not made by us.
        let state = init(&txn).map_err(fault)?;
        txn.commit().map_err(|e| fault(e.into()))?;
        return Ok(state);
    }
    if !known.iter().any(|name| name == redb::TableHandle::name(&META)) {
        return Err(corrupt("a redb file of something else"));
    }
    let meta = txn.open_table(META).map_err(|e| fault(e.into()))?;
    let format = tables::meta_row(&meta, "format").map_err(fault)?;
    let format = format
        .and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
        .ok_or_else(|| corrupt("it has no format number"))?;
    if format > FORMAT {
        let path = path.to_path_buf();
        return Err(OpenError::TooNew { path, found: format, supported: FORMAT });
    }
    let state = tables::meta_row(&meta, "state").map_err(fault)?;
    state.and_then(|bytes| State::decode(&bytes)).ok_or_else(|| corrupt("it has no state row"))
}

/// The open error that a fault is.
fn fault_error(path: &Path, fault: Fault) -> OpenError {
    match fault {
        Fault::Io(error) => open_error(path, error),
        Fault::DatabaseAlreadyOpen => OpenError::InUse { path: path.into() },
        fault => OpenError::Corrupt { path: path.into(), reason: fault.to_string() },
    }
}

#[async_trait]
impl Backend for Embedded {
    fn revision(&self) -> Revision {
        self.shared.head().revision
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        batch.check(&self.options)?;
        let place = self.places.clone().acquire_owned().await.map_err(|_| CommitError::Closed)?;
        self.ask(|reply| Request::Commit(Commit { batch, reply, _permit: place })).await?
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Entry>, ReadError> {
        self.shared.read(|txn| read::get(txn, key, at))
    }

    async fn range(
        &self,
        range: Range,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<RangeResult, ReadError> {
        self.blocking(move |shared| shared.read(|txn| read::range(txn, &range, at, limit))).await
    }

    async fn watch(&self, range: Range, after: Revision) -> Result<Watch, WatchError> {
        let checked = range.clone();
        self.blocking(move |shared| shared.read(|txn| read::check_watch(txn, &checked, after)))
            .await?;
        Ok(Watch::new(follow::Follow::new(self.shared.clone(), range, after)))
    }

    async fn compact(&self, to: Revision) -> Result<(), CompactError> {
        self.ask(|reply| Request::Compact { to, reply }).await?
    }

    async fn stats(&self) -> Result<Stats, ReadError> {
        self.blocking(|shared| {
            let state = shared.read(|txn| Ok(tables::state(txn)?))?;
            Ok(Stats {
                revision: state.revision,
                compacted: state.compacted,
                live_keys: state.live_keys,
                live_bytes: state.live_bytes,
                history_records: state.history_records,
                history_bytes: state.history_bytes,
                file_bytes: shared.disk.allocated(),
            })
        })
        .await
    }

    async fn close(&self) {
        let _ = self.ask(|reply| Request::Close { reply }).await;
    }
}

impl Drop for Embedded {
    /// Waits for the writer, so that the file can be opened again at once.
    fn drop(&mut self) {
        self.requests = None;
        let writer = self.writer.get_mut().ok().and_then(Option::take);
        if let Some(Err(_)) = writer.map(JoinHandle::join) {
            tracing::error!("the store's writer thread panicked");
        }
    }
}
