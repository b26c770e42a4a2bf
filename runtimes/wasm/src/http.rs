//! Components that export `wasi:http/incoming-handler`: a fresh instance for every request.
//!
//! A request's guest is polled by its own connection's task, first until the answer's head is
//! there, then by the answer's body: no task, channel or timer is made for a guest that answers at
//! once. What a guest still does after its answer has left goes on in a task of its own.
//!
//! **Limits.** A container runs at most [`MOST_ACTIVE`] requests at once; [`MOST_WAITING`] more
//! wait; beyond that, or if the host has no free slot in time, clients get 503 and Retry-After. A
//! trap is a 500 that says nothing of its reasons, which are in the container's log. A request that
//! exceeds the memory limit is a 500, and the container exits with 137, OOMKilled.
//!
//! **Stopping drops nothing.** From the stop on, the container *drains*: it serves new and old
//! connections as before, but every HTTP/1.1 answer says `Connection: close` and every HTTP/2
//! connection gets a GOAWAY, so that clients go where the Service sends them by now. Once no
//! request has come for [`QUIET`] and none is being served, it closes its listeners and idle
//! connections and exits with 0, Completed. When the grace period is over it does so regardless:
//! with 0 if no request is being served, else with 137 and those requests are lost. A grace of 0
//! kills at once.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use coracle_sandbox::Usage;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiHttpView};

use crate::compile::Program;
use crate::container::{Container, Exit, Phase, Stamp};
use crate::instance::{Killed, State};
use crate::logs::{Stream, failure};

/// Requests of one container that run at once.
const MOST_ACTIVE: usize = 256;
/// Requests of one container that wait for one of those to end.
const MOST_WAITING: usize = 1024;
/// How long a request waits for a place before its client is told to try again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one request may take, unless the container says otherwise.
const TIMEOUT: Duration = Duration::from_secs(300);
/// A draining container has been taken out of its Services when nothing came for this long.
const QUIET: Duration = Duration::from_secs(1);
/// How long idle connections have to end once they were told to.
const CLOSING: Duration = Duration::from_millis(500);

/// A container's requests.
pub(crate) struct Traffic {
    room: Semaphore,
    waiting: AtomicUsize,
    active: AtomicUsize,
    connections: AtomicUsize,
    requests: AtomicU64,
    failed: AtomicU64,
    last: Stamp,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            room: Semaphore::new(MOST_ACTIVE),
            waiting: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last: Stamp::default(),
        }
    }
}

impl Traffic {
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            requests: self.requests.load(Relaxed),
            failed_requests: self.failed.load(Relaxed),
            active_requests: self.active.load(Relaxed) as u64,
            ..Usage::default()
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve_connection(container: Arc<Container>, stream: TcpStream) {
    container.traffic.connections.fetch_add(1, Relaxed);
    let _count = Count(&container.traffic.connections);
    let is_http2 = AtomicBool::new(false);
    let seen = &is_http2;
    let guest = container.clone();
    let service = hyper::service::service_fn(move |request: Request<_>| {
        let http2 = request.version() == Version::HTTP_2;
        if http2 {
            seen.store(true, Relaxed);
        }
        let container = guest.clone();
        async move {
            let mut response = handle(&container, request).await;
            if !http2 && *container.phase.borrow() != Phase::Serving {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let builder = auto::Builder::new(Spawner(container.clone()));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut phases = container.phase.subscribe();
    loop {
        tokio::select! {
            biased;
            // Errors are the client's: it broke off, or spoke no HTTP.
            _ = connection.as_mut() => return,
            changed = phases.changed() => match *phases.borrow_and_update() {
                Phase::Killed => return,
                _ if changed.is_err() => return,
                Phase::Serving => {}
                Phase::Draining if !is_http2.load(Relaxed) => {}
                Phase::Draining | Phase::Closing | Phase::Over => {
                    connection.as_mut().graceful_shutdown();
                }
            },
        }
    }
}

/// Runs HTTP/2 streams, until the container is killed.
#[derive(Clone)]
struct Spawner(Arc<Container>);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut phases = self.0.phase.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = stream => {}
                _ = phases.wait_for(|phase| *phase == Phase::Killed) => {}
            }
        });
    }
}

struct Count<'a>(&'a AtomicUsize);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Answers a request, from a connection or from a guest of this host.
pub(crate) async fn handle<B>(container: &Arc<Container>, request: Request<B>) -> Response<Answer>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    match answer(container, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(),
    }
}

/// Why there is no answer from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Malformed,
    Over,
    Full,
    Failed,
    TimedOut,
}

impl Refusal {
    fn response(self) -> Response<Answer> {
        let (status, text) = match self {
            Refusal::Malformed => (StatusCode::BAD_REQUEST, "the request names no host\n"),
            Refusal::Over => (StatusCode::SERVICE_UNAVAILABLE, "the container has exited\n"),
            Refusal::Full => (StatusCode::SERVICE_UNAVAILABLE, "no room for more requests\n"),
            Refusal::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "the component failed\n"),
            Refusal::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "the component took too long\n"),
        };
        let body = http_body_util::Full::new(Bytes::from_static(text.as_bytes()));
        let inner = body.map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(Answer { inner, running: None });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

async fn answer<B>(
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
    let mut running = Running::new(place, request, sender)?;

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
            let running = running.guest.is_some().then_some(running);
            Ok(response.map(|inner| Answer { inner, running }))
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

/// A place among the container's requests, and a slot of the host's.
struct Place {
    container: Arc<Container>,
    slots: Option<Arc<Semaphore>>,
}

impl Place {
    async fn get(container: &Arc<Container>) -> Result<Place, Refusal> {
        let traffic = &container.traffic;
        if *container.phase.borrow() >= Phase::Over {
            return Err(Refusal::Over);
        }
        if traffic.room.try_acquire().map(|permit| permit.forget()).is_err() {
            if traffic.waiting.fetch_add(1, Relaxed) >= MOST_WAITING {
                traffic.waiting.fetch_sub(1, Relaxed);
                return Err(Refusal::Full);
            }
            let _count = Count(&traffic.waiting);
            match tokio::time::timeout(PATIENCE, traffic.room.acquire()).await {
                Ok(Ok(permit)) => permit.forget(),
                _ => return Err(Refusal::Full),
            }
        }
        traffic.active.fetch_add(1, Relaxed);
        let mut place = Place { container: container.clone(), slots: None };

        let patience = Instant::now() + PATIENCE;
        while let Some(debt) = container.cpu.debt() {
            if Instant::now() > patience {
                return Err(Refusal::Full);
            }
            tokio::time::sleep(debt).await;
        }
        let engines = &container.node.engines;
        let class = engines.class(container.compiled.class).map_err(|_| Refusal::Full)?;
        if class.slots.try_acquire().map(|permit| permit.forget()).is_err() {
            match tokio::time::timeout_at(patience, class.slots.acquire()).await {
                Ok(Ok(permit)) => permit.forget(),
                _ => return Err(Refusal::Full),
            }
        }
        place.slots = Some(class.slots.clone());
        engines.wake_clock();
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            slots.add_permits(1);
        }
        let traffic = &self.container.traffic;
        traffic.last.touch();
        traffic.active.fetch_sub(1, Relaxed);
        traffic.room.add_permits(1);
    }
}

/// How a guest's run ended.
enum Outcome {
    Returned,
    TimedOut,
    Failed { error: wasmtime::Error, outgrew_slot: bool },
}

/// A guest that runs, and until when it may.
struct Running {
    container: Arc<Container>,
    guest: Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

type Answered = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

impl Running {
    fn new<B>(place: Place, request: Request<B>, answered: Answered) -> Result<Running, Refusal>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let container = place.container.clone();
        let engine = match &container.compiled.program {
            Program::Http(pre) => pre.engine(),
            Program::Command(_) => return Err(Refusal::Over),
        };
        let failed = |e: wasmtime::Error| {
            container.fail(&format!("the component could not be started: {e:#}"));
            Refusal::Failed
        };
        let mut store = State::new(&container).map_err(failed)?.store(engine);
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request);
        let request = request.map_err(|_| Refusal::Malformed)?;
        let out = http.new_response_outparam(answered).map_err(failed)?;
        let timeout = container.spec.http.timeout_seconds;
        let timeout = timeout.map_or(TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
        let guest = async move {
            // Declared before the store, dropped after it.
            let place = place;
            let mut store = store;
            let Program::Http(pre) = &place.container.compiled.program else {
                return Outcome::Returned;
            };
            let result = match pre.instantiate_async(&mut store).await {
                Ok(proxy) => {
                    proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => Outcome::Returned,
                Err(error) => {
                    Outcome::Failed { error, outgrew_slot: store.data().memory.outgrew_slot }
                }
            }
        };
        let deadline = Instant::now() + timeout;
        Ok(Running { container, guest: Some(Box::pin(guest)), deadline, timer: None })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
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
    fn report(&self, outcome: Outcome) -> Option<Refusal> {
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
            Some(message) => container.exit_soon(Exit::out_of_memory(message)),
            None => container.log.write(Stream::Err, &failure(&error)),
        }
        Some(Refusal::Failed)
    }

    async fn finish(mut self) {
        let outcome = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.report(outcome);
    }
}

impl Container {
    fn fail(&self, message: &str) {
        self.traffic.failed.fetch_add(1, Relaxed);
        self.log.write(Stream::Err, message);
    }

    /// Makes it drain, then exit: the rule is in the module's head.
    pub(crate) async fn drain(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let begun = Instant::now();
        self.enter(Phase::Draining);
        let traffic = &self.traffic;
        let graceful = loop {
            let Some(deadline) = *stop.borrow_and_update() else { return };
            if Instant::now() >= deadline {
                break traffic.active.load(Relaxed) == 0 && deadline > begun;
            }
            if traffic.active.load(Relaxed) == 0 && traffic.last.age().min(begun.elapsed()) >= QUIET
            {
                break true;
            }
            let wait = Duration::from_millis(50).min(deadline - Instant::now());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => {}
            }
        };
        if !graceful {
            let active = traffic.active.load(Relaxed);
            let message = format!("killed at the end of its grace period, with {active} requests");
            return self.exit(Exit::killed(message), Duration::ZERO).await;
        }
        self.enter(Phase::Closing);
        let closed = Instant::now() + CLOSING;
        while traffic.connections.load(Relaxed) > 0 && Instant::now() < closed {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.exit(Exit::completed(), Duration::from_millis(100)).await;
    }
}

/// An answer's body, and the guest that makes it.
pub(crate) struct Answer {
    inner: HyperOutgoingBody,
    running: Option<Running>,
}

impl Answer {
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
            group.spawn(running.finish());
        }
    }
}
