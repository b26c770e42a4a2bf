//! A request's body on its way to the guest: counted, and cut where it is larger than it may be.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error;

use super::refusal::Refusal;
use crate::memory::{Account, Lent};

/// A body and how much of it may come. A request without one has no progress to watch.
pub(super) struct Upload<B> {
    inner: B,
    most: u64,
    progress: Option<Arc<Progress>>,
    _cost: Option<Lent>,
}

/// Bytes that are held of a body between its client and its guest.
const COST: u64 = 64 << 10;

/// What is known of a body by those who do not read it.
#[derive(Default)]
pub(super) struct Progress {
    received: AtomicU64,
    fault: AtomicU8,
}

const BROKEN: u8 = 1;
const TOO_LARGE: u8 = 2;

impl Progress {
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
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
        Ok(Upload { inner, most, progress, _cost: cost })
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
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
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        let Some(progress) = &self.progress else { return polled.map_err(Into::into) };
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
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
