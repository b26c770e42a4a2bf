//! Which Pod is next: by priority, then age. Pods that fitted nowhere are parked by shape until a node fits that shape.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use coracle_api::Object;
use jiff::{SignedDuration, Timestamp};

use crate::pod::Shape;
use crate::shapes::ShapeId;

/// Entries are never searched for: one whose ticket is no longer its Pod's is skipped when it comes up.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    active: BinaryHeap<Entry>,
    /// Not before that time.
    later: BinaryHeap<Reverse<(Timestamp, Entry)>>,
    parked: BTreeMap<ShapeId, Vec<Arc<str>>>,
    tickets: u64,
}

/// Ordered so that the greatest is next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    priority: i32,
    created: Reverse<Timestamp>,
    ticket: Reverse<u64>,
    uid: Arc<str>,
}

/// When to try again after so many failures: 100 ms, doubling, up to 10 s. Waiting Pods are woken only by nodes that fit
/// them, so this merely keeps a race that is always lost from spinning.
pub(crate) fn back_off(tried: Timestamp, attempts: u32) -> Timestamp {
    let Some(doublings) = attempts.checked_sub(1) else { return Timestamp::MIN };
    let millis = (100_i64 << doublings.min(7)).min(10_000);
    tried.checked_add(SignedDuration::from_millis(millis)).unwrap_or(Timestamp::MAX)
}

impl Queue {
    /// Queues a Pod; returns the ticket under which [`Self::pop`] gives it.
    pub(crate) fn push(&mut self, pod: &Object, shape: &Shape, not_before: Timestamp) -> u64 {
        self.tickets += 1;
        let entry = Entry {
            priority: shape.priority,
            created: Reverse(pod.meta.creation_timestamp.unwrap_or_default()),
            ticket: Reverse(self.tickets),
            uid: pod.meta.uid.as_str().into(),
        };
        if not_before == Timestamp::MIN {
            self.active.push(entry);
        } else {
            self.later.push(Reverse((not_before, entry)));
        }
        self.tickets
    }

    /// The next Pod's UID and ticket.
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<(Arc<str>, u64)> {
        while let Some(Reverse((at, _))) = self.later.peek()
            && *at <= now
            && let Some(Reverse((_, entry))) = self.later.pop()
        {
            self.active.push(entry);
        }
        let entry = self.active.pop()?;
        Some((entry.uid, entry.ticket.0))
    }

    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        if self.active.is_empty() {
            self.later.peek().map(|Reverse((at, _))| *at)
        } else {
            Some(Timestamp::MIN)
        }
    }

    pub(crate) fn park(&mut self, shape: ShapeId, uid: Arc<str>) {
        self.parked.entry(shape).or_default().push(uid);
    }

    /// Takes out the Pods of all shapes that `fits`. Some may no longer be parked.
    pub(crate) fn unpark(&mut self, fits: impl Fn(ShapeId) -> bool) -> Vec<Arc<str>> {
        let mut uids = Vec::new();
        if !self.parked.is_empty() {
            for (_, parked) in self.parked.extract_if(.., |shape, _| fits(*shape)) {
                uids.extend(parked);
            }
        }
        uids
    }

    /// Nobody has that shape any more.
    pub(crate) fn forget(&mut self, shape: ShapeId) {
        self.parked.remove(&shape);
    }
}
