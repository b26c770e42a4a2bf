//! Clients that never stop asking, and remember every failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::task::JoinSet;

use crate::http;

/// Pause of each client between two requests: constant load, with processor time left for what is being tested.
const PAUSE: Duration = Duration::from_millis(3);
/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

/// How clients use connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Each client keeps one, and makes another when the server closed it.
    Kept,
    /// One per request.
    New,
}

/// Running clients.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicU64,
    retries: AtomicU64,
    failures: Mutex<Vec<String>>,
    versions: Mutex<BTreeMap<String, u64>>,
}

/// What clients saw.
#[derive(Debug, Clone)]
pub struct Report {
    /// Requests that were sent.
    pub requests: u64,
    /// Requests that met a kept connection which the server had just closed, and were sent again on another, as HTTP
    /// allows (RFC 9112, 9.3.1).
    pub retries: u64,
    /// What went wrong, with the time since the start.
    pub failures: Vec<String>,
    /// How often each `x-version` answered.
    pub versions: BTreeMap<String, u64>,
}

impl Load {
    /// Starts `clients` of each way to use connections, all asking for `path`.
    pub fn start(address: SocketAddr, path: &'static str, clients: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut running = JoinSet::new();
        for connections in [Connections::Kept, Connections::New] {
            for _ in 0..clients {
                running.spawn(client(shared.clone(), address, path, connections));
            }
        }
        Self { shared, clients: running }
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Stops the clients; what they saw.
    pub async fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        let lock =
            |m: &Mutex<Vec<String>>| m.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Report {
            requests: self.requests(),
            retries: self.shared.retries.load(Ordering::Relaxed),
            failures: lock(&self.shared.failures),
            versions: self.shared.versions.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Report {
    /// An error if a request failed, or if there were too few to tell.
    ///
    /// # Errors
    /// With the first failures.
    pub fn nothing_dropped(&self) -> anyhow::Result<()> {
        if !self.failures.is_empty() {
            let first: Vec<_> = self.failures.iter().take(10).map(String::as_str).collect();
            let (count, all) = (self.failures.len(), self.requests);
            bail!("{count} of {all} requests failed, the first:\n{}", first.join("\n"));
        }
        if self.requests < 100 {
            bail!("only {} requests were sent: that shows nothing", self.requests);
        }
        Ok(())
    }
}

async fn client(
    shared: Arc<Shared>,
    address: SocketAddr,
    path: &'static str,
    connections: Connections,
) {
    let start = Instant::now();
    let mut kept = None;
    while !shared.stop.load(Ordering::Relaxed) {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let at = start.elapsed();
        let answer = tokio::time::timeout(LIMIT, exchange(&shared, &mut kept, address, path));
        let failure = match answer.await {
            Ok(Ok(reply)) if reply.status.is_success() => {
                let version = reply.headers.get("x-version").and_then(|v| v.to_str().ok());
                let mut versions = shared.versions.lock().unwrap_or_else(PoisonError::into_inner);
                *versions.entry(version.unwrap_or_default().to_owned()).or_default() += 1;
                None
            }
            Ok(Ok(reply)) => Some(format!("{} {}", reply.status, reply.body.trim())),
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer within {LIMIT:?}")),
        };
        if let Some(failure) = failure {
            kept = None;
            let text = format!("after {at:.3?} ({connections:?} connections): {failure}");
            shared.failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
        if connections == Connections::New {
            kept = None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

type Connection = hyper::client::conn::http1::SendRequest<http_body_util::Full<hyper::body::Bytes>>;

async fn exchange(
    shared: &Shared,
    kept: &mut Option<Connection>,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<http::Reply> {
    if let Some(connection) = kept.as_mut()
        && connection.ready().await.is_ok()
    {
        match http::send(connection, address, path).await {
            Err(error) if closed_before_answer(&error) => {
                shared.retries.fetch_add(1, Ordering::Relaxed);
            }
            answer => return answer,
        }
    }
    let mut connection = http::connect(address).await?;
    let answer = http::send(&mut connection, address, path).await;
    *kept = Some(connection);
    answer
}

/// Whether the server closed the connection without a byte of an answer.
fn closed_before_answer(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(|e| e.is_canceled() || e.is_closed() || e.is_incomplete_message())
}
