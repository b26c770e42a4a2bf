//! Limits and how much history is kept.

use std::time::Duration;

/// How a store behaves. The defaults suit a control plane of thousands of Pods that idles in
/// tens of megabytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for cached pages of the file.
    pub cache_bytes: usize,
    /// Memory for recent changes, from which watchers are served without touching the disk.
    pub recent_bytes: usize,
    /// Superseded values and deletions are kept at least this long…
    pub keep_for: Duration,
    /// …and those of [`crate::Retention::Short`] this long…
    pub keep_short_for: Duration,
    /// …and never fewer than this many revisions, however old…
    pub keep_revisions: u64,
    /// …unless their bytes exceed this, when the oldest are dropped early.
    pub max_history_bytes: u64,
    /// Bound on live data and history together; puts beyond it are refused as full. The file
    /// stays below about twice that, since values are stored in pages of 4 KiB.
    pub max_bytes: u64,
    /// Longest key.
    pub max_key_bytes: usize,
    /// Longest value.
    pub max_value_bytes: usize,
    /// Most operations in a batch.
    pub max_batch_ops: usize,
    /// Most bytes in a batch.
    pub max_batch_bytes: usize,
    /// Whether to compact by the policy above; otherwise only [`crate::Store::compact`] does.
    pub auto_compact: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_bytes: 16 << 20,
            recent_bytes: 4 << 20,
            keep_for: Duration::from_secs(300),
            keep_short_for: Duration::from_secs(60),
            keep_revisions: 0,
            max_history_bytes: 256 << 20,
            max_bytes: 8 << 30,
            max_key_bytes: 4 << 10,
            max_value_bytes: 4 << 20,
            max_batch_ops: 4096,
            max_batch_bytes: 32 << 20,
            auto_compact: true,
        }
    }
}
