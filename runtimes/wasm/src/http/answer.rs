//! From a request to its answer: first the head, then a body which runs the guest that makes it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::p2;
use super::place::Place;
use super::refusal::Refusal;
use super::running::Running;
use crate::container::{Container, Phase};
use crate::cpu::metered;

/// Lets the guest answer.
pub(super) async fn answer<B>(
    container: &Arc<Container>,
    request: Request<B>,
) -> Result<Response<Answer>, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    container.traffic.requests.fetch_add(1, Relaxed);
    let place = Place::get(container).await?;
    let (sender, mut receiver) = oneshot::channel();
    let guest = p2::guest(place, request, sender)?;
    let mut running = Running::new(container.clone(), guest);

    let mut told = None;
    let outcome = std::future::poll_fn(|cx| {
        let outcome = running.poll(cx);
        if told.is_none() {
            match Pin::new(&mut receiver).poll(cx) {
                Poll::Ready(Ok(answer)) => told = Some(answer),
                // The guest gave up its right to answer; why, is known once it ended.
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
        match (told.is_some(), outcome) {
            (true, Poll::Ready(outcome)) => Poll::Ready(Some(outcome)),
            (true, Poll::Pending) => Poll::Ready(None),
            (false, Poll::Ready(outcome)) => Poll::Ready(Some(outcome)),
            (false, Poll::Pending) => Poll::Pending,
        }
    })
    .await;

    let failed = outcome.map(|outcome| running.report(outcome)).unwrap_or(None);
    match told {
        Some(Ok(response)) => {
            let running = running.goes_on().then_some(running);
            Ok(response.map(|inner| Answer::new(inner, running)))
        }
        Some(Err(code)) => {
            container.fail(&format!("the component answered with an error: {code:?}"));
            Err(Refusal::Failed)
        }
        None => Err(failed.unwrap_or_else(|| {
            container.fail("the component returned without an answer");
            Refusal::Failed
        })),
    }
}

/// An answer's body, and the guest that makes it.
pub(crate) struct Answer {
    inner: HyperOutgoingBody,
    running: Option<Running>,
}

impl Answer {
    pub(super) fn new(inner: HyperOutgoingBody, running: Option<Running>) -> Answer {
        Answer { inner, running }
    }

    fn run(&mut self, cx: &mut Context<'_>) {
        if let Some(running) = &mut self.running
            && let Poll::Ready(outcome) = running.poll(cx)
        {
            running.report(outcome);
            self.running = None;
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_)) | None) = frame {
            // What was taken may have been all that the guest waited for to end.
            self.run(cx);
        }
        if frame.is_ready() {
            return frame;
        }
        self.run(cx);
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take()
            && *running.container.phase.borrow() != Phase::Killed
        {
            let group = running.container.sandbox.group.clone();
            group.spawn(metered(running.container.cpu.clone(), running.finish()));
        }
    }
}
