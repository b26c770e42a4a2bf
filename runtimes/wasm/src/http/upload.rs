//! A request's body on its way to the guest: counted, and cut where it is larger than it may be.
//!
//! A guest may answer without reading its request's body. An HTTP/1.1 connection can go on only behind that body, so the
//! host reads it in the guest's stead, as far as that is cheaper than a new connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error;

use super::refusal::Refusal;
use crate::memory::{Account, Lent};

/// Bytes that are read for a guest which does not, and how long that may take.
const MOST_UNREAD: usize = 256 << 10;
const UNREAD: Duration = Duration::from_secs(5);

/// A body and how much of it may come. A request without one has no progress to watch.
pub(super) struct Upload<B> {
    /// There until it is dropped.
    inner: Option<B>,
    /// What becomes of a body that was not read to its end.
    unread: Option<fn(B, Option<Lent>)>,
    most: u64,
    progress: Option<Arc<Progress>>,
    /// Of what is held of it, its guest's container's.
    cost: Option<Lent>,
}

/// Bytes that are held of a body between its client and its guest.
const COST: u64 = 64 << 10;

/// What is known of a body by those who do not read it.
#[derive(Default)]
pub(super) struct Progress {
    received: AtomicU64,
    fault: AtomicU8,
    /// All of it was read.
    over: AtomicBool,
}

const BROKEN: u8 = 1;
const TOO_LARGE: u8 = 2;

impl Progress {
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Whether there is nothing more to be had.
    fn is_over(&self) -> bool {
        self.over.load(Relaxed) || self.fault.load(Relaxed) != 0
    }

    /// What was found to be wrong with it.
    pub(super) fn fault(&self) -> Option<Refusal> {
        match self.fault.load(Relaxed) {
            BROKEN => Some(Refusal::BrokenBody),
            TOO_LARGE => Some(Refusal::TooLarge),
            _ => None,
        }
    }
}

impl<B: Body> Upload<B> {
    pub(super) fn new(inner: B, most: u64, account: &Arc<Account>) -> Result<Upload<B>, Refusal> {
        if inner.size_hint().lower() > most {
            return Err(Refusal::TooLarge);
        }
        let progress = (!inner.is_end_stream()).then(Arc::default);
        let cost = match progress {
            Some(_) => Some(account.lend(COST).ok_or(Refusal::Full)?),
            None => None,
        };
        Ok(Upload { inner: Some(inner), unread: None, most, progress, cost })
    }

    /// To be called where the connection is to go on behind this body.
    pub(super) fn read_to_the_end(mut self) -> Upload<B>
    where
        B: Send + Unpin + 'static,
    {
        self.unread = Some(read);
        self
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }
}

fn read<B: Body + Send + Unpin + 'static>(mut body: B, cost: Option<Lent>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let work = async move {
        let _cost = cost;
        let mut left = MOST_UNREAD;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, |data| data.remaining()))
            else {
                return;
            };
            left = rest;
        }
    };
    runtime.spawn(tokio::time::timeout(UNREAD, work));
}

impl<B> Drop for Upload<B> {
    fn drop(&mut self) {
        let has_rest = self.progress.as_ref().is_some_and(|progress| !progress.is_over());
        if let (true, Some(unread), Some(body)) = (has_rest, self.unread, self.inner.take()) {
            unread(body, self.cost.take());
        }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        let is_over = inner.is_end_stream();
        let Some(progress) = &self.progress else { return polled.map_err(Into::into) };
        if is_over {
            progress.over.store(true, Relaxed);
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let received = progress.received.fetch_add(bytes, Relaxed) + bytes;
                if received > self.most {
                    progress.fault.store(TOO_LARGE, Relaxed);
                    return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(received)))));
                }
            }
            Poll::Ready(Some(Err(_))) => progress.fault.store(BROKEN, Relaxed),
            Poll::Ready(None) => progress.over.store(true, Relaxed),
            Poll::Pending => {}
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
