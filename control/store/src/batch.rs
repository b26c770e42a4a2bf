//! What is written: preconditions and operations, committed together under one revision.

use crate::{CommitError, Options, Revision};
use bytes::Bytes;
use std::collections::HashSet;

/// Puts and deletes that commit together, if all conditions hold.
///
/// ```
/// # use coracle_store::{Batch, Expect, Retention};
/// let create = Batch::new().expect("/a", Expect::Absent).put("/a", "1", Retention::Long);
/// let update = Batch::new().expect("/a", Expect::Revision(7)).put("/a", "2", Retention::Long);
/// let delete = Batch::new().expect("/a", Expect::Present).delete("/a");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Checked in order; the first that fails is reported.
    pub conditions: Vec<Condition>,
    /// Applied in order; each key at most once.
    pub ops: Vec<Op>,
}

/// One precondition of a batch.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The key looked at; need not be one that the batch writes.
    pub key: Bytes,
    /// What must be found there.
    pub expect: Expect,
}

/// What a [`Condition`] demands of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key exists and was last written at this revision.
    Revision(Revision),
}

/// One change of one key.
#[derive(Clone, Debug)]
pub enum Op {
    /// Sets the value.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// How long superseded values are kept.
        class: Retention,
    },
    /// Removes the key; of a key that does not exist, nothing.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Op {
    /// The key that the operation changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// How long the past of a key is kept. A delete keeps the class of the value that it removes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// Until ordinary compaction.
    #[default]
    Long,
    /// Only for [`Options::keep_short_for`]: for what is rewritten often and read late by
    /// nobody (Leases, Events). Live watchers see every change all the same. A watch that
    /// resumes, or a read at a revision, from before a dropped change *in its own range* is told
    /// `Compacted`; ranges without such keys are not affected.
    Short,
}

/// The outcome of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision of the batch; of a batch that changed nothing, the latest revision.
    pub revision: Revision,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a condition.
    pub fn expect(mut self, key: impl Into<Bytes>, expect: Expect) -> Batch {
        self.conditions.push(Condition { key: key.into(), expect });
        self
    }

    /// Adds a put.
    pub fn put(
        mut self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        class: Retention,
    ) -> Batch {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), class });
        self
    }

    /// Adds a delete.
    pub fn delete(mut self, key: impl Into<Bytes>) -> Batch {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// The bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        });
        ops.sum::<usize>() + self.conditions.iter().map(|c| c.key.len()).sum::<usize>()
    }

    /// Whether it can only shrink the live data.
    pub(crate) fn only_deletes(&self) -> bool {
        self.ops.iter().all(|op| matches!(op, Op::Delete { .. }))
    }

    /// Refuses what no state of the store could accept.
    pub(crate) fn check(&self, options: &Options) -> Result<(), CommitError> {
        let too_large = |what, found, limit| Err(CommitError::TooLarge { what, found, limit });
        if self.ops.len() > options.max_batch_ops {
            return too_large("number of operations", self.ops.len(), options.max_batch_ops);
        }
        if self.bytes() > options.max_batch_bytes {
            return too_large("size of the batch", self.bytes(), options.max_batch_bytes);
        }
        let mut seen = HashSet::with_capacity(self.ops.len());
        for op in &self.ops {
            let key = op.key();
            if key.len() > options.max_key_bytes {
                return too_large("size of a key", key.len(), options.max_key_bytes);
            }
            if let Op::Put { value, .. } = op
                && value.len() > options.max_value_bytes
            {
                return too_large("size of a value", value.len(), options.max_value_bytes);
            }
            if !seen.insert(key) {
                return Err(CommitError::DuplicateKey { key: key.clone() });
            }
        }
        Ok(())
    }
}
