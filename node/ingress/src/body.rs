//! Bodies on their way: bounded in size, and given up when nothing comes for too long. A timer is made only once something
//! has to be waited for.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::metrics::Record;
use crate::upstream::Lease;

/// Why a body came to no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    /// It is larger than it may be.
    TooLarge = 1,
    /// Nothing came for too long.
    Silent = 2,
    /// The other side broke off.
    Broken = 3,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::TooLarge => "the body is too large",
            Fault::Silent => "the body did not come to its end in time",
            Fault::Broken => "the body was broken off",
        })
    }
}

impl std::error::Error for Fault {}

/// How far an upload is, for whoever waits for the answer.
#[derive(Default)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    done: AtomicU8,
}

const DONE: u8 = 255;

impl Progress {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.done.load(Relaxed) != 0
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.done.load(Relaxed) {
            1 => Some(Fault::TooLarge),
            2 => Some(Fault::Silent),
            3 => Some(Fault::Broken),
            _ => None,
        }
    }
}

/// A timer that is there only while it is needed.
struct Patience {
    time: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(time: Duration) -> Self {
        Self { time, sleep: None }
    }

    /// Something came.
    fn renew(&mut self) {
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(Instant::now() + self.time);
        }
    }

    /// Nothing came: whether that is so for too long.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let time = self.time;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        sleep.as_mut().poll(cx).is_ready()
    }
}

/// A request's body, on its way to an endpoint.
pub(crate) struct Upload {
    inner: Option<Incoming>,
    left: u64,
    patience: Patience,
    progress: Arc<Progress>,
}

impl Upload {
    /// No body.
    pub(crate) fn none() -> Self {
        let progress = Arc::new(Progress { done: AtomicU8::new(DONE), ..Progress::default() });
        Self { inner: None, left: 0, patience: Patience::new(Duration::MAX), progress }
    }

    /// At most `most` bytes, without pauses longer than `pause`.
    pub(crate) fn new(inner: Incoming, most: u64, pause: Duration) -> Self {
        if inner.is_end_stream() {
            return Self::none();
        }
        let progress = Arc::default();
        Self { inner: Some(inner), left: most, patience: Patience::new(pause), progress }
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    pub(crate) fn is_none(&self) -> bool {
        self.inner.is_none()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let fault = match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                this.progress.bytes.fetch_add(length, Relaxed);
                this.patience.renew();
                match this.left.checked_sub(length) {
                    Some(left) => {
                        this.left = left;
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    None => Fault::TooLarge,
                }
            }
            Poll::Ready(Some(Err(_))) => Fault::Broken,
            Poll::Ready(None) => {
                this.progress.done.store(DONE, Relaxed);
                return Poll::Ready(None);
            }
            Poll::Pending if this.patience.is_over(cx) => Fault::Silent,
            Poll::Pending => return Poll::Pending,
        };
        this.progress.done.store(fault as u8, Relaxed);
        Poll::Ready(Some(Err(fault)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// An answer's body, on its way to a client.
pub(crate) struct Download {
    kind: Kind,
    record: Record,
    /// Dropped with it.
    kept: Option<Box<dyn std::any::Any>>,
}

enum Kind {
    /// The proxy's own words.
    Own(Option<Bytes>),
    /// An endpoint's.
    Passed {
        inner: Incoming,
        patience: Patience,
        /// The connection, for the next request once this one is over.
        lease: Option<Lease>,
    },
}

impl Download {
    pub(crate) fn own(words: Bytes, record: Record) -> Self {
        let words = Some(words).filter(|words| !words.is_empty());
        Self { kind: Kind::Own(words), record, kept: None }
    }

    /// Keeps something for as long as the body is on its way.
    pub(crate) fn keep(&mut self, something: Box<dyn std::any::Any>) {
        self.kept = Some(something);
    }

    pub(crate) fn passed(inner: Incoming, pause: Duration, lease: Lease, record: Record) -> Self {
        let ended = inner.is_end_stream();
        let mut lease = Some(lease);
        if ended && let Some(lease) = lease.take() {
            lease.give_back();
        }
        Self {
            kind: Kind::Passed { inner, patience: Patience::new(pause), lease },
            record,
            kept: None,
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let (inner, patience, lease) = match &mut this.kind {
            Kind::Own(words) => {
                let words = words.take();
                this.record.sent(words.as_ref().map_or(0, Bytes::len));
                return Poll::Ready(words.map(|words| Ok(Frame::data(words))));
            }
            Kind::Passed { inner, patience, lease } => (inner, patience, lease),
        };
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                patience.renew();
                this.record.sent(frame.data_ref().map_or(0, Bytes::len));
                if inner.is_end_stream()
                    && let Some(lease) = lease.take()
                {
                    lease.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                this.record.broken();
                Poll::Ready(Some(Err(Fault::Broken)))
            }
            Poll::Ready(None) => {
                if let Some(lease) = lease.take() {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
            Poll::Pending if patience.is_over(cx) => {
                this.record.broken();
                Poll::Ready(Some(Err(Fault::Silent)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(words) => words.is_none(),
            Kind::Passed { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(words) => SizeHint::with_exact(words.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Passed { inner, .. } => inner.size_hint(),
        }
    }
}
