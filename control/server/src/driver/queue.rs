//! Which keys are to run, and when: each at most once in the queue and at most once at work.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use coracle_api::plan::Key;
use tokio::time::Instant;

use super::perform::Outcome;

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// However much later a key is to be looked at: deadlines are whatever users write, and looking sooner does no harm.
const LATEST: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    ready: VecDeque<Key>,
    /// In `ready`, or to run again once no longer at work.
    wanted: HashSet<Key>,
    working: HashSet<Key>,
    failures: HashMap<Key, u32>,
    later: BinaryHeap<Reverse<(Instant, Key)>>,
    /// When each key in `later` is really due: what differs from it in the heap is outdated.
    due: HashMap<Key, Instant>,
}

impl Queue {
    /// A key to run as soon as possible.
    pub(super) fn add(&mut self, key: Key) {
        if self.wanted.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// The next key to run; it is at work until [`Self::done`].
    pub(super) fn take(&mut self) -> Option<Key> {
        self.collect_due();
        let key = self.ready.pop_front()?;
        self.wanted.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// Whether [`Self::take`] would give one.
    pub(super) fn has_ready(&mut self) -> bool {
        self.collect_due();
        !self.ready.is_empty()
    }

    /// A key's run has ended.
    pub(super) fn done(&mut self, key: Key, outcome: Outcome) {
        self.working.remove(&key);
        if self.wanted.contains(&key) {
            self.ready.push_back(key.clone());
        }
        let again = match outcome {
            Outcome::Done { again } => {
                self.failures.remove(&key);
                // Looking at once again is what it asks for, not looking forever.
                again.map(|delay| delay.max(Duration::from_millis(1)))
            }
            Outcome::Failed => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures += 1;
                Some((FIRST_RETRY * 2u32.pow((*failures - 1).min(16))).min(LAST_RETRY))
            }
        };
        if let Some(delay) = again {
            let at = Instant::now() + delay.min(LATEST);
            if self.due.get(&key).is_none_or(|known| at < *known) {
                self.due.insert(key.clone(), at);
                self.later.push(Reverse((at, key)));
            }
        }
    }

    /// When the next delayed key is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.peek().map(|Reverse((at, _))| *at)
    }

    fn collect_due(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, _))) = self.later.peek()
            && *at <= now
            && let Some(Reverse((at, key))) = self.later.pop()
        {
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[test]
    fn a_key_runs_once_however_often_it_is_added() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("a")));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn a_key_added_while_at_work_runs_again_afterwards_and_not_before() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        queue.take();
        queue.add(key("a"));
        assert_eq!(queue.take(), None);
        queue.done(key("a"), Outcome::Done { again: None });
        assert_eq!(queue.take(), Some(key("a")));
    }

    #[tokio::test]
    async fn failures_wait_longer_each_time_and_success_forgets_them() {
        let mut queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..3 {
            queue.add(key("a"));
            queue.take();
            let before = Instant::now();
            queue.done(key("a"), Outcome::Failed);
            let due = queue.next_due().expect("it runs again");
            waits.push((due - before).as_millis());
            tokio::time::sleep_until(due).await;
            assert!(queue.has_ready());
            queue.take();
            queue.done(key("a"), Outcome::Done { again: None });
            queue.failures.insert(key("a"), waits.len() as u32);
        }
        assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
    }

    /// A Job whose deadline is billions of years away ended its controller, for all Jobs: the clock cannot tell that time.
    #[test]
    fn a_key_may_be_wanted_at_any_time() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        queue.take();
        queue.done(key("a"), Outcome::Done { again: Some(Duration::MAX) });
        let due = queue.next_due().expect("it runs again");
        assert!(due <= Instant::now() + LATEST && !queue.has_ready());
    }
}
