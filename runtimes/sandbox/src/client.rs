//! The agent's handle on a host.
//!
//! Connections are kept for the next call, which counts when thousands of Pods start at once. A
//! host that was restarted in between is simply the one that answers next: calls are idempotent,
//! so one that finds its kept connection broken is made again on a new one. The stream of events
//! has a connection of its own; it reconnects by itself and says so.

mod starts;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_stream::wrappers::ReceiverStream;

use self::starts::Starts;
use crate::stream::{self as streams, ByteStream, Session};
use crate::types::*;

/// Compiling a large component takes many seconds; nothing takes this long.
const TIMEOUT: Duration = Duration::from_secs(180);
/// A restarted host should be noticed within the second that its Pods may take to return.
const RECONNECT: Duration = Duration::from_millis(50);
/// Connections that are kept for later calls.
const KEPT: usize = 32;
/// Longest line of the event stream that is believed.
const MAX_LINE: usize = 1 << 20;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket: the host is not running (yet, or any more).
    #[error("sandbox host at {socket} cannot be reached: {source}")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke before the answer: the host ended. The call may have taken effect; all
    /// calls are idempotent, so ask again.
    #[error("sandbox host at {socket} broke off: {message}")]
    Interrupted {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        message: String,
    },
    /// The host refused, and says why.
    #[error(transparent)]
    Problem(#[from] Problem),
}

impl ClientError {
    /// The host's refusal, if it is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

/// An item of [`Client::events`].
#[derive(Debug)]
pub enum HostEvent {
    /// The stream is (again) connected to a host.
    Connected {
        /// [`Info::instance`] of that host.
        instance: String,
        /// What was known may be out of date: list the sandboxes. What happens from now on follows
        /// as events, so a list made after this item misses nothing.
        relist: bool,
    },
    /// A container changed.
    Event(Event),
    /// Something to tell people.
    Notice(Notice),
    /// The connection was lost; the stream keeps trying.
    Disconnected(ClientError),
}

/// A handle on the host at a socket; cheap to clone, needs no host to exist yet.
#[derive(Clone)]
pub struct Client {
    socket: Arc<Path>,
    kept: Arc<Mutex<Vec<Sender>>>,
    sandboxes: Arc<Starts<SandboxStatus>>,
    containers: Arc<Starts<ContainerStatus>>,
}

type Sender = SendRequest<Full<Bytes>>;

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.socket.display())
    }
}

impl Client {
    /// A handle on the host that serves (or will serve) this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client::with(socket, false)
    }

    /// A handle on a host that makes sandboxes and starts containers within moments: many are started by one call.
    pub fn in_batches(socket: impl Into<PathBuf>) -> Client {
        Client::with(socket, true)
    }

    fn with(socket: impl Into<PathBuf>, in_batches: bool) -> Client {
        Client {
            socket: socket.into().into(),
            kept: Arc::default(),
            sandboxes: Starts::new(in_batches),
            containers: Starts::new(in_batches),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Who answers.
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.call(Method::GET, "/v1/info", &()).await
    }

    /// Waits until a host answers; the last error once `patience` is over.
    pub async fn wait_ready(&self, patience: Duration) -> Result<Info, ClientError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.info().await {
                Ok(info) => return Ok(info),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Puts something to a host that serves more than this protocol.
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::PUT, path, body).await
    }

    /// See [`crate::Runtime::prepare_image`].
    pub async fn prepare_image(&self, image: &Image) -> Result<ImageInfo, ClientError> {
        self.call(Method::POST, "/v1/images", image).await
    }

    /// See [`crate::Runtime::put_sandbox`].
    pub async fn put_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus, ClientError> {
        let path = format!("/v1/sandboxes/{}", spec.id);
        let frame = (r#"{"sandbox":"#.to_owned(), "}");
        self.start(&self.sandboxes, path, self.encoded(spec)?, frame).await
    }

    /// Every sandbox of the host.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxStatus>, ClientError> {
        self.call(Method::GET, "/v1/sandboxes", &()).await
    }

    /// See [`crate::Runtime::usage`].
    pub async fn usage(&self) -> Result<Vec<ContainerUsage>, ClientError> {
        self.call(Method::GET, "/v1/usage", &()).await
    }

    /// See [`crate::Runtime::recent_usage`]. A host of an older program tells everything.
    pub async fn recent_usage(&self) -> Result<Vec<ContainerUsage>, ClientError> {
        self.call(Method::GET, "/v1/usage?recent=true", &()).await
    }

    /// See [`crate::Runtime::metrics`].
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let (body, _connection) = self.send(Method::GET, "/v1/metrics", Bytes::new()).await?;
        let body = body.collect().await.map_err(|e| self.interrupted(e))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// One sandbox.
    pub async fn sandbox(&self, id: &str) -> Result<SandboxStatus, ClientError> {
        self.call(Method::GET, &format!("/v1/sandboxes/{id}"), &()).await
    }

    /// See [`crate::Runtime::delete_sandbox`].
    pub async fn delete_sandbox(&self, id: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/v1/sandboxes/{id}"), &()).await
    }

    /// See [`crate::Runtime::start_container`].
    pub async fn start_container(
        &self,
        sandbox: &str,
        spec: &ContainerSpec,
    ) -> Result<ContainerStatus, ClientError> {
        let path = format!("/v1/sandboxes/{sandbox}/containers/{}", spec.name);
        let sandbox = String::from_utf8_lossy(&self.encoded(&sandbox)?).into_owned();
        let frame = (format!(r#"{{"container":{{"sandbox":{sandbox},"spec":"#), "}}");
        self.start(&self.containers, path, self.encoded(spec)?, frame).await
    }

    /// See [`crate::Runtime::stop_container`].
    pub async fn stop_container(
        &self,
        sandbox: &str,
        name: &str,
        stop: Stop,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/sandboxes/{sandbox}/containers/{name}/stop");
        self.call(Method::POST, &path, &stop).await
    }

    /// See [`crate::Runtime::update_container`].
    pub async fn update_container(
        &self,
        sandbox: &str,
        name: &str,
        resources: &Resources,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/sandboxes/{sandbox}/containers/{name}/resources");
        self.call(Method::PATCH, &path, resources).await
    }

    /// See [`crate::Runtime::update_sandbox`].
    pub async fn update_sandbox(&self, id: &str, resources: &Resources) -> Result<(), ClientError> {
        self.call(Method::PATCH, &format!("/v1/sandboxes/{id}/resources"), resources).await
    }

    /// See [`crate::Runtime::run`].
    pub async fn run(
        &self,
        sandbox: &str,
        name: &str,
        spec: &RunSpec,
    ) -> Result<RunResult, ClientError> {
        let path = format!("/v1/sandboxes/{sandbox}/containers/{name}/run");
        self.call(Method::POST, &path, spec).await
    }

    /// See [`crate::Runtime::exec`].
    pub async fn exec(
        &self,
        sandbox: &str,
        name: &str,
        spec: &ExecSpec,
    ) -> Result<Session, ClientError> {
        let path = format!("/v1/sandboxes/{sandbox}/containers/{name}/exec");
        Ok(streams::call(self.upgrade(&path, streams::STREAMS, spec).await?))
    }

    /// See [`crate::Runtime::attach`].
    pub async fn attach(
        &self,
        sandbox: &str,
        name: &str,
        spec: &AttachSpec,
    ) -> Result<Session, ClientError> {
        let path = format!("/v1/sandboxes/{sandbox}/containers/{name}/attach");
        Ok(streams::call(self.upgrade(&path, streams::STREAMS, spec).await?))
    }

    /// See [`crate::Runtime::forward`].
    pub async fn forward(&self, sandbox: &str, port: u16) -> Result<ByteStream, ClientError> {
        let path = format!("/v1/sandboxes/{sandbox}/ports/{port}");
        Ok(Box::new(self.upgrade(&path, streams::BYTES, &()).await?))
    }

    /// See [`crate::Runtime::put_routes`].
    pub async fn put_routes(&self, routes: &Routes) -> Result<RoutesStatus, ClientError> {
        self.call(Method::PUT, "/v1/routes", routes).await
    }

    /// Ends the host and all its workloads.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        self.call(Method::POST, "/v1/shutdown", &()).await
    }

    /// Events after `after` (0: from the start), for ever: when the host goes away the stream says
    /// so, reconnects, and goes on behind the last event it gave, or says that a list is needed.
    pub fn events(&self, after: u64) -> impl Stream<Item = HostEvent> + Send + Unpin + 'static {
        let (send, receive) = tokio::sync::mpsc::channel(256);
        let client = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = client.follow(after, &send) => {}
                () = send.closed() => {}
            }
        });
        ReceiverStream::new(receive)
    }

    async fn follow(&self, mut after: u64, send: &tokio::sync::mpsc::Sender<HostEvent>) {
        let mut known: Option<String> = None;
        let mut connected = true;
        loop {
            let error = match self.lines(after).await {
                Err(error) => error,
                Ok(mut lines) => loop {
                    match lines.next().await {
                        Some(Ok(EventLine::Start { instance, last, gap })) => {
                            connected = true;
                            let other = known.as_ref().is_some_and(|k| *k != instance);
                            if other || gap {
                                after = last;
                            }
                            known = Some(instance.clone());
                            let item = HostEvent::Connected { instance, relist: other || gap };
                            if send.send(item).await.is_err() {
                                return;
                            }
                        }
                        Some(Ok(EventLine::Event(event))) => {
                            after = event.seq;
                            if send.send(HostEvent::Event(event)).await.is_err() {
                                return;
                            }
                        }
                        Some(Ok(EventLine::Notice(notice))) => {
                            if send.send(HostEvent::Notice(notice)).await.is_err() {
                                return;
                            }
                        }
                        Some(Err(error)) => break error,
                        None => break self.interrupted("the stream of events ended"),
                    }
                },
            };
            // Say once that it is gone, not at every attempt.
            if std::mem::take(&mut connected)
                && send.send(HostEvent::Disconnected(error)).await.is_err()
            {
                return;
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn lines(
        &self,
        after: u64,
    ) -> Result<BoxStream<'static, Result<EventLine, ClientError>>, ClientError> {
        let path = format!("/v1/events?after={after}");
        let (body, connection) = self.send(Method::GET, &path, Bytes::new()).await?;
        let client = self.clone();
        let start = (body, BytesMut::new(), connection);
        let lines = stream::unfold(start, move |(mut body, mut buffer, connection)| {
            let client = client.clone();
            async move {
                loop {
                    if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                        let line = buffer.split_to(end + 1);
                        let event = serde_json::from_slice(&line)
                            .map_err(|e| client.interrupted(format!("unreadable event: {e}")));
                        return Some((event, (body, buffer, connection)));
                    }
                    if buffer.len() > MAX_LINE {
                        let error = client.interrupted("endless line");
                        return Some((Err(error), (body, buffer, connection)));
                    }
                    match body.frame().await? {
                        Ok(frame) => buffer.extend_from_slice(frame.data_ref()?),
                        Err(e) => {
                            let error = client.interrupted(e);
                            return Some((Err(error), (body, buffer, connection)));
                        }
                    }
                }
            }
        });
        Ok(lines.boxed())
    }

    fn encoded(&self, value: &impl Serialize) -> Result<Vec<u8>, ClientError> {
        serde_json::to_vec(value).map_err(|e| self.interrupted(e))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = match method {
            Method::GET | Method::DELETE => Vec::new(),
            _ => self.encoded(body)?,
        };
        self.call_with(method, path, body.into()).await
    }

    /// As [`Self::call`], with a body that is JSON already.
    async fn call_with<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let work = async {
            let (body, sender) = self.send(method, path, body).await?;
            let body = body.collect().await.map_err(|e| self.interrupted(e))?.to_bytes();
            self.keep(sender);
            serde_json::from_slice(&body)
                .map_err(|e| self.interrupted(format!("unreadable answer to {path}: {e}")))
        };
        tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| {
            Err(self.interrupted(format!("no answer to {path} in {} s", TIMEOUT.as_secs())))
        })
    }

    /// Sends a request; the body of a 2xx answer with its connection, or the problem that it tells of.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Incoming, Sender), ClientError> {
        // A kept connection may be that of a host which is gone: then a new one tells.
        let kept = self.kept();
        let answer = match kept {
            Some(mut sender) => match self.ask(&mut sender, &method, path, &body).await {
                Ok(answer) => Some((answer, sender)),
                Err(_) => None,
            },
            None => None,
        };
        let (answer, sender) = match answer {
            Some(answered) => answered,
            None => {
                let mut sender = self.connect().await?;
                (self.ask(&mut sender, &method, path, &body).await?, sender)
            }
        };
        let status = answer.status();
        let body = answer.into_body();
        if status.is_success() {
            return Ok((body, sender));
        }
        let body = body.collect().await.map_err(|e| self.interrupted(e))?.to_bytes();
        self.keep(sender);
        Err(self.refusal(status, &body))
    }

    async fn connect(&self) -> Result<Sender, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            ClientError::Unreachable { socket: self.socket.to_path_buf(), source }
        })?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.interrupted(e))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// A connection that waits for a call and, as far as is known, still has a host at its end.
    fn kept(&self) -> Option<Sender> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = kept.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT && !sender.is_closed() {
            kept.push(sender);
        }
    }

    /// Makes a connection that then carries something else than HTTP.
    async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
        body: &impl Serialize,
    ) -> Result<TokioIo<Upgraded>, ClientError> {
        let work = async {
            let body = serde_json::to_vec(body).map_err(|e| self.interrupted(e))?;
            let request = self
                .request(&Method::POST, path)
                .header(http::header::CONNECTION, "upgrade")
                .header(http::header::UPGRADE, protocol)
                .body(Full::new(Bytes::from(body)))
                .map_err(|e| self.interrupted(e))?;
            let mut sender = self.connect().await?;
            let answer = sender.send_request(request).await.map_err(|e| self.interrupted(e))?;
            if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                let upgraded = hyper::upgrade::on(answer).await;
                return upgraded.map(TokioIo::new).map_err(|e| self.interrupted(e));
            }
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(|e| self.interrupted(e))?;
            Err(self.refusal(status, &body.to_bytes()))
        };
        tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| {
            Err(self.interrupted(format!("no answer to {path} in {} s", TIMEOUT.as_secs())))
        })
    }

    fn request(&self, method: &Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::HOST, "sandbox")
            .header(http::header::CONTENT_TYPE, "application/json")
    }

    fn refusal(&self, status: http::StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => ClientError::Problem(problem),
            Err(_) => self.interrupted(format!("{status}: {}", String::from_utf8_lossy(body))),
        }
    }

    async fn ask(
        &self,
        sender: &mut Sender,
        method: &Method,
        path: &str,
        body: &Bytes,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let request = self
            .request(method, path)
            .body(Full::new(body.clone()))
            .map_err(|e| self.interrupted(e))?;
        sender.send_request(request).await.map_err(|e| self.interrupted(e))
    }

    fn interrupted(&self, message: impl fmt::Display) -> ClientError {
        ClientError::Interrupted { socket: self.socket.to_path_buf(), message: message.to_string() }
    }
}

#[cfg(test)]
mod tests;
