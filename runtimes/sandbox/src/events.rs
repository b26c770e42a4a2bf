//! Changes of containers, numbered, the last few thousand held for agents that were away: what [`crate::Runtime::events`]
//! gives.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use futures::StreamExt;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::{ContainerStatus, Event, EventLine, EventStream, Notice};

const HELD: usize = 4096;
/// Notices that a slow reader may be behind before it misses some.
const NOTICES: usize = 256;

/// The ring.
pub struct Events {
    instance: String,
    ring: Mutex<VecDeque<Event>>,
    /// Number of the last event; closed by dropping at the end.
    last: watch::Sender<Option<u64>>,
    notices: broadcast::Sender<Notice>,
}

impl Events {
    /// Empty, of a host that calls itself `instance`.
    pub fn new(instance: String) -> Events {
        Events {
            instance,
            ring: Mutex::default(),
            last: watch::Sender::new(Some(0)),
            notices: broadcast::Sender::new(NOTICES),
        }
    }

    /// Tells whoever listens now.
    pub fn notice(&self, notice: Notice) {
        // Nobody listens: nobody is told.
        let _ = self.notices.send(notice);
    }

    /// Tells everybody.
    pub fn push(&self, sandbox: &str, container: ContainerStatus) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = *self.last.borrow() else { return };
        let seq = last + 1;
        if ring.len() == HELD {
            ring.pop_front();
        }
        ring.push_back(Event { seq, sandbox: sandbox.to_owned(), container });
        self.last.send_replace(Some(seq));
    }

    /// Ends all streams.
    pub fn close(&self) {
        self.last.send_replace(None);
    }

    /// Events after `after`, as they come.
    pub fn stream(self: &std::sync::Arc<Self>, after: u64) -> EventStream {
        let (send, receive) = mpsc::channel(64);
        let events = self.clone();
        tokio::spawn(async move { events.follow(after, send).await });
        ReceiverStream::new(receive).boxed()
    }

    async fn follow(&self, after: u64, send: mpsc::Sender<EventLine>) -> Option<()> {
        let mut news = self.last.subscribe();
        let mut notices = self.notices.subscribe();
        let last = (*news.borrow_and_update())?;
        let mut sent = after;
        let mut line = self.start(&mut sent, last);
        loop {
            send.send(line).await.ok()?;
            loop {
                let now = (*news.borrow_and_update())?;
                if now > sent {
                    break;
                }
                tokio::select! {
                    changed = news.changed() => changed.ok()?,
                    notice = notices.recv() => if let Ok(notice) = notice {
                        send.send(EventLine::Notice(notice)).await.ok()?;
                    },
                    () = send.closed() => return None,
                }
            }
            line = self.next(&mut sent);
        }
    }

    fn start(&self, sent: &mut u64, last: u64) -> EventLine {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.front().map_or(last + 1, |event| event.seq);
        let gap = *sent > last || *sent + 1 < first;
        if gap {
            *sent = last;
        }
        EventLine::Start { instance: self.instance.clone(), last, gap }
    }

    /// The event after `sent`; a reader so slow that it is gone starts anew, with a gap.
    fn next(&self, sent: &mut u64) -> EventLine {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.front().map_or(0, |event| event.seq);
        match ring.get((*sent + 1).wrapping_sub(first) as usize) {
            Some(event) => {
                *sent = event.seq;
                EventLine::Event(event.clone())
            }
            None => {
                *sent = ring.back().map_or(*sent, |event| event.seq);
                EventLine::Start { instance: self.instance.clone(), last: *sent, gap: true }
            }
        }
    }
}

#[cfg(test)]
mod tests;
