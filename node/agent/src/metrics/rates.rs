//! From counters to rates: over as long as load was even, so that they are steady, and from its last jump on, so that they are
//! of now.
//!
//! Counters are looked at once a second. A rate is an average over the last ten seconds at most. Where the last two seconds
//! both differ from what was before by half of it, load has changed, and the average begins anew with them. Whoever scales by
//! such rates sees two seconds after a step what a fixed window of ten would show after ten, without trembling with every
//! request that costs more than others.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

/// The longest that a rate is an average over.
const LONGEST: Duration = Duration::from_secs(10);
/// A point that comes sooner after the last one replaces it.
const SHORTEST: Duration = Duration::from_millis(500);
/// What differs by no more than this is no jump: billionths of a core, thousandths of a request and of a connection a second.
const FLOORS: [u64; 3] = [20_000_000, 5_000, 5_000];

/// Counters that only grow, as they were at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Nanoseconds of CPU.
    pub(super) cpu: u64,
    /// HTTP requests.
    pub(super) requests: u64,
    /// Connections that were accepted.
    pub(super) connections: u64,
    /// Microseconds that requests were served for, those of all added up.
    pub(super) busy: u64,
}

/// What they grew by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rates {
    /// Milliseconds that this is an average over.
    pub(super) window: u32,
    /// Billionths of a core.
    pub(super) cpu: u64,
    /// Thousandths of a request a second.
    pub(super) requests: u64,
    /// Thousandths of a connection a second.
    pub(super) connections: u64,
    /// Thousandths of a request at a time.
    pub(super) busy: u64,
}

/// The last points of something that is counted.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Which attempt of a container: another one counts from 0.
    attempt: u32,
    points: VecDeque<(Timestamp, Counters)>,
}

impl Track {
    /// Of something that has counted from 0 since then, if that is known.
    pub(super) fn new(attempt: u32, since: Option<Timestamp>) -> Track {
        let first = since.map(|since| (since, Counters::default()));
        Track { attempt, points: first.into_iter().collect() }
    }

    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Adds a point. Nothing is averaged that was before `since`, where two points are left without.
    pub(super) fn add(&mut self, at: Timestamp, counters: Counters, since: Option<Timestamp>) {
        if self.points.len() > 1
            && self.points.back().is_some_and(|(last, _)| *last + SHORTEST > at)
        {
            self.points.pop_back();
        }
        self.points.push_back((at, counters));
        while self.points.len() > 2
            && let Some((second, _)) = self.points.get(1)
            && (*second + LONGEST <= at || self.points[0].0 < since.unwrap_or(Timestamp::MIN))
        {
            self.points.pop_front();
        }
        if self.has_jumped() {
            self.points.drain(..self.points.len() - 3);
        }
    }

    /// What it grows by; none with less than two points.
    pub(super) fn rates(&self) -> Option<Rates> {
        let last = self.points.len().checked_sub(1).filter(|last| *last > 0)?;
        Some(self.between(0, last))
    }

    fn has_jumped(&self) -> bool {
        let Some(last) = self.points.len().checked_sub(1).filter(|last| *last >= 3) else {
            return false;
        };
        let before = self.between(0, last - 2);
        let [one, two] = [self.between(last - 2, last - 1), self.between(last - 1, last)];
        let of = |rates: Rates| [rates.cpu, rates.requests, rates.connections];
        FLOORS.into_iter().enumerate().any(|(n, floor)| {
            let [before, one, two] = [before, one, two].map(|rates| of(rates)[n]);
            let far = (before / 2).max(floor);
            one.min(two) > before + far || one.max(two) + far < before
        })
    }

    fn between(&self, from: usize, to: usize) -> Rates {
        let ((begun, first), (ended, last)) = (self.points[from], self.points[to]);
        let window = ended.duration_since(begun).as_millis().max(1) as u64;
        let rate = |first: u64, last: u64, a_second: u64| {
            let grown = u128::from(last.saturating_sub(first)) * u128::from(a_second);
            (grown / u128::from(window)) as u64
        };
        Rates {
            window: window.min(u32::MAX.into()) as u32,
            // Nanoseconds in so many milliseconds.
            cpu: rate(first.cpu, last.cpu, 1000),
            requests: rate(first.requests, last.requests, 1_000_000),
            connections: rate(first.connections, last.connections, 1_000_000),
            // Microseconds in so many milliseconds are thousandths.
            busy: rate(first.busy, last.busy, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).expect("a time")
    }

    /// CPU rates in thousandths of a core and windows in seconds, with so much CPU used in each second.
    fn told(seconds: &[u64]) -> Vec<(u64, u32)> {
        let mut track = Track::new(0, Some(at(0)));
        let mut cpu = 0;
        let tell = |(n, used): (usize, &u64)| {
            cpu += used * 1_000_000;
            let counters = Counters { cpu, ..Counters::default() };
            track.add(at((n as i64 + 1) * 1000), counters, None);
            let rates = track.rates().expect("two points");
            (rates.cpu / 1_000_000, rates.window / 1000)
        };
        seconds.iter().enumerate().map(tell).collect()
    }

    #[test]
    fn an_even_load_is_averaged_over_ten_seconds() {
        let told = told(&[100, 120, 80, 110, 90, 100, 130, 70, 100, 100, 110, 90]);
        assert_eq!(told.last(), Some(&(98, 10)));
        assert_eq!(told[1], (110, 2));
    }

    #[test]
    fn a_step_is_seen_whole_after_two_seconds_and_one_odd_second_is_none() {
        let up = told(&[100, 100, 100, 100, 100, 1000, 1000, 1000]);
        assert_eq!(up[5..], [(250, 6), (1000, 2), (1000, 3)]);
        let down = told(&[1000, 1000, 1000, 1000, 50, 50]);
        assert_eq!(down[4..], [(810, 5), (50, 2)]);
        let odd = told(&[100, 100, 100, 100, 100, 1000, 100, 100]);
        assert_eq!(odd[5..], [(250, 6), (228, 7), (100, 2)]);
        let small = told(&[0, 0, 0, 0, 10, 10, 10]);
        assert_eq!(small[6], (4, 7), "what is next to nothing may be twice as much");
    }

    #[test]
    fn nothing_is_averaged_that_was_before_the_pod_was_ready() {
        let mut track = Track::new(0, Some(at(0)));
        for second in 1..=4 {
            let counters = Counters { cpu: 1_000_000_000, ..Counters::default() };
            track.add(at(second * 1000), counters, Some(at(1500)));
        }
        assert_eq!(track.rates().map(|rates| (rates.cpu, rates.window)), Some((0, 2000)));
    }

    #[test]
    fn requests_are_counted_a_second_and_at_a_time() {
        let mut track = Track::new(0, None);
        track.add(at(0), Counters { cpu: 9, requests: 50, busy: 7_000_000, connections: 0 }, None);
        assert_eq!(track.rates(), None);
        // Too soon to tell.
        track.add(
            at(2000),
            Counters { cpu: 9, requests: 60, busy: 7_100_000, connections: 1 },
            None,
        );
        track.add(
            at(2100),
            Counters { cpu: 9, requests: 71, busy: 10_150_000, connections: 42 },
            None,
        );
        let rates = track.rates().expect("two points");
        assert_eq!((rates.requests, rates.busy, rates.window), (10_000, 1_500, 2100));
        assert_eq!(rates.connections, 20_000);
    }
}
