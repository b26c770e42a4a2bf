//! The seam between [`crate::Store`] and what keeps the data. The contract of each method is the
//! one that `Store` documents.

use crate::{
    Batch, CommitError, Committed, CompactError, Entry, Range, RangeResult, ReadError, Revision,
    Stats, Watch, WatchError,
};
use async_trait::async_trait;

#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    fn revision(&self) -> Revision;
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError>;
    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Entry>, ReadError>;
    async fn range(
        &self,
        range: Range,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<RangeResult, ReadError>;
    async fn watch(&self, range: Range, after: Revision) -> Result<Watch, WatchError>;
    async fn compact(&self, to: Revision) -> Result<(), CompactError>;
    async fn stats(&self) -> Result<Stats, ReadError>;
    async fn close(&self);
}
