//! One request and its answer on a connection: HTTP/2 where TLS has agreed on it, else HTTP/1.1.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::{Error, WasiBody};

use super::{Limits, Sent};
use crate::handles::Handle;

/// Bytes that a server may send ahead of its guest: per stream, and per connection.
const WINDOW: (u32, u32) = (256 << 10, 1 << 20);
/// Bytes of a request that are held for a server which does not read.
const MOST_UNSENT: usize = 64 << 10;

/// A connection to a server.
pub(super) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn speaks_http2(&self) -> bool {
        match self {
            Connection::Plain(_) => false,
            Connection::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

/// Sends a request; what comes back has its head, and a body that is read as it comes.
pub(super) async fn exchange(
    connection: Connection,
    handle: Handle,
    request: Request<WasiBody>,
    limits: &Limits,
) -> Sent {
    match (connection.speaks_http2(), connection) {
        (true, Connection::Plain(stream)) => over_http2(stream, handle, request, limits).await,
        (true, Connection::Tls(stream)) => over_http2(stream, handle, request, limits).await,
        (false, Connection::Plain(stream)) => over_http1(stream, handle, request, limits).await,
        (false, Connection::Tls(stream)) => over_http1(stream, handle, request, limits).await,
    }
}

async fn over_http1<S>(
    stream: S,
    handle: Handle,
    mut request: Request<WasiBody>,
    limits: &Limits,
) -> Sent
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake::<_, WasiBody>(TokioIo::new(stream)).await?;
    // A request to the server itself names no scheme and no authority; Host is a header.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = Uri::try_from(path).map_err(|_| Error::HttpRequestUriInvalid)?;
    let driver = Driver::start(connection, handle);
    let answer = tokio::time::timeout(limits.first_byte, sender.send_request(request)).await;
    let response = answer.map_err(|_| Error::ConnectionReadTimeout)?.map_err(code)?;
    let body = |body| Paced::new(body, limits.between_bytes).boxed_unsync();
    Ok((response.map(body), Box::new(driver.ended(sender))))
}

async fn over_http2<S>(
    stream: S,
    handle: Handle,
    mut request: Request<WasiBody>,
    limits: &Limits,
) -> Sent
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1)
        .max_send_buf_size(MOST_UNSENT);
    let (mut sender, connection) =
        builder.handshake::<_, WasiBody>(TokioIo::new(stream)).await.map_err(code)?;
    let headers = request.headers_mut();
    // `:authority` says it; and what TE may say is but one word here.
    headers.remove(header::HOST);
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let driver = Driver::start(connection, handle);
    let answer = tokio::time::timeout(limits.first_byte, sender.send_request(request)).await;
    let response = answer.map_err(|_| Error::ConnectionReadTimeout)?.map_err(code)?;
    let body = |body| Paced::new(body, limits.between_bytes).boxed_unsync();
    Ok((response.map(body), Box::new(driver.ended(sender))))
}

/// What guests are told of a connection that ended too soon.
fn code(error: hyper::Error) -> Error {
    use std::error::Error as _;
    let cause = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    if error.is_incomplete_message() || (error.is_canceled() && cause.is_none()) {
        Error::ConnectionTerminated
    } else if let Some(cause) = cause {
        super::tls_error(cause).unwrap_or(Error::ConnectionTerminated)
    } else {
        Error::Hyper(error)
    }
}

/// Runs a connection; it ends when nobody wants its answer any more.
struct Driver(tokio::task::JoinHandle<hyper::Result<()>>);

impl Driver {
    fn start(
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
        handle: Handle,
    ) -> Driver {
        Driver(tokio::spawn(async move {
            // As long as there is the socket.
            let _handle = handle;
            connection.await
        }))
    }

    /// Returns when the connection has ended. `sender` keeps it open until then.
    async fn ended<T>(mut self, sender: T) -> Result<(), Error> {
        let _sender = sender;
        match (&mut self.0).await {
            Ok(result) => result.map_err(code),
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body whose parts may not be too far apart.
pub(super) struct Paced<B> {
    inner: B,
    limit: Option<Duration>,
    /// Runs while nothing comes.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(super) fn new(inner: B, limit: Option<Duration>) -> Paced<B> {
        Paced { inner, limit, timer: None }
    }
}

impl<B> Body for Paced<B>
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
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.timer = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(limit) = self.limit else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
