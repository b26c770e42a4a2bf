//! When history may be forgotten: by age, by count, by size.

use super::tables::State;
use crate::{Options, Revision};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Remembers which revision was the latest when, and moves the compaction marks. Ages are not
/// stored: what a restarted store finds counts as new.
#[derive(Clone)]
pub(super) struct Policy {
    keep_for: Duration,
    keep_short_for: Duration,
    keep_revisions: u64,
    max_history_bytes: u64,
    enabled: bool,
    interval: Duration,
    /// Oldest first, at least `interval` apart; the first may be older than `keep_for`.
    samples: VecDeque<(Instant, Revision)>,
    advanced: Instant,
}

impl Policy {
    pub(super) fn new(options: &Options, now: Instant, revision: Revision) -> Policy {
        let shortest = options.keep_for.min(options.keep_short_for);
        Policy {
            keep_for: options.keep_for,
            keep_short_for: options.keep_short_for,
            keep_revisions: options.keep_revisions,
            max_history_bytes: options.max_history_bytes,
            enabled: options.auto_compact,
            interval: (shortest / 16).clamp(Duration::from_millis(20), Duration::from_secs(1)),
            samples: VecDeque::from([(now, revision)]),
            advanced: now,
        }
    }

    /// How often to look.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Records that `revision` is the latest.
    pub(super) fn note(&mut self, now: Instant, revision: Revision) {
        if self.samples.back().is_none_or(|(at, _)| now - *at >= self.interval) {
            self.samples.push_back((now, revision));
        }
        while self.samples.get(1).is_some_and(|(at, _)| now - *at > self.keep_for) {
            self.samples.pop_front();
        }
    }

    /// Whether moving the marks is worth a transaction of its own: now and then, not with every
    /// revision that grows old.
    pub(super) fn due(&self, state: &State, now: Instant) -> bool {
        let (long, short) = self.targets(state, now);
        let moved = long > state.compacted || short > state.short_compacted;
        moved && now - self.advanced >= self.interval * 4
    }

    /// Moves the marks of `state` as far as the policy allows.
    pub(super) fn advance(&mut self, state: &mut State, now: Instant) {
        self.note(now, state.revision);
        (state.compacted, state.short_compacted) = self.targets(state, now);
        self.advanced = now;
    }

    fn targets(&self, state: &State, now: Instant) -> (Revision, Revision) {
        if !self.enabled {
            return (state.compacted, state.short_compacted);
        }
        let mut long = self
            .older_than(now, self.keep_for)
            .min(state.revision.saturating_sub(self.keep_revisions));
        if state.history_bytes > self.max_history_bytes {
            // By halves: what the sweep has freed shows only later.
            let middle = self.samples.get(self.samples.len() / 2);
            long = long.max(middle.map_or(0, |(_, revision)| *revision));
        }
        let long = long.max(state.compacted);
        let short = self.older_than(now, self.keep_short_for).max(state.short_compacted).max(long);
        (long, short)
    }

    /// The latest revision as of `age` ago.
    fn older_than(&self, now: Instant, age: Duration) -> Revision {
        let old = |(at, _): &&(Instant, Revision)| now - *at >= age;
        self.samples.iter().rev().find(old).map_or(0, |(_, revision)| *revision)
    }
}
