//! A guest at work on one request, and how that ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coracle_sandbox::NoticeKind;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi::I32Exit;

use super::refusal::Refusal;
use super::reuse::Warm;
use crate::container::{Container, Exit};
use crate::instance::Killed;
use crate::logs::{Stream, failure};
use crate::memory::Verdict;

/// How long one request may take, unless the container says otherwise.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How a guest's run ended.
pub(super) enum Outcome {
    /// As it should; with its instance, if that may serve again.
    Returned(Option<Box<Warm>>),
    TimedOut,
    Failed {
        error: wasmtime::Error,
        outgrew_slot: bool,
    },
}

/// What serves one request, instance and all; of whichever kind of component.
pub(super) type Guest = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A guest that runs, and until when it may.
pub(super) struct Running {
    container: Arc<Container>,
    guest: Option<Guest>,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Running {
    pub(super) fn new(container: Arc<Container>, guest: Guest, deadline: Instant) -> Running {
        Running { container, guest: Some(guest), deadline, timer: None }
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

    /// Goes on after the answer has left.
    pub(super) async fn finish(mut self) {
        let outcome = std::future::poll_fn(|cx| self.poll(cx)).await;
        if let Ok(Some(warm)) = self.container.judge(outcome) {
            super::reuse::keep(&self.container, warm);
        }
    }
}

impl Container {
    /// How long one request may take, to the last byte of its answer.
    pub(super) fn timeout(&self) -> Duration {
        let seconds = self.spec.http.timeout_seconds;
        seconds.map_or(TIMEOUT, |seconds| Duration::from_secs(seconds.into()))
    }

    /// Writes down how a guest ended; what its client is to be told, if it was told nothing yet.
    pub(super) fn judge(self: &Arc<Self>, outcome: Outcome) -> Result<Option<Box<Warm>>, Refusal> {
        let (error, outgrew_slot) = match outcome {
            Outcome::Returned(warm) => return Ok(warm),
            Outcome::TimedOut => {
                self.late();
                return Err(Refusal::TimedOut);
            }
            Outcome::Failed { error, outgrew_slot } => (error, outgrew_slot),
        };
        if error.is::<Killed>() {
            return Err(Refusal::Over);
        }
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return Err(Refusal::Full);
        }
        match error.downcast_ref::<I32Exit>() {
            // Nothing is lost by an end that the guest itself calls a success.
            Some(I32Exit(0)) => return Ok(None),
            Some(I32Exit(code)) => {
                self.fail(&format!("the component exited with code {code}"));
                return Err(Refusal::Failed);
            }
            None => {}
        }
        match crate::memory::verdict(self, &error, outgrew_slot) {
            Some(Verdict::OutOfMemory(message)) => {
                self.traffic.counts().failed.fetch_add(1, Relaxed);
                self.exit_soon(Exit::out_of_memory(message));
            }
            Some(Verdict::Crowded(message)) => {
                self.fail(&message);
                return Err(Refusal::Full);
            }
            None => {
                self.traffic.counts().traps.fetch_add(1, Relaxed);
                self.fail(&failure(&error));
                self.notice(NoticeKind::Trap, || trapped(&error));
            }
        }
        Err(Refusal::Failed)
    }

    /// A request that took too long.
    pub(super) fn late(&self) {
        self.fail("the request was ended: it took too long");
        self.notice(NoticeKind::Limit, || {
            let seconds = self.timeout().as_secs();
            format!(
                "a request was ended: it took longer than {seconds} s; see the annotation \
                 coracle.dev/request-timeout"
            )
        });
    }

    /// A request that failed, told to the log.
    pub(super) fn fail(&self, message: &str) {
        self.traffic.counts().failed.fetch_add(1, Relaxed);
        self.log.write(Stream::Err, message);
    }
}

/// What an event says of a trap: its cause. The backtrace is for the container's log.
pub(crate) fn trapped(error: &wasmtime::Error) -> String {
    format!(
        "the component trapped: {}; its backtrace is in the container's log",
        error.root_cause()
    )
}
