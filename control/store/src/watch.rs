//! What a watcher sees.
//!
//! A [`Watch`] is a cursor, not a queue: the backend keeps one bounded buffer of recent changes
//! for all watchers, and whoever falls behind it reads history from disk until it has caught up.
//! So a slow watcher costs no memory and loses nothing, and only compaction can end it.

use crate::{Revision, WatchError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, stream};
use std::collections::VecDeque;

/// All that one commit changed in the watched range; with no events, a report of progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision of the commit. Everything up to it has now been delivered.
    pub revision: Revision,
    /// In the order of the batch. Empty where nothing in the range changed up to `revision`.
    pub events: Vec<Event>,
}

/// The change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// The new value; `None` when deleted.
    pub value: Option<Bytes>,
    /// The value before, and its revision; `None` when the key did not exist.
    pub prev: Option<(Bytes, Revision)>,
    /// When the key came into being; for a deletion, that of the key deleted.
    pub create_revision: Revision,
}

/// An ordered, gap-free sequence of changes; see [`crate::Store::watch`].
pub struct Watch {
    feed: Box<dyn Feed>,
    ended: bool,
}

/// Where a backend's watch takes its changes from.
#[async_trait]
pub(crate) trait Feed: Send {
    /// The next change; must lose nothing when the future is dropped.
    async fn next(&mut self) -> Result<Change, WatchError>;

    /// What came together with the last one and follows it.
    fn ready(&mut self) -> VecDeque<Change>;
}

impl Watch {
    pub(crate) fn new(feed: impl Feed + 'static) -> Watch {
        Watch { feed: Box::new(feed), ended: false }
    }

    /// The next change, as soon as there is one; an error is the last item. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Change, WatchError>> {
        if self.ended {
            return None;
        }
        let item = self.feed.next().await;
        self.ended = item.is_err();
        Some(item)
    }

    /// The next change and those that are there behind it: a group that was synced to disk together arrives together.
    /// Cancel-safe.
    pub async fn next_group(&mut self) -> Option<Result<VecDeque<Change>, WatchError>> {
        Some(self.next().await?.map(|first| {
            let mut group = self.feed.ready();
            group.push_front(first);
            group
        }))
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Change, WatchError>> + Send {
        stream::unfold(self, |mut watch| async move { Some((watch.next().await?, watch)) })
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("ended", &self.ended).finish_non_exhaustive()
    }
}
