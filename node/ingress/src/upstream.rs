//! A worker's connections to endpoints: kept for the next request, and made anew.
//!
//! They belong to one worker, so that taking one and putting it back needs no lock and wakes no other thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::body::Upload;
use crate::config::Protocol;
use crate::state::Endpoint;

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
}

/// The kept connections of a worker.
#[derive(Default)]
pub(crate) struct Upstreams {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    shared: RefCell<HashMap<SocketAddr, http2::SendRequest<Upload>>>,
    news: Notify,
}

struct Idle {
    sender: http1::SendRequest<Upload>,
    since: Instant,
}

/// A request that an endpoint is serving, and the connection on which it does.
pub(crate) struct Lease {
    upstreams: Rc<Upstreams>,
    endpoint: Arc<Endpoint>,
    sender: Option<http1::SendRequest<Upload>>,
}

impl Lease {
    fn new(upstreams: &Rc<Upstreams>, endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Relaxed);
        Self { upstreams: upstreams.clone(), endpoint: endpoint.clone(), sender: None }
    }

    /// The answer is complete: the connection may have another request.
    pub(crate) fn give_back(mut self) {
        if let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) {
            let mut idle = self.upstreams.idle.borrow_mut();
            if idle.is_empty() {
                self.upstreams.news.notify_one();
            }
            let kept = idle.entry(self.endpoint.address).or_default();
            if kept.len() < MOST_IDLE {
                kept.push(Idle { sender, since: Instant::now() });
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
    /// Sends a request to an endpoint; the head of its answer.
    pub(crate) async fn send(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        request: Request<Upload>,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut lease = Lease::new(self, endpoint);
        match endpoint.protocol {
            Protocol::Http1 => {
                let mut sender = match self.kept(endpoint.address).await {
                    Some(sender) => sender,
                    None => match connect(endpoint.address, patience).await {
                        Ok(sender) => sender,
                        Err(error) => return Err(Failure::Connect(Box::new(request), error)),
                    },
                };
                let answer = sender.try_send_request(request).await.map_err(failure)?;
                lease.sender = Some(sender);
                Ok((answer, lease))
            }
            Protocol::H2c => {
                let known = self.shared.borrow().get(&endpoint.address).cloned();
                let mut sender = match known.filter(|sender| !sender.is_closed()) {
                    Some(sender) => sender,
                    None => match connect_h2(endpoint.address, patience).await {
                        Ok(sender) => {
                            self.shared.borrow_mut().insert(endpoint.address, sender.clone());
                            sender
                        }
                        Err(error) => return Err(Failure::Connect(Box::new(request), error)),
                    },
                };
                if sender.ready().await.is_err() {
                    self.shared.borrow_mut().remove(&endpoint.address);
                    return Err(Failure::Unsent(Box::new(request)));
                }
                let answer = sender.try_send_request(request).await.map_err(failure)?;
                Ok((answer, lease))
            }
        }
    }

    /// A kept connection that takes a request. One whose last answer has only just ended does so in a moment.
    async fn kept(&self, address: SocketAddr) -> Option<http1::SendRequest<Upload>> {
        loop {
            let mut sender = self.idle.borrow_mut().get_mut(&address)?.pop()?.sender;
            if sender.is_ready() || sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    /// Closes connections that nobody needed for a while.
    pub(crate) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain(|idle| idle.since.elapsed() < IDLE && !idle.sender.is_closed());
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

fn failure(mut error: TrySendError<Request<Upload>>) -> Failure {
    match error.take_message() {
        Some(request) => Failure::Unsent(Box::new(request)),
        None => Failure::Broken(error.into_error()),
    }
}

async fn dial(address: SocketAddr, patience: Duration) -> std::io::Result<TokioIo<TcpStream>> {
    let stream = tokio::time::timeout(patience, TcpStream::connect(address))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

async fn connect(
    address: SocketAddr,
    patience: Duration,
) -> std::io::Result<http1::SendRequest<Upload>> {
    let stream = dial(address, patience).await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MOST_BUFFERED).max_headers(MOST_HEADERS).writev(false);
    let (sender, connection) = builder.handshake(stream).await.map_err(std::io::Error::other)?;
    // What goes wrong with it, whoever waits for an answer hears.
    tokio::task::spawn_local(connection.with_upgrades());
    Ok(sender)
}

async fn connect_h2(
    address: SocketAddr,
    patience: Duration,
) -> std::io::Result<http2::SendRequest<Upload>> {
    let stream = dial(address, patience).await?;
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1)
        .max_header_list_size(MOST_BUFFERED as u32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let (sender, connection) = builder.handshake(stream).await.map_err(std::io::Error::other)?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}
