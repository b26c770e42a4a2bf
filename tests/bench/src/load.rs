//! Requests to Pods: a generator on raw sockets, so that little of what is measured is its own work, and the bare server
//! that Pods are compared with.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the bare server answers, about as long as a Pod's greeting.
const GREETING: &str = "Hello from Coracle (v1, bench)\n";

/// Serves the greeting with hyper alone.
pub(crate) async fn bare(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = hyper::service::service_fn(async |_: Request<hyper::body::Incoming>| {
            let response = Response::builder()
                .header("content-type", "text/plain")
                .header("x-version", "v1")
                .body(Full::new(Bytes::from_static(GREETING.as_bytes())));
            Ok::<_, Infallible>(response.unwrap_or_default())
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(connection);
    }
}

/// A keep-alive connection that asks for `/`.
pub(crate) struct Client {
    stream: TcpStream,
    request: Bytes,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects; gives up after a while, for a network without an answer is silent.
    pub(crate) async fn connect(address: SocketAddr, patience: Duration) -> anyhow::Result<Self> {
        let stream = tokio::time::timeout(patience, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n").into();
        Ok(Self { stream, request, buffer: Vec::with_capacity(4096) })
    }

    /// One request; the status of the whole answer.
    pub(crate) async fn get(&mut self) -> anyhow::Result<u16> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection was closed");
            }
            if let Some(status) = whole(&self.buffer)? {
                return Ok(status);
            }
        }
    }
}

/// The status, once headers and body are there.
fn whole(answer: &[u8]) -> anyhow::Result<Option<u16>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end])?;
    let status = head.get(9..12).and_then(|status| status.parse().ok()).context("no status")?;
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
    };
    let body = &answer[end + 4..];
    let complete = match header("content-length") {
        Some((_, length)) => body.len() >= length.trim().parse::<usize>()?,
        None => body.ends_with(b"0\r\n\r\n"),
    };
    Ok(complete.then_some(status))
}

/// How clients use connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// Each keeps one.
    Kept,
    /// One for each request.
    New,
}

/// Requests a second over `connections` keep-alive connections; any answer but 200 is an error.
pub(crate) async fn rate(
    address: SocketAddr,
    connections: usize,
    time: Duration,
) -> anyhow::Result<f64> {
    rate_of(address, connections, time, Connections::Kept).await
}

/// The same, of clients that may make a connection for each request.
pub(crate) async fn rate_of(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    way: Connections,
) -> anyhow::Result<f64> {
    let load = Load::start(address, connections, way).await?;
    let rate = load.rate(time).await;
    load.end().await?;
    Ok(rate)
}

/// Clients that ask again and again, until it ends; each ends at any answer but 200.
pub(crate) struct Load {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<anyhow::Result<()>>,
}

impl Load {
    /// Over so many connections, which there are when it returns.
    pub(crate) async fn start(
        address: SocketAddr,
        connections: usize,
        way: Connections,
    ) -> anyhow::Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let done = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut connected = Vec::new();
        for _ in 0..connections {
            connected.push(Client::connect(address, PATIENCE).await?);
        }
        let mut clients = JoinSet::new();
        for mut client in connected {
            let (done, stop) = (done.clone(), stop.clone());
            clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if way == Connections::New {
                        // One that is closed as usual keeps its port for a minute, and there are fewer than are used by then.
                        client.stream.set_zero_linger()?;
                        drop(client);
                        client = Client::connect(address, PATIENCE).await?;
                    }
                    let status = client.get().await?;
                    if status != 200 {
                        bail!("{address} answered {status}");
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Ok(Self { done, stop, clients })
    }

    /// Requests a second, for so long from now on.
    pub(crate) async fn rate(&self, time: Duration) -> f64 {
        let (before, begun) = (self.done.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        (self.done.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
    }

    /// Ends it.
    ///
    /// # Errors
    /// What a client ended of before.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client??;
        }
        Ok(())
    }
}
