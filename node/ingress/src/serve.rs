//! One connection, from its first byte to its last, within limits:
//!
//! | what | limit |
//! |---|---|
//! | TLS handshake, first byte | 10 s |
//! | a request's head | 64 KiB, 100 headers, 30 s; as long may a connection be idle |
//! | a request's length said twice, folded headers, several hosts | 400, and the connection is closed |
//! | streams at once | 128; resets that were not answered yet: 32 |
//! | headers of a stream | 32 KiB |
//! | what a client does not read | the connection is broken off after 60 s |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use coracle_sandbox::framing::{self, Framed};
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::accept::Worker;
use crate::forward;
use crate::headers::Said;
use crate::patience::Heads;
use crate::upstream::Local;

/// How long it may leave unread what was sent.
const UNREAD: Duration = Duration::from_secs(60);
const MOST_BUFFERED: usize = 64 << 10;
const MOST_HEADERS: usize = 100;
const MOST_STREAMS: u32 = 128;
/// Streams that a client has reset but that are not forgotten yet (CVE-2023-44487).
const MOST_RESET: usize = 32;
const MOST_FIELDS: u32 = 32 << 10;
/// What a client may send ahead: a stream, and a connection.
const WINDOW: (u32, u32) = (256 << 10, 1 << 20);
/// How HTTP/2 begins where nobody was asked for it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// A connection's client, as its requests see it.
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    pub(crate) tls: bool,
    /// What endpoints are told of it.
    pub(crate) said: Said,
    /// Name of the certificate that it got for the name that it asked for.
    pub(crate) certificate: Option<Arc<str>>,
    http2: AtomicBool,
    /// Nothing more of it is read.
    refused: AtomicBool,
    /// All requests; wraps.
    requests: AtomicU32,
    /// Which of them, from 1, says its length in two ways; 0 for none.
    ambiguous: AtomicU32,
    /// Streams whose answer has not left.
    open: AtomicU32,
}

impl Client {
    /// A request has come; whether it is to be refused.
    pub(crate) fn begin(&self) -> bool {
        let number = self.requests.fetch_add(1, Relaxed).wrapping_add(1);
        let ambiguous = self.ambiguous.load(Relaxed);
        ambiguous != 0 && ambiguous == number
    }

    pub(crate) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    pub(crate) fn is_http1(&self) -> bool {
        !self.http2.load(Relaxed)
    }
}

impl framing::Watch for Client {
    fn ambiguous(&self, request: u32) {
        self.ambiguous.store(request, Relaxed);
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }
}

/// Serves a connection to its end.
pub(crate) async fn connection(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, tls: bool) {
    let _ = stream.set_nodelay(true);
    let first = worker.shared.limits.first;
    let unread = UNREAD.as_millis() as u32;
    let _ =
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::TcpUserTimeout, &unread);
    let mut client = Client {
        peer,
        tls,
        said: Said::of(peer.ip(), tls, worker.shared.port(tls)),
        certificate: None,
        http2: AtomicBool::new(false),
        refused: AtomicBool::new(false),
        requests: AtomicU32::new(0),
        ambiguous: AtomicU32::new(0),
        open: AtomicU32::new(0),
    };
    if tls {
        let acceptor = TlsAcceptor::from(worker.shared.tls.clone());
        let Ok(Ok(stream)) = tokio::time::timeout(first, acceptor.accept(stream)).await else {
            worker.shared.counters.handshakes.fetch_add(1, Relaxed);
            return;
        };
        let session = stream.get_ref().1;
        let name = session.server_name().map(str::to_ascii_lowercase);
        client.certificate = name.and_then(|name| worker.shared.state.certificate_of(&name));
        match session.alpn_protocol() {
            Some(b"h2") => http2(worker, stream, client).await,
            _ => http1(worker, stream, client).await,
        }
        return;
    }
    match tokio::time::timeout(first, is_http2(&stream)).await {
        Ok(Ok(true)) => http2(worker, stream, client).await,
        Ok(Ok(false)) => http1(worker, stream, client).await,
        _ => {}
    }
}

/// Whether it begins as HTTP/2 does. Nothing is taken from the stream.
async fn is_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut first).await?;
        if length == 0 || first[..length] != PREFACE[..length] {
            return Ok(false);
        }
        if length == PREFACE.len() {
            return Ok(true);
        }
        // The beginning of its beginning: nothing tells when there is more.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn http1<S>(worker: Rc<Worker>, stream: S, client: Client)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Arc::new(client);
    let draining = worker.draining.clone();
    let head = worker.shared.limits.head;
    let heads = Heads::new();
    let service = {
        let (worker, client) = (worker.clone(), client.clone());
        service_fn(move |request: Request<Incoming>| {
            let (worker, client) = (worker.clone(), client.clone());
            async move {
                let mut response = forward::answer(&worker, &client, request).await;
                if worker.draining.has_begun() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().entry(header::CONNECTION).or_insert(close);
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let mut builder = http1::Builder::new();
    builder
        .timer(heads.clone())
        .header_read_timeout(head)
        .max_buf_size(MOST_BUFFERED)
        .max_headers(MOST_HEADERS)
        .writev(false);
    let stream = TokioIo::new(Framed::new(stream, client));
    let mut connection = pin!(builder.serve_connection(stream, service).with_upgrades());
    let mut clock = pin!(tokio::time::sleep(head));
    let (mut told, mut hears) = (false, None);
    std::future::poll_fn(|cx| {
        if hears.is_none() {
            hears = Some(draining.tell(cx.waker()));
        }
        if draining.has_begun() && !std::mem::replace(&mut told, true) {
            connection.as_mut().graceful_shutdown();
        }
        loop {
            // Errors are the client's: it broke off, or spoke no HTTP.
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !heads.are_late(clock.as_mut(), head, cx) {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// A stream whose answer has not left.
struct Open(Arc<Client>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

async fn http2<S>(worker: Rc<Worker>, stream: S, client: Client)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    client.http2.store(true, Relaxed);
    let limits = worker.shared.limits;
    let client = Arc::new(client);
    let mut draining = worker.shared.draining.subscribe();
    let service = {
        let (worker, client) = (worker.clone(), client.clone());
        service_fn(move |request: Request<Incoming>| {
            let (worker, client) = (worker.clone(), client.clone());
            client.open.fetch_add(1, Relaxed);
            let open = Open(client.clone());
            async move {
                let mut response = forward::answer(&worker, &client, request).await;
                response.headers_mut().remove(header::CONNECTION);
                response.body_mut().keep(Box::new(open));
                Ok::<_, Infallible>(response)
            }
        })
    };
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESET)
        .max_local_error_reset_streams(MOST_RESET)
        .max_header_list_size(MOST_FIELDS)
        .initial_stream_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1)
        .max_send_buf_size(MOST_BUFFERED)
        .keep_alive_interval(limits.head)
        .keep_alive_timeout(limits.first);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut told = false;
    let (mut idle, mut seen) = (tokio::time::interval(limits.head), u32::MAX);
    idle.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            _ = draining.wait_for(|draining| *draining), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = idle.tick() => {
                let requests = client.requests.load(Relaxed);
                let quiet = client.open.load(Relaxed) == 0 && requests == seen;
                seen = requests;
                if quiet && told {
                    return;
                }
                if quiet {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
