//! The writer thread: the only one that writes, so order is simply arrival.
//!
//! Group commit: all batches that queued up while the last group was being synced to disk go
//! into the next transaction and share its sync. Compaction rides along in small steps. Nothing
//! is acknowledged, published or counted before the transaction is durable.

use super::{
    apply::apply,
    compact,
    disk::is_full,
    policy::Policy,
    shared::Shared,
    tables::{Fault, State, Tables},
};
use crate::{
    Batch, Change, CommitError, Committed, CompactError, Options, Revision, error::FullReason,
};
use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub(super) enum Request {
    Commit(Commit),
    Compact { to: Revision, reply: oneshot::Sender<Result<(), CompactError>> },
    Close { reply: oneshot::Sender<()> },
}

pub(super) struct Commit {
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<Committed, CommitError>>,
    /// Its place in the queue, given back with the answer.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Bounds of a group.
const GROUP_BATCHES: usize = 1024;
const GROUP_BYTES: usize = 8 << 20;
/// Longest wait for more batches to share a sync with.
const GATHER: Duration = Duration::from_millis(1);
/// Records that one step of compaction visits, in a group (per operation of it, and at least)
/// and when idle.
const SWEEP_PER_OP: usize = 2;
const SWEEP_BUSY: usize = 64;
const SWEEP_IDLE: usize = 512;
/// When idle this long, the file is left in a state that opens fast even after a crash…
const SETTLE_AFTER: Duration = Duration::from_secs(2);
/// …but not more often than this.
const SETTLE_EVERY: Duration = Duration::from_secs(15);

pub(super) struct Writer {
    shared: Arc<Shared>,
    options: Options,
    requests: Receiver<Request>,
    /// Taken from the queue while gathering a group, but no commit.
    deferred: Option<Request>,
    state: State,
    policy: Policy,
    sweeping: bool,
    /// The file must be opened again before it can be written.
    broken: bool,
    /// The last group was refused, and that was logged.
    refusing: bool,
    /// Size of the last group, and how long its sync took.
    last_group: usize,
    last_sync: Duration,
    last_write: Instant,
    last_settle: Option<Instant>,
    settled: bool,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: Options,
        requests: Receiver<Request>,
        state: State,
    ) -> Writer {
        let now = Instant::now();
        Writer {
            policy: Policy::new(&options, now, state.revision),
            shared,
            options,
            requests,
            deferred: None,
            state,
            sweeping: true,
            broken: false,
            refusing: false,
            last_group: 0,
            last_sync: Duration::ZERO,
            last_write: now,
            last_settle: None,
            settled: false,
        }
    }

    /// Serves until closed or all handles are gone.
    pub(super) fn run(mut self) {
        self.shared.disk.prepare();
        let mut closing = None;
        loop {
            match self.receive() {
                Ok(Request::Commit(first)) => {
                    let group = self.gather(first);
                    self.commit(group);
                }
                Ok(Request::Compact { to, reply }) => {
                    let _ = reply.send(self.compact(to));
                }
                Ok(Request::Close { reply }) => {
                    closing = Some(reply);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => self.idle(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.shared.close();
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
    }

    fn receive(&mut self) -> Result<Request, RecvTimeoutError> {
        match self.deferred.take() {
            Some(request) => Ok(request),
            None if self.sweeping && !self.broken => {
                self.requests.recv_timeout(Duration::from_millis(1))
            }
            None => self.requests.recv_timeout(self.policy.interval()),
        }
    }

    /// Collects a group. Callers answered by the last group are about to come back, all within
    /// much less than a sync: waiting for them doubles what each sync carries.
    fn gather(&mut self, first: Commit) -> Vec<Commit> {
        let deadline = Instant::now() + (self.last_sync / 8).min(GATHER);
        let mut bytes = first.batch.bytes();
        let mut group = vec![first];
        while group.len() < GROUP_BATCHES && bytes < GROUP_BYTES {
            let wait = match group.len() < self.last_group {
                true => deadline.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            match self.requests.recv_timeout(wait) {
                Ok(Request::Commit(commit)) => {
                    bytes += commit.batch.bytes();
                    group.push(commit);
                }
                Ok(other) => {
                    self.deferred = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.last_group = group.len();
        group
    }

    fn commit(&mut self, group: Vec<Commit>) {
        let result = self.check_room(&group).and_then(|()| self.write_group(&group));
        match result {
            Ok(answers) => {
                if std::mem::take(&mut self.refusing) {
                    tracing::info!("commits are accepted again");
                }
                for (commit, answer) in group.into_iter().zip(answers) {
                    let _ = commit.reply.send(answer);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.refusing, true) {
                    tracing::warn!(%error, "commits are refused");
                }
                for commit in group {
                    let _ = commit.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Refuses what would fill the disk before the disk does, see [`super::disk`].
    fn check_room(&mut self, group: &[Commit]) -> Result<(), CommitError> {
        let ops: usize = group.iter().map(|commit| commit.batch.ops.len()).sum();
        let bytes: usize = group.iter().map(|commit| commit.batch.bytes()).sum();
        // A value may fill half of its pages; each op touches some pages of each tree; and
        // there is what compaction rewrites along the way.
        let need = 2 * bytes as u64 + 16_384 * ops as u64 + (1 << 20);
        if self.shared.disk.room() < need || !self.shared.disk.hold_reserve() {
            return Err(CommitError::Full(FullReason::Disk));
        }
        Ok(())
    }

    /// One transaction for the whole group; an answer for each batch.
    fn write_group(
        &mut self,
        group: &[Commit],
    ) -> Result<Vec<Result<Committed, CommitError>>, CommitError> {
        let options = self.options.clone();
        let (answers, changes) = self.transact(|tables, state, policy| {
            let mut answers = Vec::with_capacity(group.len());
            let mut changes: Vec<Change> = Vec::with_capacity(group.len());
            let mut ops = 0;
            for Commit { batch, .. } in group {
                ops += batch.ops.len();
                let used = state.live_bytes + state.history_bytes;
                if used + batch.bytes() as u64 > options.max_bytes && !batch.only_deletes() {
                    let limit = options.max_bytes;
                    answers.push(Err(CommitError::Full(FullReason::Limit { used, limit })));
                    continue;
                }
                let answer = apply(tables, state, batch)?;
                answers.push(answer.map(|change| {
                    changes.extend(change);
                    Committed { revision: state.revision }
                }));
            }
            if !changes.is_empty() {
                policy.advance(state, Instant::now());
            }
            let limit = if changes.is_empty() { 0 } else { SWEEP_BUSY + SWEEP_PER_OP * ops };
            Ok((limit, (answers, changes)))
        })?;
        self.last_write = Instant::now();
        self.settled &= changes.is_empty();
        self.shared.publish(changes);
        Ok(answers)
    }

    /// Runs `work` in a transaction, sweeps as many records as it says, and makes both durable;
    /// a transaction that left the state as it was is not written.
    fn transact<T>(
        &mut self,
        work: impl Fn(&mut Tables<'_>, &mut State, &mut Policy) -> Result<(usize, T), Fault>,
    ) -> Result<T, CommitError> {
        if self.broken || self.shared.suspect.load(Ordering::Acquire) {
            self.recover()?;
        }
        let mut state = self.state;
        let before = self.policy.clone();
        let result = (|| {
            let txn = self.shared.begin_write()?;
            let mut tables = Tables::open(&txn)?;
            let (limit, out) = work(&mut tables, &mut state, &mut self.policy)?;
            let (visited, pending) = compact::step(&mut tables, &mut state, limit)?;
            if state != self.state {
                tables.save(&state)?;
            }
            drop(tables);
            if state == self.state && visited == 0 {
                txn.abort()?;
                return Ok((out, pending));
            }
            let started = Instant::now();
            txn.commit()?;
            self.last_sync = started.elapsed();
            Ok((out, pending))
        })();
        match result {
            Ok((out, pending)) => {
                self.state = state;
                self.sweeping = pending;
                Ok(out)
            }
            Err(fault) => {
                self.policy = before;
                self.broken = true;
                let error = commit_error(fault);
                // Right away, so that reads go on.
                let _ = self.recover();
                Err(error)
            }
        }
    }

    /// Opens the file again after a failure and takes up what it holds. What the failed
    /// transaction wrote is there whole or not at all; watchers read it from disk if it is.
    fn recover(&mut self) -> Result<(), CommitError> {
        self.broken = true;
        self.shared.disk.drop_reserve();
        let reopened = self.shared.reopen().and_then(|()| {
            let txn = self.shared.begin_write()?;
            let found = Tables::open(&txn).and_then(|tables| {
                let row = tables.meta_state()?;
                row.ok_or_else(|| Fault::Corrupted("the state row is missing".into()))
            });
            txn.abort()?;
            found
        });
        match reopened {
            Ok(found) => {
                self.state = found;
                self.broken = false;
                self.shared.reset(found.revision);
                self.shared.disk.hold_reserve();
                Ok(())
            }
            Err(fault) => {
                tracing::error!(%fault, "the store's file cannot be opened again");
                Err(commit_error(fault))
            }
        }
    }

    fn compact(&mut self, to: Revision) -> Result<(), CompactError> {
        if to > self.state.revision {
            return Err(CompactError::Future { requested: to, latest: self.state.revision });
        }
        self.transact(|_, state, _| {
            state.compacted = state.compacted.max(to);
            state.short_compacted = state.short_compacted.max(state.compacted);
            Ok((SWEEP_BUSY, ()))
        })?;
        Ok(())
    }

    /// Housekeeping between groups, when none is waiting.
    fn idle(&mut self) {
        let now = Instant::now();
        self.policy.note(now, self.state.revision);
        let full = self.shared.disk.room() < 2 << 20;
        if self.broken || self.shared.suspect.load(Ordering::Acquire) {
            let _ = self.recover();
        } else if full {
            self.sweeping = false; // until something is written again
        } else if self.sweeping || self.policy.due(&self.state, now) {
            let swept = self.transact(|_, state, policy| {
                policy.advance(state, now);
                Ok((SWEEP_IDLE, ()))
            });
            if let Err(error) = swept {
                tracing::warn!(%error, "compaction failed, it will be tried again");
            }
        } else if !self.settled && now - self.last_write > SETTLE_AFTER {
            self.settle(now);
        }
    }

    /// Saves redb's free-page map, so that opening after a crash need not rebuild it from the
    /// whole file, and drops recent changes that nobody may need any more.
    fn settle(&mut self, now: Instant) {
        if self.last_settle.is_some_and(|last| now - last < SETTLE_EVERY) {
            return;
        }
        self.last_settle = Some(now);
        self.settled = true;
        self.shared.reset(self.state.revision);
        let result = self.shared.begin_write().and_then(|mut txn| {
            txn.set_quick_repair(true);
            Ok(txn.commit()?)
        });
        if let Err(fault) = result {
            tracing::warn!(%fault, "settling failed");
            let _ = self.recover();
        }
    }
}

/// The commit error that a fault is.
fn commit_error(fault: Fault) -> CommitError {
    match fault {
        Fault::Io(error) if is_full(&error) => CommitError::Full(FullReason::Disk),
        fault => CommitError::Storage { reason: fault.to_string() },
    }
}
