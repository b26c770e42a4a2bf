//! The embedded store's watch: a cursor over the recent changes, or over the log when behind.

use super::{read, shared::Head, shared::Shared};
use crate::{Change, Range, ReadError, Revision, WatchError, watch::Feed};
use async_trait::async_trait;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::watch;

/// Changes taken at once from the shared buffer.
const TAKE: usize = 256;

pub(super) struct Follow {
    shared: Arc<Shared>,
    head: watch::Receiver<Head>,
    range: Range,
    /// Everything up to here was delivered or is in `ready`.
    cursor: Revision,
    ready: VecDeque<Change>,
}

impl Follow {
    pub(super) fn new(shared: Arc<Shared>, range: Range, after: Revision) -> Follow {
        let head = shared.follow();
        Follow { shared, head, range, cursor: after, ready: VecDeque::new() }
    }

    /// Queues what matches, and a report of progress if that ends before `reached`.
    fn queue(&mut self, changes: impl IntoIterator<Item = Change>, reached: Revision) {
        self.ready.extend(changes);
        if self.ready.back().is_none_or(|last| last.revision < reached) {
            self.ready.push_back(Change { revision: reached, events: Vec::new() });
        }
        self.cursor = reached;
    }

    fn filter(&self, change: &Change) -> Option<Change> {
        let inside = |event: &&crate::Event| self.range.contains(&event.key);
        let events: Vec<_> = change.events.iter().filter(inside).cloned().collect();
        (!events.is_empty()).then_some(Change { revision: change.revision, events })
    }
}

#[async_trait]
impl Feed for Follow {
    async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            let head = *self.head.borrow_and_update();
            if head.closed {
                return Err(ReadError::Closed);
            }
            if self.cursor >= head.revision {
                self.head.changed().await.map_err(|_| ReadError::Closed)?;
                continue;
            }
            let after = self.cursor;
            match self.shared.recent(after, TAKE) {
                Some(changes) => {
                    let Some(reached) = changes.last().map(|change| change.revision) else {
                        continue;
                    };
                    let matching: Vec<_> = changes.iter().filter_map(|c| self.filter(c)).collect();
                    self.queue(matching, reached);
                }
                None => {
                    let (shared, range) = (self.shared.clone(), self.range.clone());
                    let replay = move || shared.read(|txn| read::replay(txn, &range, after));
                    let (changes, reached) = tokio::task::spawn_blocking(replay)
                        .await
                        .map_err(|_| ReadError::Closed)??;
                    self.queue(changes, reached);
                }
            }
        }
    }

    fn ready(&mut self) -> VecDeque<Change> {
        std::mem::take(&mut self.ready)
    }
}
