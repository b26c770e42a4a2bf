//! A guest at work on one request, and how that ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::refusal::Refusal;
use crate::container::{Container, Exit};
use crate::instance::Killed;
use crate::logs::{Stream, failure};
use crate::memory::Verdict;

/// How long one request may take, unless the container says otherwise.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How a guest's run ended.
pub(super) enum Outcome {
    Returned,
    TimedOut,
    Failed { error: wasmtime::Error, outgrew_slot: bool },
}

/// What serves one request, instance and all; of whichever kind of component.
pub(super) type Guest = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A guest that runs, and until when it may.
pub(super) struct Running {
    pub(super) container: Arc<Container>,
    guest: Option<Guest>,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Running {
    pub(super) fn new(container: Arc<Container>, guest: Guest) -> Running {
        let timeout = container.spec.http.timeout_seconds;
        let timeout = timeout.map_or(TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
        Running { container, guest: Some(guest), deadline: Instant::now() + timeout, timer: None }
    }

    /// Whether it has not ended yet.
    pub(super) fn goes_on(&self) -> bool {
        self.guest.is_some()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(guest) = &mut self.guest else { return Poll::Pending };
        if let Poll::Ready(outcome) = guest.as_mut().poll(cx) {
            self.guest = None;
            return Poll::Ready(outcome);
        }
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        self.guest = None;
        Poll::Ready(Outcome::TimedOut)
    }

    /// Writes down how it ended; what the client is to be told, if it was told nothing yet.
    pub(super) fn report(&self, outcome: Outcome) -> Option<Refusal> {
        let container = &self.container;
        let (error, outgrew_slot) = match outcome {
            Outcome::Returned => return None,
            Outcome::TimedOut => {
                container.fail("the request was ended: it took too long");
                return Some(Refusal::TimedOut);
            }
            Outcome::Failed { error, outgrew_slot } => (error, outgrew_slot),
        };
        if error.is::<Killed>() {
            return Some(Refusal::Over);
        }
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return Some(Refusal::Full);
        }
        container.traffic.failed.fetch_add(1, Relaxed);
        match crate::memory::verdict(container, &error, outgrew_slot) {
            Some(Verdict::OutOfMemory(message)) => {
                container.exit_soon(Exit::out_of_memory(message));
            }
            Some(Verdict::Crowded(message)) => {
                container.log.write(Stream::Err, &message);
                return Some(Refusal::Full);
            }
            None => container.log.write(Stream::Err, &failure(&error)),
        }
        Some(Refusal::Failed)
    }

    pub(super) async fn finish(mut self) {
        let outcome = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.report(outcome);
    }
}

impl Container {
    /// A request that failed, told to the log.
    pub(super) fn fail(&self, message: &str) {
        self.traffic.failed.fetch_add(1, Relaxed);
        self.log.write(Stream::Err, message);
    }
}
