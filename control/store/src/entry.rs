//! What is read: entries, ranges of keys, sizes.

use crate::Revision;
use bytes::Bytes;

/// A key and the value that it had at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision at which the key came into being (again).
    pub create_revision: Revision,
    /// The revision of this value.
    pub mod_revision: Revision,
    /// How often the key was written since it came into being; the first write makes it 1.
    pub version: u64,
}

/// A half-open interval of keys, in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub start: Bytes,
    /// The key after the last; `None` is no bound.
    pub end: Option<Bytes>,
}

impl Range {
    /// Every key.
    pub fn all() -> Range {
        Range { start: Bytes::new(), end: None }
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Range {
        let start = key.into();
        let end = Some(successor(&start));
        Range { start, end }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Range {
        let start = prefix.into();
        // The shortest key greater than all of them: the prefix, its last byte that can be
        // counted up counted up, and cut there.
        let end = start
            .iter()
            .rposition(|b| *b < 0xff)
            .map(|at| [&start[..at], &[start[at] + 1]].concat().into());
        Range { start, end }
    }

    /// The rest of this range behind `key`, to read on from there.
    pub fn after(&self, key: &[u8]) -> Range {
        Range { start: successor(key), end: self.end.clone() }
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// Whether no key can lie inside.
    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// The answer to a range read.
#[derive(Clone, Debug)]
pub struct RangeResult {
    /// In key order.
    pub entries: Vec<Entry>,
    /// Whether the limit cut entries off.
    pub more: bool,
    /// The revision that the entries show: the one asked for, else the latest.
    pub revision: Revision,
}

/// Sizes and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The latest revision.
    pub revision: Revision,
    /// The oldest revision that reads and watches may name.
    pub compacted: Revision,
    /// Keys that exist.
    pub live_keys: u64,
    /// Their bytes, with values.
    pub live_bytes: u64,
    /// Superseded values and deletions that are still kept.
    pub history_records: u64,
    /// Their bytes.
    pub history_bytes: u64,
    /// Bytes on disk (allocated, which may be less than the file's length).
    pub file_bytes: u64,
}
