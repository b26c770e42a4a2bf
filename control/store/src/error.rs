//! One error per operation; each says what to do next.

use crate::{Entry, Revision};
use bytes::Bytes;
use std::{io, path::PathBuf};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process holds the file.
    #[error("{path} is in use by another process: stop that one, or choose another data folder")]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// Written by a later version.
    #[error(
        "{path} has store format {found}, this binary knows up to {supported}: \
         use the newer coracle that wrote it, or choose another data folder"
    )]
    TooNew {
        /// The store's file.
        path: PathBuf,
        /// The format that it has.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// Not a store, or damaged.
    #[error("{path} is not a usable store ({reason}): restore it from a backup, or move it away")]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// No access.
    #[error(
        "{path}: permission denied: run as the user who owns it, or choose another data folder"
    )]
    Permission {
        /// The file or folder.
        path: PathBuf,
    },
    /// No space to create or repair it.
    #[error("{path}: no space left on the disk: free some and start again")]
    Full {
        /// The store's file.
        path: PathBuf,
    },
    /// Another failure of the file system.
    #[error("{path}: {source}: check the disk and the path")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a batch was not committed. Except after [`CommitError::Storage`] and
/// [`CommitError::Closed`], it certainly was not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A condition does not hold.
    #[error("{} {}", key.escape_ascii(), conflict(found.as_ref()))]
    Conflict {
        /// The key of the condition.
        key: Bytes,
        /// What is there.
        found: Option<Entry>,
    },
    /// No room.
    #[error("{0}")]
    Full(FullReason),
    /// Over a limit of [`crate::Options`].
    #[error("{what} is {found}, the limit is {limit}: split it")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The largest accepted.
        limit: usize,
    },
    /// One key twice in a batch.
    #[error("{} is changed twice in one batch: change each key once", key.escape_ascii())]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
    /// The disk failed. Whether the batch was committed is not known; reading tells.
    #[error("writing the store failed: {reason}: check the disk")]
    Storage {
        /// What failed.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Which room ran out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FullReason {
    /// The file system, a quota or a file size limit.
    #[error(
        "no space left on the store's disk: free some; reads go on, writes resume by themselves"
    )]
    Disk,
    /// [`crate::Options::max_bytes`].
    #[error("the store holds {used} of at most {limit} bytes: delete objects, or raise the limit")]
    Limit {
        /// Bytes held, with history.
        used: u64,
        /// The bound.
        limit: u64,
    },
}

fn conflict(found: Option<&Entry>) -> String {
    match found {
        Some(e) => format!("is at revision {}: read it again and retry", e.mod_revision),
        None => "does not exist".to_owned(),
    }
}

/// Why a read was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The revision is forgotten.
    #[error("revision {requested} is compacted, the oldest is {oldest}: read the latest instead")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest that can be read.
        oldest: Revision,
    },
    /// The revision does not exist yet.
    #[error("revision {requested} does not exist yet, the latest is {latest}")]
    Future {
        /// The revision asked for.
        requested: Revision,
        /// The latest.
        latest: Revision,
    },
    /// The disk failed.
    #[error("reading the store failed: {reason}: check the disk")]
    Storage {
        /// What failed.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a watch could not begin, or ended.
pub type WatchError = ReadError;

/// Why history was not compacted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// The revision does not exist yet.
    #[error("revision {requested} does not exist yet, the latest is {latest}")]
    Future {
        /// The revision asked for.
        requested: Revision,
        /// The latest.
        latest: Revision,
    },
    /// The mark could not be written.
    #[error(transparent)]
    Commit(Box<CommitError>),
}

impl From<CommitError> for CompactError {
    fn from(error: CommitError) -> Self {
        Self::Commit(Box::new(error))
    }
}
