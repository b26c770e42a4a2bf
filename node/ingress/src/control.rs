//! The process: from its arguments to its end, and what the agent tells and asks it on the way.
//!
//! | request | what |
//! |---|---|
//! | `GET /v1/info` | who answers, as sandbox hosts do |
//! | `PUT /v1/config` | an [`Update`](crate::config::Update); the answer says what is in force |
//! | `GET /v1/metrics` | OpenMetrics |
//! | `POST /v1/shutdown` | takes no connection any more, lets requests come to their end, and ends |

use std::fs::File;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{DefaultBodyLimit, State as Extract};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use coracle_sandbox::{API_VERSION, Info};
use jiff::Timestamp;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::accept::{Shared, Workers};
use crate::config::{Applied, Update};
use crate::inside::Inside;
use crate::log::AccessLog;
use crate::metrics::{self, Counters};
use crate::state::State;
use crate::tls;

/// Largest update: tens of thousands of Ingresses with their certificates.
const MOST_TOLD: usize = 256 << 20;
/// How long requests may take to their end once the process is told to end.
const DRAIN: Duration = Duration::from_secs(30);
/// Connections of clients at once, where the system allows so many files.
const MOST_CONNECTIONS: u64 = 32_768;
/// Most workers.
const MOST_WORKERS: usize = 64;

/// How to run the proxy.
#[derive(Debug)]
pub struct Options {
    /// The unix socket on which the agent finds it.
    pub socket: PathBuf,
    /// Where HTTP is served; port 0 picks a free one.
    pub http: SocketAddr,
    /// Where HTTPS is served; port 0 picks a free one.
    pub https: SocketAddr,
    /// The sockets for HTTP and HTTPS, if they are open already: those of the process whose place this one takes.
    pub sockets: Option<[OwnedFd; 2]>,
    /// Folder of the access log.
    pub logs: PathBuf,
    /// The network namespace in which this machine's Wasm Pods have their addresses.
    pub netns: Option<PathBuf>,
    /// How long clients are waited for.
    pub limits: Limits,
}

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a TLS handshake, and for the first byte.
    pub first: Duration,
    /// For a request's head, and between requests.
    pub head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { first: Duration::from_secs(10), head: Duration::from_secs(30) }
    }
}

/// Serves until it is told to end. Ports and sockets are opened before `enclose`, which takes files away, and the Pods' namespace
/// is entered before `disarm`, which takes rights away. To be called while there is one thread.
///
/// # Errors
/// A port or the socket is taken, or confinement fails.
pub fn run(
    options: Options,
    enclose: impl FnOnce() -> anyhow::Result<()>,
    disarm: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // As many files as the system allows: every connection is one, and its endpoint's another.
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, most)| {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        most
    });
    let bind = |address: SocketAddr, open: Option<OwnedFd>| {
        let listener = match open {
            Some(open) => StdListener::from(open),
            None => StdListener::bind(address).with_context(|| {
                format!("cannot listen on {address} for Ingress; give the agent another --ingress-http-port or --ingress-https-port")
            })?,
        };
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        anyhow::Ok((listener, port))
    };
    let [open_http, open_https] = options.sockets.map_or([None, None], |all| all.map(Some));
    let (http, http_port) = bind(options.http, open_http)?;
    let (https, https_port) = bind(options.https, open_https)?;
    let socket = coracle_sandbox::bind(&options.socket)?;
    let netns = options.netns.as_ref().map(File::open).transpose();
    enclose()?;
    let inside = netns.map_err(anyhow::Error::from).and_then(|n| n.map(Inside::start).transpose());
    // All of them are reached without it, too.
    let slower =
        |error: &anyhow::Error| tracing::warn!(%error, "the Pods' namespace is not entered");
    let inside = inside.inspect_err(slower).unwrap_or_default();
    disarm()?;

    let state = Arc::new(State::default());
    let shared = Arc::new(Shared {
        tls: tls::config(state.clone())?,
        to_endpoints: Arc::new(tls::ToEndpoints::new()?),
        inside,
        state,
        counters: Counters::default(),
        log: AccessLog::open(&options.logs)
            .inspect_err(|error| tracing::warn!(%error, "there is no access log"))
            .ok(),
        http_port,
        https_port,
        limits: options.limits,
        told: watch::Sender::new(false),
        draining: watch::Sender::new(false),
        most: MOST_CONNECTIONS.min(files.saturating_sub(64) / 2),
    });
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = Workers::start(&shared, count.min(MOST_WORKERS))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::spawn(workers.clone().accept(TcpListener::from_std(http)?, false));
        tokio::spawn(workers.clone().accept(TcpListener::from_std(https)?, true));
        let socket = UnixListener::from_std(socket)?;
        let mut draining = shared.draining.subscribe();
        let served = axum::serve(socket, router(shared.clone()));
        tokio::select! {
            served = async { served.await } => return served.context("the control socket"),
            _ = draining.wait_for(|draining| *draining) => {}
        }
        let begun = tokio::time::Instant::now();
        while shared.counters.open.load(Relaxed) > 0 && begun.elapsed() < DRAIN {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // They end with the last who could give them a connection.
        drop(workers);
        Ok(())
    })
}

fn router(shared: Arc<Shared>) -> Router {
    let started_at = Timestamp::now();
    let info = Info {
        runtime: "ingress".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: API_VERSION,
        pid: std::process::id(),
        instance: format!("{}-{}", std::process::id(), started_at.as_nanosecond()),
        started_at,
        engine: "hyper, rustls".to_owned(),
        code: Default::default(),
    };
    Router::new()
        .route("/v1/info", get(async move || Json(info.clone())))
        .route("/v1/config", put(configure))
        .route("/v1/metrics", get(measure))
        .route("/v1/shutdown", post(shutdown))
        .layer(DefaultBodyLimit::max(MOST_TOLD))
        .with_state(shared)
}

async fn configure(
    Extract(shared): Extract<Arc<Shared>>,
    Json(update): Json<Update>,
) -> Json<Applied> {
    let wanted = update.generation;
    let generation = shared.state.update(update);
    if generation == wanted && wanted != 0 {
        shared.told.send_replace(true);
    }
    Json(Applied { generation, http: shared.http_port, https: shared.https_port })
}

async fn measure(Extract(shared): Extract<Arc<Shared>>) -> String {
    metrics::text(&shared.state, &shared.counters)
}

async fn shutdown(Extract(shared): Extract<Arc<Shared>>) -> Json<()> {
    // The answer leaves first.
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        shared.draining.send_replace(true);
    });
    Json(())
}
