//! One priority level's requests: who is served now, who waits in which queue, who is turned away. Pure: time and callers
//! are the shell's.
//!
//! A flow (one user, or one namespace, of one FlowSchema) is dealt a hand of queues by its hash, and its requests wait in the
//! shortest of them: a flow that fills its whole hand shares few queues with any other (shuffle sharding). Queues take turns
//! by the work that they have had, in seats times time, so that many requests of one are served no more than few of another
//! (fair queuing, after upstream's `queueset`).

use std::collections::VecDeque;
use std::time::Duration;

/// What a request is taken to need before it is known, as upstream.
const GUESS: Duration = Duration::from_secs(60);

/// How a level queues; none: what cannot be served at once is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queuing {
    /// Queues.
    pub(crate) queues: usize,
    /// Queues that one flow may use.
    pub(crate) hand: usize,
    /// Requests that wait in one queue.
    pub(crate) length: usize,
}

/// A request that waits, as the shell knows it.
pub(crate) type Ticket = u64;

/// Where a request came from that is served: to be given back when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seated {
    /// Its queue; none for one that never queued.
    queue: Option<usize>,
    /// How many seats it takes.
    pub(crate) seats: u64,
}

impl Seated {
    /// The same, of queues that are no more.
    pub(crate) fn without_queue(self) -> Self {
        Self { queue: None, ..self }
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Served.
    Served(Seated),
    /// It waits.
    Waits,
    /// All of its queues are full.
    Refused,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Ticket, u64)>,
    seated: u64,
    /// The work that it has had, in seat-microseconds, as if it had always had its share.
    had: u128,
}

/// The queues of a level.
#[derive(Debug)]
pub(crate) struct Queues {
    queuing: Option<Queuing>,
    queues: Vec<Queue>,
    seated: u64,
    /// The work that the queue had which was served last: where idle queues begin.
    now: u128,
}

impl Queues {
    pub(crate) fn new(queuing: Option<Queuing>) -> Self {
        let count = queuing.map_or(0, |it| it.queues.max(1));
        Self {
            queuing,
            queues: std::iter::repeat_with(Queue::default).take(count).collect(),
            seated: 0,
            now: 0,
        }
    }

    /// Counts the requests under way of queues that these replace.
    pub(crate) fn take_over(&mut self, others: &Self) {
        self.seated = others.seated;
    }

    /// Counts a request that another's queue let in.
    pub(crate) fn add(&mut self, it: Seated) {
        self.seated += it.seats;
    }

    /// Seats in use.
    pub(crate) fn seated(&self) -> u64 {
        self.seated
    }

    /// Whether somebody waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.queues.iter().any(|queue| !queue.waiting.is_empty())
    }

    /// A request of a flow; it is served if `free` of its seats and nobody waits before it.
    pub(crate) fn arrive(
        &mut self,
        ticket: Ticket,
        flow: u64,
        seats: u64,
        free: impl FnOnce(u64) -> bool,
    ) -> Arrival {
        let Some(queuing) = self.queuing else {
            if !free(seats) {
                return Arrival::Refused;
            }
            self.seated += seats;
            return Arrival::Served(Seated { queue: None, seats });
        };
        let hand = deal(flow, self.queues.len(), queuing.hand);
        let load = |index: &usize| {
            let queue = &self.queues[*index];
            let waiting: u64 = queue.waiting.iter().map(|(_, seats)| seats).sum();
            (waiting + queue.seated, queue.had)
        };
        let Some(index) = hand.into_iter().min_by_key(load) else { return Arrival::Refused };
        // Somebody who waits is let in as soon as that is possible, so where anybody waits nobody else can be let in.
        if !self.is_waiting() && free(seats) {
            return Arrival::Served(self.seat(index, seats));
        }
        if self.queues[index].waiting.len() >= queuing.length {
            return Arrival::Refused;
        }
        self.queues[index].waiting.push_back((ticket, seats));
        Arrival::Waits
    }

    /// The next who is served, if there are seats for it.
    pub(crate) fn next(&mut self, free: impl FnOnce(u64) -> bool) -> Option<(Ticket, Seated)> {
        let now = self.now;
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let (index, queue) = waiting.min_by_key(|(_, queue)| begins(queue, now))?;
        let (ticket, seats) = *queue.waiting.front()?;
        if !free(seats) {
            return None;
        }
        self.queues[index].waiting.pop_front();
        Some((ticket, self.seat(index, seats)))
    }

    /// One that waited is gone.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        for queue in &mut self.queues {
            queue.waiting.retain(|(other, _)| *other != ticket);
        }
    }

    /// One that was served is done, after so long.
    pub(crate) fn done(&mut self, it: Seated, took: Duration) {
        self.seated = self.seated.saturating_sub(it.seats);
        let Some(queue) = it.queue.and_then(|index| self.queues.get_mut(index)) else { return };
        queue.seated = queue.seated.saturating_sub(it.seats);
        let work = |time: Duration| time.as_micros() * u128::from(it.seats);
        queue.had = (queue.had + work(took)).saturating_sub(work(GUESS));
    }

    fn seat(&mut self, index: usize, seats: u64) -> Seated {
        let queue = &mut self.queues[index];
        // Who was idle has no claim on the time before.
        if queue.seated == 0 {
            queue.had = queue.had.max(self.now);
        }
        self.now = self.now.max(queue.had.min(begins(queue, self.now)));
        queue.had += GUESS.as_micros() * u128::from(seats);
        queue.seated += seats;
        self.seated += seats;
        Seated { queue: Some(index), seats }
    }
}

/// Where a queue stands among those that wait.
fn begins(queue: &Queue, now: u128) -> u128 {
    if queue.seated == 0 { queue.had.max(now) } else { queue.had }
}

/// The queues of a flow: `hand` different ones of `count`, by its hash.
fn deal(mut flow: u64, count: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for i in 0..hand.min(count) {
        let left = (count - i) as u64;
        let mut card = (flow % left) as usize;
        flow /= left;
        // The card counts among those that are not dealt yet.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if card >= taken {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests;
