//! From a request to its answer: first the head, then a body which runs the guest that makes it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use coracle_sandbox::NoticeKind;
use http::{Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Sleep;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::p2::Seat;
use super::place::Place;
use super::record::Record;
use super::refusal::Refusal;
use super::reuse::{Warm, keep};
use super::running::Running;
use super::{p2, p3};
use crate::container::{Container, Phase};
use crate::cpu::metered;
use crate::program::Program;

/// Bytes of an answer's body, unless the container says otherwise.
const MOST_SENT: u64 = 8 << 30;
/// Frames that are taken from an answer that nobody wants, to see whether it is complete.
const MOST_UNWANTED: usize = 16;

/// What a guest began to answer, and what goes on of it.
pub(super) struct Begun {
    response: Response<HyperOutgoingBody>,
    running: Option<Running>,
    warm: Option<Box<Warm>>,
}

/// How the agent's probes call themselves, as the kubelet's do. They go on while a container drains.
const PROBE: &[u8] = b"kube-probe/";

/// Lets the guest answer. Whatever turns out to be wrong before the head of its answer is known is
/// a refusal, since the client can still be told.
pub(super) async fn begin<B>(
    container: &Arc<Container>,
    request: Request<B>,
    record: &Record,
) -> Result<Begun, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let agent = request.headers().get(http::header::USER_AGENT);
    let is_probe = agent.is_some_and(|agent| agent.as_bytes().starts_with(PROBE));
    let place = Place::get(container, record.begun, record.deadline, is_probe).await?;
    let seat = match container.reuse.and_then(|_| container.traffic.idle.take()) {
        Some(warm) => {
            container.node.engines.wake_clock();
            Seat::Warm(warm)
        }
        None => Seat::New(place.slot().await?),
    };
    let (sender, mut receiver) = oneshot::channel();
    let guest = match container.compiled.program {
        Program::AsyncHttp(_) => p3::guest(place, seat, request, sender)?,
        _ => p2::guest(place, seat, request, sender)?,
    };
    let mut running = Running::new(container.clone(), guest, record.deadline);

    let mut told = None;
    let outcome = std::future::poll_fn(|cx| {
        let outcome = running.poll(cx);
        if let Some(fault) = record.upload.as_ref().and_then(|upload| upload.fault()) {
            return Poll::Ready(Err(fault));
        }
        if told.is_none() {
            match Pin::new(&mut receiver).poll(cx) {
                Poll::Ready(Ok(answer)) => told = Some(answer),
                // The guest gave up its right to answer; why, is known once it ended.
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
        match (told.is_some(), outcome) {
            (_, Poll::Ready(outcome)) => Poll::Ready(Ok(Some(outcome))),
            (true, Poll::Pending) => Poll::Ready(Ok(None)),
            (false, Poll::Pending) => Poll::Pending,
        }
    })
    .await?;

    let (running, warm) = match outcome {
        None => (Some(running), None),
        Some(outcome) => (None, container.judge(outcome)?),
    };
    let response = match told {
        Some(Ok(response)) => response,
        Some(Err(code)) => {
            container.fail(&format!("the component answered with an error: {code:?}"));
            return Err(Refusal::Failed);
        }
        None => {
            container.fail("the component returned without an answer");
            return Err(Refusal::Failed);
        }
    };
    if response.body().size_hint().lower() > container.most_sent() {
        container.overlong();
        return Err(Refusal::Overlong);
    }
    Ok(Begun { response, running, warm })
}

impl Container {
    fn most_sent(&self) -> u64 {
        self.spec.http.max_response_bytes.unwrap_or(MOST_SENT)
    }

    fn overlong(&self) {
        let most = self.most_sent();
        self.fail(&format!("the answer was broken off: it is larger than {most} bytes"));
        self.notice(NoticeKind::Limit, || {
            format!(
                "an answer was broken off: it is larger than {most} bytes; see the annotation \
                 coracle.dev/max-response-body"
            )
        });
    }
}

/// An answer's body, and the guest that makes it.
pub(crate) struct Answer {
    inner: HyperOutgoingBody,
    running: Option<Running>,
    warm: Option<Box<Warm>>,
    /// For a guest that returned and left its answer open.
    timer: Option<Pin<Box<Sleep>>>,
    record: Record,
}

impl Answer {
    /// The guest's.
    pub(super) fn of_guest(begun: Begun, mut record: Record) -> Response<Answer> {
        let Begun { response, running, warm } = begun;
        record.status = response.status().as_u16();
        response.map(|inner| Answer::new(inner, running, warm, record))
    }

    /// The host's, in the guest's stead.
    pub(super) fn refusal(refusal: Refusal, mut record: Record) -> Response<Answer> {
        let response = refusal.response();
        record.status = response.status().as_u16();
        record.refusal = Some(refusal);
        response.map(|inner| Answer::new(inner, None, None, record))
    }

    /// Whether the client is to be told to send nothing more.
    pub(super) fn ends_connection(&self) -> bool {
        self.record.refusal.is_some_and(Refusal::ends_connection)
    }

    fn new(
        inner: HyperOutgoingBody,
        running: Option<Running>,
        warm: Option<Box<Warm>>,
        record: Record,
    ) -> Answer {
        Answer { inner, running, warm, timer: None, record }
    }

    /// To be called while nothing comes and nobody is there who could say anything.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let deadline = self.record.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        self.record.container().late();
        Poll::Ready(Some(Err(self.break_off(Refusal::TimedOut))))
    }

    fn run(&mut self, cx: &mut Context<'_>) {
        if let Some(running) = &mut self.running
            && let Poll::Ready(outcome) = running.poll(cx)
        {
            self.running = None;
            match self.record.container().judge(outcome) {
                Ok(warm) => self.warm = warm,
                Err(why) => self.record.broken = Some(why),
            }
        }
    }

    /// Ends the guest, and what it says.
    fn break_off(&mut self, why: Refusal) -> Error {
        self.running = None;
        self.warm = None;
        self.record.broken = Some(why);
        match why {
            Refusal::Overlong => Error::HttpResponseBodySize(Some(self.record.sent)),
            Refusal::TimedOut => Error::HttpResponseTimeout,
            _ => Error::HttpResponseIncomplete,
        }
    }

    /// Passes on what the guest says, as far as it may. A guest that failed may not seem to have
    /// said all that it wanted to: what it left is broken off.
    fn checked(
        &mut self,
        frame: Option<Result<Frame<Bytes>, Error>>,
    ) -> Option<Result<Frame<Bytes>, Error>> {
        match frame {
            Some(Ok(frame)) => {
                self.record.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                let upload = self.record.upload.as_ref();
                if self.record.sent > self.record.container().most_sent() {
                    self.record.container().overlong();
                    Some(Err(self.break_off(Refusal::Overlong)))
                } else if upload.and_then(|upload| upload.fault()) == Some(Refusal::TooLarge) {
                    Some(Err(self.break_off(Refusal::TooLarge)))
                } else {
                    Some(Ok(frame))
                }
            }
            Some(Err(error)) => {
                self.record.broken.get_or_insert(Refusal::Failed);
                self.warm = None;
                Some(Err(error))
            }
            None => match self.record.broken {
                Some(why) => Some(Err(self.break_off(why))),
                None => {
                    if let Some(warm) = self.warm.take() {
                        keep(self.record.container(), warm);
                    }
                    None
                }
            },
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
        let mut frame = Pin::new(&mut self.inner).poll_frame(cx);
        match frame {
            // What was taken may have been all that the guest waited for to end.
            Poll::Ready(Some(Ok(_)) | None) => self.run(cx),
            Poll::Ready(Some(Err(_))) => {}
            Poll::Pending => {
                self.run(cx);
                frame = Pin::new(&mut self.inner).poll_frame(cx);
            }
        }
        match frame {
            Poll::Ready(frame) => Poll::Ready(self.checked(frame)),
            Poll::Pending if self.running.is_none() => self.wait(cx),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.record.broken.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let container = self.record.container().clone();
        if let Some(warm) = self.warm.take() {
            // An answer to HEAD has a body that nobody asks for.
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..MOST_UNWANTED {
                match Pin::new(&mut self.inner).poll_frame(&mut cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(None) => return keep(&container, warm),
                    Poll::Ready(Some(Err(_))) | Poll::Pending => break,
                }
            }
        }
        if let Some(running) = self.running.take()
            && *container.phase.borrow() != Phase::Killed
        {
            let group = container.sandbox.group.clone();
            group.spawn(metered(container.cpu.clone(), running.finish()));
        }
    }
}
