//! The tables and their encodings.
//!
//! Values are written once, into `log`, keyed by position (revision, index within it); `keys`
//! points each key at its latest record, and every record points at the one it superseded. So a
//! put costs one append and one small row, a watch resumes by reading the log forwards, and the
//! past of a key is read by following it backwards.

use crate::{Entry, Revision};
use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

/// Any failure of the storage below; never a refusal of ours.
pub(super) type Fault = redb::Error;

/// The format written here. A newer one is refused.
pub(super) const FORMAT: u32 = 1;

/// Key → [`KeyRow`], of live keys and of those whose deletion is not compacted yet.
pub(super) const KEYS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("keys");
/// [`Position`] → [`Record`].
pub(super) const LOG: TableDefinition<u128, &[u8]> = TableDefinition::new("log");
/// Positions of records of `Retention::Short`, for early compaction.
pub(super) const SHORT: TableDefinition<u128, ()> = TableDefinition::new("short");
/// Deletions dropped early from the log, by position: their row in `keys` awaits compaction.
pub(super) const GRAVES: TableDefinition<u128, &[u8]> = TableDefinition::new("graves");
/// "format" → u32, "state" → [`State`].
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Revision and index within it; 0 is none.
pub(super) type Position = u128;

pub(super) fn position(revision: Revision, index: u32) -> Position {
    (u128::from(revision) << 32) | u128::from(index)
}

pub(super) fn revision_of(position: Position) -> Revision {
    (position >> 32) as Revision
}

/// What the whole store knows about itself; written with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The latest revision.
    pub(super) revision: Revision,
    /// The oldest revision that may be named.
    pub(super) compacted: Revision,
    /// The same for short-lived keys that changed since; at least `compacted`.
    pub(super) short_compacted: Revision,
    /// Log positions up to here have been swept after compaction.
    pub(super) swept: Position,
    pub(super) live_keys: u64,
    pub(super) live_bytes: u64,
    pub(super) history_records: u64,
    pub(super) history_bytes: u64,
}

impl State {
    pub(super) fn decode(bytes: &[u8]) -> Option<State> {
        let mut at = bytes;
        Some(State {
            revision: u64_from(&mut at)?,
            compacted: u64_from(&mut at)?,
            short_compacted: u64_from(&mut at)?,
            swept: position_from(&mut at)?,
            live_keys: u64_from(&mut at)?,
            live_bytes: u64_from(&mut at)?,
            history_records: u64_from(&mut at)?,
            history_bytes: u64_from(&mut at)?,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        for n in [self.revision, self.compacted, self.short_compacted] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.swept.to_le_bytes());
        for n in [self.live_keys, self.live_bytes, self.history_records, self.history_bytes] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out
    }

    /// A record became history.
    pub(super) fn supersede(&mut self, bytes: u64) {
        self.history_records += 1;
        self.history_bytes += bytes;
    }

    /// A record of history was dropped.
    pub(super) fn forget(&mut self, bytes: u64) {
        self.history_records -= 1;
        self.history_bytes -= bytes;
    }
}

/// The head of a key's chain of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRow {
    /// The latest record.
    pub(super) at: Position,
    /// The history of this key is complete from this revision on.
    pub(super) floor: Revision,
    pub(super) create: Revision,
    pub(super) version: u64,
    /// Encoded size of the latest record.
    pub(super) bytes: u32,
    pub(super) deleted: bool,
    pub(super) short: bool,
}

const DELETED: u8 = 1;
const SHORT_LIVED: u8 = 2;

fn flags(deleted: bool, short: bool) -> u8 {
    (u8::from(deleted) * DELETED) | (u8::from(short) * SHORT_LIVED)
}

impl KeyRow {
    pub(super) fn decode(bytes: &[u8]) -> Result<KeyRow, Fault> {
        let mut at = bytes;
        (|| {
            let flags = u8_from(&mut at)?;
            Some(KeyRow {
                deleted: flags & DELETED != 0,
                short: flags & SHORT_LIVED != 0,
                at: position_from(&mut at)?,
                floor: u64_from(&mut at)?,
                create: u64_from(&mut at)?,
                version: u64_from(&mut at)?,
                bytes: u32_from(&mut at)?,
            })
        })()
        .ok_or_else(|| Fault::Corrupted("a row of keys is cut short".into()))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(45);
        out.push(flags(self.deleted, self.short));
        out.extend_from_slice(&self.at.to_le_bytes());
        for n in [self.floor, self.create, self.version] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out
    }
}

/// One change of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) deleted: bool,
    pub(super) short: bool,
    /// The record that this one superseded; it may be compacted away.
    pub(super) prev: Position,
    /// Of a deletion, those of the value deleted.
    pub(super) create: Revision,
    pub(super) version: u64,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Record<'a>, Fault> {
        let mut at = bytes;
        (|| {
            let flags = u8_from(&mut at)?;
            let prev = position_from(&mut at)?;
            let create = u64_from(&mut at)?;
            let version = u64_from(&mut at)?;
            let key_len = u32_from(&mut at)? as usize;
            let (key, value) = at.split_at_checked(key_len)?;
            Some(Record {
                deleted: flags & DELETED != 0,
                short: flags & SHORT_LIVED != 0,
                prev,
                create,
                version,
                key,
                value,
            })
        })()
        .ok_or_else(|| Fault::Corrupted("a record of the log is cut short".into()))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(37 + self.key.len() + self.value.len());
        out.push(flags(self.deleted, self.short));
        out.extend_from_slice(&self.prev.to_le_bytes());
        out.extend_from_slice(&self.create.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
        out
    }

    /// As the entry that readers see; `None` for a deletion.
    pub(super) fn entry(&self, at: Position) -> Option<Entry> {
        (!self.deleted).then(|| Entry {
            key: Bytes::copy_from_slice(self.key),
            value: Bytes::copy_from_slice(self.value),
            create_revision: self.create,
            mod_revision: revision_of(at),
            version: self.version,
        })
    }
}

/// All tables, open for writing.
pub(super) struct Tables<'t> {
    pub(super) keys: Table<'t, &'static [u8], &'static [u8]>,
    pub(super) log: Table<'t, u128, &'static [u8]>,
    pub(super) short: Table<'t, u128, ()>,
    pub(super) graves: Table<'t, u128, &'static [u8]>,
    pub(super) meta: Table<'t, &'static str, &'static [u8]>,
}

impl<'t> Tables<'t> {
    /// Creates those that are missing.
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Tables<'t>, Fault> {
        Ok(Tables {
            keys: txn.open_table(KEYS)?,
            log: txn.open_table(LOG)?,
            short: txn.open_table(SHORT)?,
            graves: txn.open_table(GRAVES)?,
            meta: txn.open_table(META)?,
        })
    }

    /// The state that the last transaction saved.
    pub(super) fn meta_state(&self) -> Result<Option<State>, Fault> {
        Ok(meta_row(&self.meta, "state")?.and_then(|bytes| State::decode(&bytes)))
    }

    pub(super) fn save(&mut self, state: &State) -> Result<(), Fault> {
        self.meta.insert("state", &state.encode()[..])?;
        Ok(())
    }
}

/// A row of the meta table.
pub(super) fn meta_row(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<Vec<u8>>, Fault> {
    Ok(meta.get(name)?.map(|row| row.value().to_vec()))
}

/// The state that a read transaction sees.
pub(super) fn state(txn: &ReadTransaction) -> Result<State, Fault> {
    meta_row(&txn.open_table(META)?, "state")?
        .and_then(|bytes| State::decode(&bytes))
        .ok_or_else(|| Fault::Corrupted("the state row is missing or cut short".into()))
}

/// The row of `key`.
pub(super) fn key_row(
    keys: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<KeyRow>, Fault> {
    keys.get(key)?.map(|row| KeyRow::decode(row.value())).transpose()
}

fn take<const N: usize>(at: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = at.split_first_chunk()?;
    *at = rest;
    Some(*head)
}

fn u8_from(at: &mut &[u8]) -> Option<u8> {
    take::<1>(at).map(|b| b[0])
}

fn u32_from(at: &mut &[u8]) -> Option<u32> {
    take(at).map(u32::from_le_bytes)
}

fn u64_from(at: &mut &[u8]) -> Option<u64> {
    take(at).map(u64::from_le_bytes)
}

fn position_from(at: &mut &[u8]) -> Option<Position> {
    take(at).map(u128::from_le_bytes)
}
