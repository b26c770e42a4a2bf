//! One watcher's changes, in order and without gap: from the store's history, then the ring, then live.
//!
//! Falling behind is not an error: the source notices that the hub let go of it and continues from where it stands. Only
//! a revision that the store has compacted away ends it.

use std::collections::VecDeque;
use std::sync::Arc;

use coracle_api::{Change, Kind};
use coracle_store::{Range, ReadError, Store};
use tokio::sync::mpsc;

use super::event::Event;
use super::{Cache, Decoder, Scope};
use crate::keys;

/// Why a source ends.
#[derive(Debug)]
pub(crate) enum SourceError {
    /// The revision to go on from is forgotten: list again.
    Compacted,
    /// The server is going down, or the disk failed.
    Failed(String),
}

/// See the module.
pub(crate) struct Source {
    cache: Cache,
    store: Store,
    kind: &'static Kind,
    scope: Scope,
    /// Everything up to here has been returned.
    after: u64,
    state: State,
}

enum State {
    Start,
    History {
        watch: coracle_store::Watch,
        pending: VecDeque<Arc<Change>>,
    },
    Live {
        id: u64,
        /// What the hub is only about to publish may have been seen in the cluster already.
        since: u64,
        backlog: VecDeque<Arc<Change>>,
        receiver: mpsc::Receiver<Arc<Event>>,
    },
}

impl Source {
    /// Changes of a kind in a scope with a revision greater than `after`.
    pub(crate) fn new(
        cache: Cache,
        store: Store,
        kind: &'static Kind,
        scope: Scope,
        after: u64,
    ) -> Self {
        Self { cache, store, kind, scope, after, state: State::Start }
    }

    /// The next change. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Arc<Event>, SourceError> {
        loop {
            match &mut self.state {
                State::Start => self.start().await?,
                State::Live { since, backlog, receiver, .. } => {
                    let event = match backlog.pop_front() {
                        Some(change) => Some(Event::of(change)),
                        None => receiver.recv().await,
                    };
                    match event {
                        Some(event) if event.revision <= *since => {}
                        Some(event) => {
                            self.after = event.revision;
                            return Ok(event);
                        }
                        None => self.state = State::Start,
                    }
                }
                State::History { watch, pending } => {
                    if let Some(change) = pending.pop_front() {
                        return Ok(Event::of(change));
                    }
                    match watch.next().await {
                        Some(Ok(committed)) => {
                            let revision = committed.revision;
                            for event in committed.events {
                                let change = past(self.cache.decoder(), event, revision)?;
                                if self.scope.touches(&change) {
                                    pending.push_back(Arc::new(change));
                                }
                            }
                            self.after = revision;
                            if pending.is_empty() {
                                self.go_live();
                            }
                        }
                        Some(Err(error)) => return Err(error.into()),
                        None => return Err(SourceError::Failed("the store is closed".into())),
                    }
                }
            }
        }
    }

    /// The next change if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<Arc<Event>> {
        let event = match &mut self.state {
            State::Live { since, backlog, receiver, .. } => loop {
                let next = backlog.pop_front().map(Event::of).or_else(|| receiver.try_recv().ok());
                if next.as_ref().is_none_or(|event| event.revision > *since) {
                    break next;
                }
            },
            State::History { pending, .. } => return pending.pop_front().map(Event::of),
            State::Start => None,
        }?;
        self.after = event.revision;
        Some(event)
    }

    /// The revision up to which nothing is missing, if nothing is waiting: what a bookmark may say.
    pub(crate) fn progress(&mut self) -> Option<u64> {
        let sent = self.cache.hub().revision();
        match &self.state {
            State::Live { backlog, receiver, .. }
                if backlog.is_empty() && receiver.is_empty() && !receiver.is_closed() =>
            {
                self.after = self.after.max(sent);
                Some(self.after)
            }
            _ => None,
        }
    }

    async fn start(&mut self) -> Result<(), SourceError> {
        if self.go_live() {
            return Ok(());
        }
        let range = match &self.scope {
            Scope::All | Scope::Node(_) => Range::prefix(keys::of_kind(self.kind)),
            Scope::Namespace(namespace) => Range::prefix(keys::of_namespace(self.kind, namespace)),
            Scope::Name(key) => {
                let (namespace, name) = key.split_once('/').unwrap_or(("", key));
                Range::key(keys::of_object(self.kind, namespace, name))
            }
        };
        let watch = self.store.watch(range, self.after).await?;
        self.state = State::History { watch, pending: VecDeque::new() };
        Ok(())
    }

    fn go_live(&mut self) -> bool {
        let registration = self.cache.hub().register(self.kind, &self.scope, self.after);
        let Some(it) = registration else { return false };
        let (since, backlog, receiver) = (self.after, it.backlog, it.receiver);
        self.state = State::Live { id: it.id, since, backlog, receiver };
        true
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let State::Live { id, .. } = self.state {
            self.cache.hub().unregister(self.kind, &self.scope, id);
        }
    }
}

impl From<ReadError> for SourceError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { .. } => SourceError::Compacted,
            other => SourceError::Failed(other.to_string()),
        }
    }
}

/// A change of long ago. One whose values cannot be read any more, because the key that they were encrypted with is gone, is
/// as good as forgotten.
fn past(
    decoder: &Decoder,
    event: coracle_store::Event,
    revision: u64,
) -> Result<Change, SourceError> {
    let read = |stored: &[u8], at| {
        decoder.decode(&event.key, stored, at).map_err(|_| SourceError::Compacted)
    };
    let old = event.prev.as_ref().map(|(stored, at)| read(stored, *at)).transpose()?;
    let new = event.value.as_ref().map(|stored| read(stored, revision)).transpose()?;
    Ok(Change { revision, old: old.flatten(), new: new.flatten() })
}
