//! A worker's connections to endpoints: kept for the next request, and made anew.
//!
//! They belong to one worker, so that taking one and putting it back needs no lock and wakes no other thread. One of HTTP/1.1
//! has no task of its own either: whoever has a request on it [drives](Link::drive) it, first for the answer's head and then
//! for its body, so that an answer wakes the one task that is to pass it on. While it is kept nobody looks at it; that its
//! endpoint closed it is seen when it is taken, or swept away.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::body::{Progress, Upload};
use crate::config::Protocol;
use crate::inside::Inside;
use crate::state::Endpoint;
use crate::tls::ToEndpoints;

/// Connections to one endpoint that are kept.
const MOST_IDLE: usize = 128;
/// How long they are. Less than what servers wait, so that it is seldom they who close one that is just taken.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of an answer's head, and of what is buffered of its body.
const MOST_BUFFERED: usize = 64 << 10;
/// Headers of an answer.
const MOST_HEADERS: usize = 256;
/// What an endpoint may send ahead of its client on HTTP/2: a stream, and a connection.
const WINDOW: (u32, u32) = (256 << 10, 1 << 20);

/// Why there is no answer.
pub(crate) enum Failure {
    /// No connection; here is the request again.
    Connect(Box<Request<Upload>>, std::io::Error),
    /// The connection was closed before the request was sent; here it is again.
    Unsent(Box<Request<Upload>>),
    /// The connection broke, and what became of the request is not known.
    Broken(hyper::Error),
    /// The endpoint did not answer in time.
    Silent,
}

/// The kept connections of a worker.
pub(crate) struct Upstreams {
    idle: RefCell<HashMap<Place, Vec<Idle>>>,
    shared: RefCell<HashMap<Place, http2::SendRequest<Upload>>>,
    news: Notify,
    tls: Arc<ToEndpoints>,
    inside: Option<Inside>,
}

/// One port may be spoken to in two ways: two Ingresses may say so.
type Place = (SocketAddr, Protocol);

struct Idle {
    link: Box<Link>,
    since: Instant,
}

/// What hyper does on it, until it ends, or ends as HTTP.
type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// A connection of HTTP/1.1, and what waits for it.
pub(crate) struct Link {
    sender: http1::SendRequest<Upload>,
    /// None once it is over.
    connection: Option<Connection>,
    /// Goes from request to request: to put it off costs less than to make one.
    silence: Pin<Box<Sleep>>,
}

impl Link {
    /// Lets the connection do what it can. It does not share in the budget of the task, which is that of the client's
    /// connection: what it passes on is bounded by what that one takes.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(&mut unconstrained(connection.as_mut())).poll(cx).is_ready()
        {
            // Who waits for something of it hears of its end, and why, when it is dropped.
            self.connection = None;
        }
    }

    /// Something came: waits so long for the next.
    pub(crate) fn hope(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.silence.as_mut().reset(deadline);
    }

    /// Whether nothing came for too long.
    pub(crate) fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        self.silence.as_mut().poll(cx).is_ready()
    }

    /// Whether it takes a request.
    fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }

    /// The connection alone, which goes on as another protocol.
    pub(crate) fn connection(self) -> Option<Connection> {
        self.connection
    }
}

/// A request that an endpoint is serving, and the connection on which it does.
pub(crate) struct Lease {
    upstreams: Rc<Upstreams>,
    endpoint: Arc<Endpoint>,
    /// None for a stream of HTTP/2.
    pub(crate) link: Option<Box<Link>>,
}

impl Lease {
    fn new(upstreams: &Rc<Upstreams>, endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Relaxed);
        Self { upstreams: upstreams.clone(), endpoint: endpoint.clone(), link: None }
    }

    /// The answer is complete: the connection may have another request.
    pub(crate) fn give_back(mut self) {
        let link = self.link.take().filter(|link| link.connection.is_some());
        if let Some(link) = link {
            let mut idle = self.upstreams.idle.borrow_mut();
            if idle.is_empty() {
                self.upstreams.news.notify_one();
            }
            let kept = idle.entry(self.endpoint.place()).or_default();
            if kept.len() < MOST_IDLE {
                kept.push(Idle { link, since: Instant::now() });
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Relaxed);
    }
}

/// Runs HTTP/2's streams on the thread that they are made on.
#[derive(Clone, Copy)]
pub(crate) struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

impl Upstreams {
    pub(crate) fn new(tls: Arc<ToEndpoints>, inside: Option<Inside>) -> Self {
        let (idle, shared, news) = Default::default();
        Self { idle, shared, news, tls, inside }
    }

    /// Sends a request to an endpoint; the head of its answer. `connecting` is how long the endpoint may take for a connection,
    /// `reading` how long it may be silent once the request has left.
    pub(crate) async fn send(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        request: Request<Upload>,
        (connecting, reading): (Duration, Duration),
        progress: &Progress,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut lease = Lease::new(self, endpoint);
        match endpoint.protocol {
            Protocol::Http1 | Protocol::Https => {
                let mut link = match self.kept(endpoint.place()) {
                    Some(link) => link,
                    // What is seldom there is in a box: a request's future is moved as a whole.
                    None => match Box::pin(self.connect(endpoint, connecting)).await {
                        Ok(link) => link,
                        Err(error) => return Err(Failure::Connect(Box::new(request), error)),
                    },
                };
                let answer = exchange(&mut link, request, reading, progress).await?;
                lease.link = Some(link);
                Ok((answer, lease))
            }
            Protocol::H2c | Protocol::H2 => {
                let sending = self.stream(endpoint, request, connecting);
                match Box::pin(patiently(sending, reading, progress)).await {
                    Some(answer) => Ok((answer?, lease)),
                    None => Err(Failure::Silent),
                }
            }
        }
    }

    /// Sends a request as a stream of the connection that all of them share.
    async fn stream(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Request<Upload>,
        patience: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let known = self.shared.borrow().get(&endpoint.place()).cloned();
        let mut sender = match known.filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => match self.connect_h2(endpoint, patience).await {
                Ok(sender) => {
                    self.shared.borrow_mut().insert(endpoint.place(), sender.clone());
                    sender
                }
                Err(error) => return Err(Failure::Connect(Box::new(request), error)),
            },
        };
        if sender.ready().await.is_err() {
            self.shared.borrow_mut().remove(&endpoint.place());
            return Err(Failure::Unsent(Box::new(request)));
        }
        sender.try_send_request(request).await.map_err(failure)
    }

    async fn connect(&self, endpoint: &Endpoint, patience: Duration) -> std::io::Result<Box<Link>> {
        let address = endpoint.address;
        within(patience, async {
            let stream = self.dial(address).await?;
            match endpoint.protocol {
                Protocol::Https => link(secure(&self.tls.http1, address, stream).await?).await,
                _ => link(stream).await,
            }
        })
        .await
    }

    async fn connect_h2(
        &self,
        endpoint: &Endpoint,
        patience: Duration,
    ) -> std::io::Result<http2::SendRequest<Upload>> {
        let address = endpoint.address;
        within(patience, async {
            let stream = self.dial(address).await?;
            match endpoint.protocol {
                Protocol::H2 => share(secure(&self.tls.h2, address, stream).await?).await,
                _ => share(stream).await,
            }
        })
        .await
    }

    async fn dial(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let near = match &self.inside {
            Some(inside) => inside.connect(address).await,
            None => None,
        };
        let stream = match near {
            Some(stream) => stream,
            None => TcpStream::connect(address).await?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A kept connection that takes a request: the one that was used last.
    fn kept(&self, place: Place) -> Option<Box<Link>> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&place)?;
        loop {
            let mut link = kept.pop()?.link;
            if link.is_ready() {
                return Some(link);
            }
        }
    }

    /// Closes connections that nobody needed for a while.
    pub(crate) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain_mut(|idle| idle.since.elapsed() < IDLE && idle.link.is_ready());
            !kept.is_empty()
        });
        self.shared.borrow_mut().retain(|_, sender| !sender.is_closed());
    }

    /// Waits until there is a kept connection: a worker without is never woken.
    pub(crate) async fn used(&self) {
        while self.idle.borrow().is_empty() {
            self.news.notified().await;
        }
    }
}

/// Sends a request, and waits for the answer's head.
async fn exchange(
    link: &mut Link,
    request: Request<Upload>,
    reading: Duration,
    progress: &Progress,
) -> Result<Response<Incoming>, Failure> {
    // It is looked at each time that the connection was driven, and nobody else brings it: it need not wake anybody.
    let mut answer = pin!(unconstrained(link.sender.try_send_request(request)));
    link.hope(reading);
    let mut seen = progress.bytes();
    std::future::poll_fn(|cx| {
        link.drive(cx);
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Poll::Ready(answer.map_err(failure));
        }
        while link.is_silent(cx) {
            // As long as the request is on its way, no answer is waited for.
            if progress.is_over() || progress.bytes() == seen {
                return Poll::Ready(Err(Failure::Silent));
            }
            seen = progress.bytes();
            link.hope(reading);
        }
        Poll::Pending
    })
    .await
}

/// Waits for an answer's head, as long as the request is still on its way and for `patience` after that.
async fn patiently<T>(
    sending: impl Future<Output = T>,
    patience: Duration,
    progress: &Progress,
) -> Option<T> {
    let mut sending = pin!(sending);
    let mut seen = progress.bytes();
    loop {
        match tokio::time::timeout(patience, sending.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if progress.is_over() || progress.bytes() == seen => return None,
            Err(_) => seen = progress.bytes(),
        }
    }
}

fn failure(mut error: TrySendError<Request<Upload>>) -> Failure {
    match error.take_message() {
        Some(request) => Failure::Unsent(Box::new(request)),
        None => Failure::Broken(error.into_error()),
    }
}

async fn within<T>(
    patience: Duration,
    connecting: impl Future<Output = std::io::Result<T>>,
) -> std::io::Result<T> {
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    tokio::time::timeout(patience, connecting).await.map_err(late)?
}

/// The same in TLS. It is asked for by address: no name is told.
async fn secure(
    connector: &TlsConnector,
    address: SocketAddr,
    stream: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    connector.connect(ServerName::IpAddress(address.ip().into()), stream).await
}

async fn link<S>(stream: S) -> std::io::Result<Box<Link>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MOST_BUFFERED).max_headers(MOST_HEADERS).writev(false);
    let handshake = builder.handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(std::io::Error::other)?;
    let silence = Box::pin(tokio::time::sleep(IDLE));
    Ok(Box::new(Link { sender, connection: Some(Box::pin(connection.with_upgrades())), silence }))
}

async fn share<S>(stream: S) -> std::io::Result<http2::SendRequest<Upload>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1)
        .max_header_list_size(MOST_BUFFERED as u32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let handshake = builder.handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(std::io::Error::other)?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}
