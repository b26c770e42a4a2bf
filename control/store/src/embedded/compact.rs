//! Compaction, in steps small enough to ride along in a group commit.
//!
//! Moving the mark (`State::compacted`) makes history unreadable at once; the sweep then visits
//! every log record up to the mark once and drops what it superseded, and itself if it is a
//! deletion. `State::short_compacted` does the same earlier for `Retention::Short`, leaving
//! `KeyRow::floor` behind so that a reader whose range lost something is told.

use super::tables::{
    Fault, KeyRow, Position, Record, State, Tables, key_row, position, revision_of,
};
use redb::ReadableTable;

/// Whether a sweep has work left.
fn pending(tables: &Tables<'_>, state: &State) -> Result<bool, Fault> {
    let due = |at: Position, mark| revision_of(at) <= mark;
    Ok(state.swept + 1 < position(state.compacted + 1, 0)
        || tables.short.first()?.is_some_and(|(at, _)| due(at.value(), state.short_compacted))
        || tables.graves.first()?.is_some_and(|(at, _)| due(at.value(), state.compacted)))
}

/// Visits at most `limit` records. Returns how many it visited and whether work is left.
pub(super) fn step(
    tables: &mut Tables<'_>,
    state: &mut State,
    limit: usize,
) -> Result<(usize, bool), Fault> {
    let mut visited = sweep_short(tables, state, limit)?;
    visited += sweep_graves(tables, state, limit - visited)?;
    visited += sweep_log(tables, state, limit - visited)?;
    Ok((visited, pending(tables, state)?))
}

/// What the sweeps need of a record, without its value.
struct Visit {
    at: Position,
    prev: Position,
    deleted: bool,
    key: Vec<u8>,
}

fn visit(at: Position, bytes: &[u8]) -> Result<Visit, Fault> {
    let record = Record::decode(bytes)?;
    Ok(Visit { at, prev: record.prev, deleted: record.deleted, key: record.key.to_vec() })
}

fn sweep_log(tables: &mut Tables<'_>, state: &mut State, limit: usize) -> Result<usize, Fault> {
    let end = position(state.compacted + 1, 0);
    let mut visits = Vec::new();
    for row in tables.log.range(state.swept + 1..end)?.take(limit) {
        let (at, bytes) = row?;
        visits.push(visit(at.value(), bytes.value())?);
    }
    state.swept = match visits.last() {
        Some(last) if visits.len() == limit => last.at,
        _ if limit == 0 => state.swept,
        _ => end - 1,
    };
    for visit in &visits {
        drop_record(tables, state, visit.prev)?;
        if visit.deleted {
            drop_record(tables, state, visit.at)?;
            bury(tables, visit.at, &visit.key)?;
        }
    }
    Ok(visits.len())
}

fn sweep_short(tables: &mut Tables<'_>, state: &mut State, limit: usize) -> Result<usize, Fault> {
    let end = position(state.short_compacted + 1, 0);
    let positions: Vec<Position> = tables
        .short
        .range(..end)?
        .take(limit)
        .map(|row| row.map(|(at, _)| at.value()))
        .collect::<Result<_, _>>()?;
    for &at in &positions {
        tables.short.remove(at)?;
        let Some(record) = tables.log.get(at)?.map(|b| visit(at, b.value())).transpose()? else {
            continue; // the other sweep was here already
        };
        if record.prev != 0 {
            // A key that was long-lived once has a past that only the other sweep may clear,
            // going forwards; taking a link out of its chain would strand what is behind.
            let behind = match tables.log.get(record.prev)? {
                Some(prev) => Record::decode(prev.value())?.prev,
                None => 0,
            };
            if behind != 0 && tables.log.get(behind)?.is_some() {
                continue;
            }
            drop_record(tables, state, record.prev)?;
            raise_floor(tables, &record)?;
        }
        if record.deleted {
            drop_record(tables, state, at)?;
            tables.graves.insert(at, &record.key[..])?;
            raise_floor(tables, &record)?;
        }
    }
    Ok(positions.len())
}

fn sweep_graves(tables: &mut Tables<'_>, state: &mut State, limit: usize) -> Result<usize, Fault> {
    let end = position(state.compacted + 1, 0);
    let graves: Vec<(Position, Vec<u8>)> = tables
        .graves
        .range(..end)?
        .take(limit)
        .map(|row| row.map(|(at, key)| (at.value(), key.value().to_vec())))
        .collect::<Result<_, _>>()?;
    for (at, key) in &graves {
        tables.graves.remove(at)?;
        bury(tables, *at, key)?;
    }
    Ok(graves.len())
}

fn drop_record(tables: &mut Tables<'_>, state: &mut State, at: Position) -> Result<(), Fault> {
    if at != 0
        && let Some(dropped) = tables.log.remove(at)?
    {
        state.forget(dropped.value().len() as u64);
    }
    Ok(())
}

/// Removes the row of a key whose deletion is compacted, unless it lives again.
fn bury(tables: &mut Tables<'_>, at: Position, key: &[u8]) -> Result<(), Fault> {
    if key_row(&tables.keys, key)?.is_some_and(|row| row.at == at) {
        tables.keys.remove(key)?;
    }
    Ok(())
}

fn raise_floor(tables: &mut Tables<'_>, record: &Visit) -> Result<(), Fault> {
    if let Some(row) = key_row(&tables.keys, &record.key)? {
        let row = KeyRow { floor: row.floor.max(revision_of(record.at)), ..row };
        tables.keys.insert(&record.key[..], &row.encode()[..])?;
    }
    Ok(())
}
