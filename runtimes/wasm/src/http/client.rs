//! What is known of a connection's client, and when to give it up.
//!
//! A request costs two additions here, an idle connection one timer that fires once a minute. It
//! closes connections on which nothing happened between two firings: those that are idle, and those
//! whose request's head does not come to its end. While an answer is on its way, the timer stands at
//! the request's deadline, so that a client that does not read cannot hold an answer for ever.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coracle_sandbox::framing;
use tokio::time::{Instant, Sleep};

use crate::memory::{Account, Lent};

/// A new connection's first request must have come by then.
const FIRST: Duration = Duration::from_secs(15);
/// A connection on which nothing happened for this long may be closed, and is after twice as long.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes that a connection's buffers take, as far as they are usually filled.
const COST: u64 = 16 << 10;
/// How long after an answer's deadline it may still be on its way.
pub(super) const GRACE: Duration = Duration::from_millis(50);

/// A connection, as its requests see it.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    pub(super) http2: AtomicBool,
    /// Its last request was refused before it was read to its end.
    refused: AtomicBool,
    opened: Instant,
    /// Requests whose answer has not left.
    open: AtomicU32,
    /// All requests; wraps.
    requests: AtomicU32,
    /// Which of them, from 1, says its length in two ways; 0 for none.
    ambiguous: AtomicU32,
    /// When the present answer must be complete, in microseconds after `opened`. HTTP/2 has one for
    /// each stream, and keeps them elsewhere.
    deadline: AtomicU64,
    /// What the connection costs its container; none where that did not fit yet.
    cost: OnceLock<Lent>,
}

impl Client {
    pub(super) fn new(peer: SocketAddr) -> Client {
        Client {
            peer,
            http2: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            opened: Instant::now(),
            open: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            ambiguous: AtomicU32::new(0),
            deadline: AtomicU64::new(0),
            cost: OnceLock::new(),
        }
    }

    pub(super) fn begin(&self, deadline: Instant) {
        self.open.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        self.deadline.store((deadline - self.opened).as_micros() as u64, Relaxed);
    }

    /// Charges the connection to its container, once; whether it fits.
    pub(super) fn pay(&self, account: &Arc<Account>) -> bool {
        if self.cost.get().is_some() {
            return true;
        }
        let Some(lent) = account.lend(COST) else { return false };
        // Another stream of the connection may have been first; one payment is enough.
        let _ = self.cost.set(lent);
        true
    }

    /// It is to send nothing more.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    /// Whether that is the one that began last.
    pub(super) fn is_ambiguous(&self) -> bool {
        let request = self.ambiguous.load(Relaxed);
        request != 0 && request == self.requests.load(Relaxed)
    }

    fn deadline(&self) -> Instant {
        self.opened + Duration::from_micros(self.deadline.load(Relaxed))
    }

    pub(super) fn finish(&self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

impl framing::Watch for Client {
    fn ambiguous(&self, request: u32) {
        self.ambiguous.store(request, Relaxed);
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }
}

/// What to do with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is idle: let it go in good order.
    Idle,
    /// It sends no request, or does not read its answer.
    Stuck,
}

/// A connection's timer.
pub(super) struct Watch {
    timer: Pin<Box<Sleep>>,
    /// Requests there were when the timer was set.
    requests: u32,
    idle: bool,
    /// The deadline of an answer that was found to be late.
    late: Option<Instant>,
}

impl Watch {
    pub(super) fn new() -> Watch {
        Watch { timer: Box::pin(tokio::time::sleep(FIRST)), requests: 0, idle: false, late: None }
    }

    /// To be called when the connection has nothing to do.
    pub(super) fn poll(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<Verdict> {
        let waits = client.open.load(Relaxed) > 0 && !client.http2.load(Relaxed);
        if waits {
            // The answer's own timer is first; this one is for what it cannot see.
            let due = client.deadline() + GRACE;
            if self.late.is_none() && due < self.timer.deadline() {
                self.timer.as_mut().reset(due);
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if client.open.load(Relaxed) > 0 {
                let deadline = client.deadline();
                self.idle = false;
                if !waits || now < deadline {
                    let next = if waits { (deadline + GRACE).min(now + IDLE) } else { now + IDLE };
                    self.timer.as_mut().reset(next);
                    self.late = None;
                    continue;
                }
                if self.late == Some(deadline) {
                    return Poll::Ready(Verdict::Stuck);
                }
                // Where guests keep all threads, timers fire late and together: this one may be seen in the very moment in
                // which the answer's was not there yet. From now on that is.
                self.late = Some(deadline);
                self.timer.as_mut().reset(now + GRACE);
                continue;
            }
            self.late = None;
            let requests = client.requests.load(Relaxed);
            if requests == self.requests {
                if requests == 0 || self.idle {
                    return Poll::Ready(Verdict::Stuck);
                }
                // A goodbye first; what does not end then is ended.
                self.idle = true;
                self.timer.as_mut().reset(now + FIRST);
                return Poll::Ready(Verdict::Idle);
            }
            self.requests = requests;
            self.timer.as_mut().reset(now + IDLE);
        }
    }
}
