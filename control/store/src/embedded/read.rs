//! Reads of one snapshot: a key, a range, a stretch of the log.

use super::tables::{
    Fault, KEYS, KeyRow, LOG, Position, Record, State, key_row, position, revision_of, state,
};
use crate::{Change, Entry, Event, Range, RangeResult, ReadError, Revision};
use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction};
use std::ops::Bound;

/// A refusal of ours, or a failure below that may be retried on a reopened file.
pub(super) enum Failure {
    Refused(ReadError),
    Fault(Fault),
}

impl<E: Into<Fault>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Fault(error.into())
    }
}

fn compacted<T>(requested: Revision, oldest: Revision) -> Result<T, Failure> {
    Err(Failure::Refused(ReadError::Compacted { requested, oldest }))
}

/// The state, if `at` lies within what it still knows.
pub(super) fn checked(
    txn: &ReadTransaction,
    at: Option<Revision>,
) -> Result<(State, Revision), Failure> {
    let state = state(txn)?;
    let requested = at.unwrap_or(state.revision);
    if requested > state.revision {
        let latest = state.revision;
        return Err(Failure::Refused(ReadError::Future { requested, latest }));
    }
    if requested < state.compacted {
        return compacted(requested, state.compacted);
    }
    Ok((state, requested))
}

/// A snapshot's tables.
struct Snapshot {
    keys: ReadOnlyTable<&'static [u8], &'static [u8]>,
    log: ReadOnlyTable<u128, &'static [u8]>,
}

impl Snapshot {
    fn open(txn: &ReadTransaction) -> Result<Snapshot, Failure> {
        Ok(Snapshot { keys: txn.open_table(KEYS)?, log: txn.open_table(LOG)? })
    }

    /// What the key of `row` was at revision `at`: follows its chain backwards.
    fn entry(&self, row: KeyRow, at: Revision, state: &State) -> Result<Option<Entry>, Failure> {
        if revision_of(row.at) > at && at < row.floor {
            return compacted(at, state.short_compacted.max(row.floor));
        }
        if revision_of(row.at) <= at && row.deleted {
            return Ok(None);
        }
        let mut position = row.at;
        loop {
            let Some(bytes) = self.log.get(position)? else {
                if position == row.at {
                    return Err(Fault::Corrupted("a key's latest record is missing".into()).into());
                }
                // The chain ends where the key was created, or at a deletion swept since.
                return Ok(None);
            };
            let record = Record::decode(bytes.value())?;
            if revision_of(position) <= at {
                return Ok(record.entry(position));
            }
            position = record.prev;
        }
    }

    fn rows(
        &self,
        range: &Range,
    ) -> Result<redb::Range<'static, &'static [u8], &'static [u8]>, Failure> {
        let end = match &range.end {
            Some(end) => Bound::Excluded(&end[..]),
            None => Bound::Unbounded,
        };
        Ok(self.keys.range::<&[u8]>((Bound::Included(&range.start[..]), end))?)
    }
}

pub(super) fn get(
    txn: &ReadTransaction,
    key: &[u8],
    at: Option<Revision>,
) -> Result<Option<Entry>, Failure> {
    let (state, at) = checked(txn, at)?;
    let snapshot = Snapshot::open(txn)?;
    match key_row(&snapshot.keys, key)? {
        Some(row) => snapshot.entry(row, at, &state),
        None => Ok(None),
    }
}

pub(super) fn range(
    txn: &ReadTransaction,
    range: &Range,
    at: Option<Revision>,
    limit: Option<usize>,
) -> Result<RangeResult, Failure> {
    let (state, revision) = checked(txn, at)?;
    let mut result = RangeResult { entries: Vec::new(), more: false, revision };
    if range.is_empty() {
        return Ok(result);
    }
    let snapshot = Snapshot::open(txn)?;
    for row in snapshot.rows(range)? {
        let row = KeyRow::decode(row?.1.value())?;
        if let Some(entry) = snapshot.entry(row, revision, &state)? {
            if limit.is_some_and(|limit| result.entries.len() >= limit) {
                result.more = true;
                break;
            }
            result.entries.push(entry);
        }
    }
    Ok(result)
}

/// Refuses to watch `range` from `after` if a change behind it is gone.
pub(super) fn check_watch(
    txn: &ReadTransaction,
    range: &Range,
    after: Revision,
) -> Result<State, Failure> {
    let (state, _) = checked(txn, Some(after))?;
    if after < state.short_compacted && !range.is_empty() {
        for row in Snapshot::open(txn)?.rows(range)? {
            let floor = KeyRow::decode(row?.1.value())?.floor;
            if floor > after {
                return compacted(after, state.short_compacted);
            }
        }
    }
    Ok(state)
}

/// Bounds of one [`replay`]: events returned, and records looked at.
const REPLAY_EVENTS: usize = 256;
const REPLAY_RECORDS: usize = 4096;

/// The changes in `range` after revision `after`, for a bounded stretch of the log, and the
/// revision up to which they are complete.
pub(super) fn replay(
    txn: &ReadTransaction,
    range: &Range,
    after: Revision,
) -> Result<(Vec<Change>, Revision), Failure> {
    let state = check_watch(txn, range, after)?;
    let snapshot = Snapshot::open(txn)?;
    let mut changes: Vec<Change> = Vec::new();
    let mut events = 0;
    let mut last = after;
    for (visited, row) in snapshot.log.range(position(after + 1, 0)..)?.enumerate() {
        let (at, bytes) = row?;
        let at = at.value();
        let revision = revision_of(at);
        if revision != last && (events >= REPLAY_EVENTS || visited >= REPLAY_RECORDS) {
            return Ok((changes, last));
        }
        last = revision;
        let record = Record::decode(bytes.value())?;
        if !range.contains(record.key) {
            continue;
        }
        let event = event(&snapshot, &record)?;
        events += 1;
        match changes.last_mut() {
            Some(change) if change.revision == revision => change.events.push(event),
            _ => changes.push(Change { revision, events: vec![event] }),
        }
    }
    Ok((changes, state.revision))
}

fn event(snapshot: &Snapshot, record: &Record<'_>) -> Result<Event, Failure> {
    Ok(Event {
        key: Bytes::copy_from_slice(record.key),
        value: (!record.deleted).then(|| Bytes::copy_from_slice(record.value)),
        prev: previous(snapshot, record.prev)?,
        create_revision: record.create,
    })
}

/// The value superseded. A deletion is none; nor is one missing from the log, since what a
/// watched change superseded is only ever dropped together with the right to watch it.
fn previous(snapshot: &Snapshot, at: Position) -> Result<Option<(Bytes, Revision)>, Failure> {
    let Some(bytes) = snapshot.log.get(at)? else { return Ok(None) };
    Ok(Record::decode(bytes.value())?.entry(at).map(|entry| (entry.value, entry.mod_revision)))
}
