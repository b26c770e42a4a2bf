//! Bodies on their way: bounded in size, and given up when nothing comes for too long. A timer is made only once something
//! has to be waited for.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
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

/// How far an upload is, for whoever waits for the answer: none if there is nothing to upload.
#[derive(Clone)]
pub(crate) struct Progress(Option<Arc<Uploaded>>);

#[derive(Default)]
struct Uploaded {
    bytes: AtomicU64,
    done: AtomicU8,
}

const DONE: u8 = 255;

impl Progress {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |uploaded| uploaded.bytes.load(Relaxed))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|uploaded| uploaded.done.load(Relaxed) != 0)
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.0.as_ref()?.done.load(Relaxed) {
            1 => Some(Fault::TooLarge),
            2 => Some(Fault::Silent),
            3 => Some(Fault::Broken),
            _ => None,
        }
    }

    fn add(&self, bytes: u64) {
        if let Some(uploaded) = &self.0 {
            uploaded.bytes.fetch_add(bytes, Relaxed);
        }
    }

    fn end(&self, how: u8) {
        if let Some(uploaded) = &self.0 {
            uploaded.done.store(how, Relaxed);
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
    progress: Progress,
}

impl Upload {
    /// No body.
    pub(crate) fn none() -> Self {
        Self {
            inner: None,
            left: 0,
            patience: Patience::new(Duration::MAX),
            progress: Progress(None),
        }
    }

    /// At most `most` bytes, without pauses longer than `pause`.
    pub(crate) fn new(inner: Incoming, most: u64, pause: Duration) -> Self {
        if inner.is_end_stream() {
            return Self::none();
        }
        let progress = Progress(Some(Arc::default()));
        Self { inner: Some(inner), left: most, patience: Patience::new(pause), progress }
    }

    pub(crate) fn progress(&self) -> Progress {
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
                this.progress.add(length);
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
                this.progress.end(DONE);
                return Poll::Ready(None);
            }
            Poll::Pending if this.patience.is_over(cx) => Fault::Silent,
            Poll::Pending => return Poll::Pending,
        };
        this.progress.end(fault as u8);
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
        /// For a piece, since the connection's timer was set.
        waits: bool,
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
            kind: Kind::Passed { inner, patience: Patience::new(pause), lease, waits: false },
            record,
            kept: None,
        }
    }
}

impl Record {
    /// A piece of an answer, or its end, on its way through.
    fn passed(&mut self, piece: Option<hyper::Result<Frame<Bytes>>>) -> Piece {
        match piece {
            Some(Ok(frame)) => {
                self.sent(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => self.broken(Fault::Broken),
            None => Poll::Ready(None),
        }
    }

    fn broken(&mut self, why: Fault) -> Piece {
        self.broken = true;
        Poll::Ready(Some(Err(why)))
    }
}

type Piece = Poll<Option<Result<Frame<Bytes>, Fault>>>;

impl Body for Download {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let (inner, patience, lease, waits) = match &mut this.kind {
            Kind::Own(words) => {
                let words = words.take();
                this.record.sent(words.as_ref().map_or(0, Bytes::len));
                return Poll::Ready(words.map(|words| Ok(Frame::data(words))));
            }
            Kind::Passed { inner, patience, lease, waits } => (inner, patience, lease, waits),
        };
        let link = lease.as_mut().and_then(|lease| lease.link.as_mut());
        let Some(link) = link else {
            // A stream of HTTP/2, which its connection's task feeds.
            return match Pin::new(&mut *inner).poll_frame(cx) {
                Poll::Pending if patience.is_over(cx) => this.record.broken(Fault::Silent),
                Poll::Pending => Poll::Pending,
                Poll::Ready(polled) => {
                    patience.renew();
                    this.record.passed(polled)
                }
            };
        };
        // Whether there is something is seen each time that the connection was driven: nobody else brings it.
        let idle = &mut Context::from_waker(Waker::noop());
        let mut polled = Pin::new(&mut *inner).poll_frame(idle);
        if polled.is_pending() {
            link.drive(cx);
            polled = Pin::new(&mut *inner).poll_frame(idle);
        }
        let Poll::Ready(polled) = polled else {
            if !std::mem::replace(waits, true) {
                link.hope(patience.time);
            }
            return match link.is_silent(cx) {
                true => this.record.broken(Fault::Silent),
                false => Poll::Pending,
            };
        };
        *waits = false;
        if (polled.is_none() || inner.is_end_stream())
            && let Some(lease) = lease.take()
            // An answer before its request's end leaves a connection on which the rest is still to come.
            && this.record.upload.as_ref().is_none_or(Progress::is_over)
        {
            lease.give_back();
        }
        this.record.passed(polled)
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
