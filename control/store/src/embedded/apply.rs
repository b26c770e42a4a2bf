//! One batch against the tables, inside the writer's transaction.

use super::tables::{Fault, KeyRow, Position, Record, State, Tables, key_row, position};
use crate::{Batch, Change, CommitError, Entry, Event, Expect, Op, Retention};
use bytes::Bytes;
use redb::ReadableTable;

/// Checks all conditions, then applies all ops. `Ok(Err(_))` left the tables as they were;
/// `Ok(Ok(None))` too, since there was nothing to change.
pub(super) fn apply(
    tables: &mut Tables<'_>,
    state: &mut State,
    batch: &Batch,
) -> Result<Result<Option<Change>, CommitError>, Fault> {
    for condition in &batch.conditions {
        let row = key_row(&tables.keys, &condition.key)?.filter(|row| !row.deleted);
        let holds = match (condition.expect, row) {
            (Expect::Absent, row) => row.is_none(),
            (Expect::Present, row) => row.is_some(),
            (Expect::Revision(r), row) => {
                row.is_some_and(|row| super::tables::revision_of(row.at) == r)
            }
        };
        if !holds {
            let found = row.map(|row| load(tables, row.at)).transpose()?.flatten();
            return Ok(Err(CommitError::Conflict { key: condition.key.clone(), found }));
        }
    }
    let revision = state.revision + 1;
    let mut events = Vec::with_capacity(batch.ops.len());
    for op in &batch.ops {
        let at = position(revision, events.len() as u32);
        let old = key_row(&tables.keys, op.key())?;
        let event = match op {
            Op::Put { key, value, class } => {
                Some(put(tables, state, at, old, key, value, *class == Retention::Short)?)
            }
            Op::Delete { key } => match old.filter(|row| !row.deleted) {
                Some(old) => Some(delete(tables, state, at, old, key)?),
                None => None,
            },
        };
        events.extend(event);
    }
    if events.is_empty() {
        return Ok(Ok(None));
    }
    state.revision = revision;
    Ok(Ok(Some(Change { revision, events })))
}

fn put(
    tables: &mut Tables<'_>,
    state: &mut State,
    at: Position,
    old: Option<KeyRow>,
    key: &Bytes,
    value: &Bytes,
    short: bool,
) -> Result<Event, Fault> {
    let live = old.filter(|row| !row.deleted);
    let revision = super::tables::revision_of(at);
    let record = Record {
        deleted: false,
        short,
        // Also a deletion is linked to, so that the past before it can still be read.
        prev: old.map_or(0, |row| row.at),
        create: live.map_or(revision, |row| row.create),
        version: live.map_or(1, |row| row.version + 1),
        key,
        value,
    };
    let prev = supersede(tables, state, live)?;
    let bytes = write(tables, at, old, &record)?;
    state.live_keys += 1;
    state.live_bytes += u64::from(bytes);
    Ok(Event { key: key.clone(), value: Some(value.clone()), prev, create_revision: record.create })
}

fn delete(
    tables: &mut Tables<'_>,
    state: &mut State,
    at: Position,
    old: KeyRow,
    key: &Bytes,
) -> Result<Event, Fault> {
    let record = Record {
        deleted: true,
        short: old.short,
        prev: old.at,
        create: old.create,
        version: old.version,
        key,
        value: &[],
    };
    let prev = supersede(tables, state, Some(old))?;
    let bytes = write(tables, at, Some(old), &record)?;
    state.supersede(u64::from(bytes));
    Ok(Event { key: key.clone(), value: None, prev, create_revision: record.create })
}

/// Moves the live value, if any, to history and returns it.
fn supersede(
    tables: &Tables<'_>,
    state: &mut State,
    live: Option<KeyRow>,
) -> Result<Option<(Bytes, crate::Revision)>, Fault> {
    let Some(live) = live else { return Ok(None) };
    state.live_keys -= 1;
    state.live_bytes -= u64::from(live.bytes);
    state.supersede(u64::from(live.bytes));
    Ok(load(tables, live.at)?.map(|entry| (entry.value, entry.mod_revision)))
}

fn write(
    tables: &mut Tables<'_>,
    at: Position,
    old: Option<KeyRow>,
    record: &Record<'_>,
) -> Result<u32, Fault> {
    let encoded = record.encode();
    let row = KeyRow {
        at,
        floor: old.map_or(0, |row| row.floor),
        create: record.create,
        version: record.version,
        bytes: encoded.len() as u32,
        deleted: record.deleted,
        short: record.short,
    };
    tables.log.insert(at, &encoded[..])?;
    tables.keys.insert(record.key, &row.encode()[..])?;
    if record.short {
        tables.short.insert(at, ())?;
    }
    Ok(row.bytes)
}

fn load(tables: &Tables<'_>, at: Position) -> Result<Option<Entry>, Fault> {
    let Some(bytes) = tables.log.get(at)? else {
        return Err(Fault::Corrupted(format!("record {at:#x} of a live key is missing")));
    };
    Ok(Record::decode(bytes.value())?.entry(at))
}
