//! The ways to agents: a tunnel that the agent keeps open ([`coracle_api::tunnel`]), or a connection to the address that its
//! node reports.
//!
//! HTTP/2 is the multiplexer, with the roles reversed: it is in this program already, and bounds streams and buffers, slows
//! down who sends to somebody who does not read, and notices by its pings when the other side is gone.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::tunnel::{STREAM_WINDOW, STREAMS, WINDOW};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper::upgrade::Upgraded;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long it may take to reach an agent, by either way.
const CONNECT: Duration = Duration::from_secs(5);
/// How often an agent is asked whether it is there, and how long the answer may take. It asks, too, and sooner: it is the one
/// that can make a new tunnel.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// The tunnels that are open, one of a node at most; clones share them.
#[derive(Clone)]
pub(crate) struct Tunnels {
    open: Arc<Mutex<Open>>,
    /// Told of each that is opened.
    opened: watch::Sender<()>,
}

#[derive(Default)]
struct Open {
    /// How many there ever were.
    count: u64,
    by_node: HashMap<String, Tunnel>,
}

struct Tunnel {
    number: u64,
    send: SendRequest<Empty<Bytes>>,
    /// With this, all that goes on in the tunnel ends.
    _life: DropGuard,
}

/// Runs what belongs to a tunnel for as long as that lives: left to itself, HTTP/2 goes on until the last stream has ended.
#[derive(Clone)]
struct Within(CancellationToken);

impl<F> Executor<F> for Within
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let life = self.0.clone();
        tokio::spawn(async move { life.run_until_cancelled(work).await });
    }
}

impl Default for Tunnels {
    fn default() -> Self {
        Self { open: Arc::default(), opened: watch::Sender::new(()) }
    }
}

impl Tunnels {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a node's tunnel in place of any older one, which ends: a node that opens another has lost it. Returns when it has
    /// ended itself, or the server is to `stop`.
    pub(crate) async fn keep<T>(&self, node: &str, io: T, mut stop: watch::Receiver<bool>)
    where
        T: Read + Write + Unpin + Send + 'static,
    {
        let life = CancellationToken::new();
        let handshake = http2::Builder::new(Within(life.clone()))
            .timer(TokioTimer::new())
            .initial_max_send_streams(STREAMS as usize)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .handshake(io)
            .await;
        let (send, connection) = match handshake {
            Ok(made) => made,
            Err(error) => {
                tracing::debug!(%error, node, "a tunnel was not opened");
                return;
            }
        };
        let number = {
            let mut open = self.open();
            open.count += 1;
            let tunnel = Tunnel { number: open.count, send, _life: life.clone().drop_guard() };
            open.by_node.insert(node.to_owned(), tunnel);
            open.count
        };
        self.opened.send_replace(());
        tracing::debug!(node, "a tunnel is open");
        tokio::select! {
            outcome = connection => tracing::debug!(?outcome, node, "a tunnel ended"),
            () = life.cancelled() => tracing::debug!(node, "a tunnel was replaced"),
            // An error means that the server is gone: the same.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        let mut open = self.open();
        if open.by_node.get(node).is_some_and(|tunnel| tunnel.number == number) {
            open.by_node.remove(node);
        }
    }

    /// A connection through a node's tunnel; none if it has none.
    async fn connect(&self, node: &Uri) -> Option<io::Result<Upgraded>> {
        let mut send = self.open().by_node.get(node.host()?)?.send.clone();
        let asked = async {
            let mut request = Request::new(Empty::new());
            *request.method_mut() = Method::CONNECT;
            *request.uri_mut() = node.authority().cloned().map(Uri::from).unwrap_or_default();
            send.ready().await?;
            let answer = send.send_request(request).await?;
            hyper::upgrade::on(answer).await
        };
        Some(match tokio::time::timeout(CONNECT, asked).await {
            Ok(made) => made.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        })
    }

    /// A connection through a node's next tunnel.
    async fn connect_soon(&self, node: &Uri) -> io::Result<Upgraded> {
        let mut opened = self.opened.subscribe();
        loop {
            // Its sender is here.
            let _ = opened.changed().await;
            if let Some(made) = self.connect(node).await {
                return made;
            }
        }
    }
}

/// Says where a node reports that its agent is.
pub(crate) type Address = Arc<dyn Fn(&str) -> io::Result<SocketAddr> + Send + Sync>;

/// Connects to agents, by their nodes' names.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tunnels: Tunnels,
    pub(crate) address: Address,
}

impl tower::Service<Uri> for Connector {
    type Response = Way;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Way>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, node: Uri) -> Self::Future {
        let Self { tunnels, address } = self.clone();
        async move {
            let name = node.host().unwrap_or_default();
            match tunnels.connect(&node).await {
                Some(Ok(stream)) => return Ok(Way(Box::pin(stream))),
                Some(Err(error)) => tracing::debug!(%error, name, "no way through the tunnel"),
                None => {}
            }
            let address = address(name)?;
            let direct = async {
                let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await??;
                // What is typed in a terminal comes in small pieces.
                stream.set_nodelay(true)?;
                Ok(Way(Box::pin(TokioIo::new(stream))))
            };
            // After a restart of this server, agents are about to come back.
            tokio::select! {
                made = direct => made,
                made = tunnels.connect_soon(&node) => Ok(Way(Box::pin(made?))),
            }
        }
        .boxed()
    }
}

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A connection, by whichever way.
pub(crate) struct Way(Pin<Box<dyn Stream>>);

impl Way {
    pub(crate) fn new(stream: impl Read + Write + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl Connection for Way {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Way {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(context, buffer)
    }
}

impl Write for Way {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(context)
    }
}
