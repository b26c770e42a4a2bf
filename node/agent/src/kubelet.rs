//! The kubelet API: what the API server asks of this node, over TLS and only with a certificate of the cluster's CA that
//! belongs to the API server or an administrator.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::UPGRADE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::logs::{self, LogOptions};
use crate::metrics;
use crate::pod::worker::Workers;
use crate::streaming;

/// How long a client may take over its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long it may take over a request's head, and do nothing between requests: longer than the server keeps connections.
const HEAD: Duration = Duration::from_secs(120);
/// How long a connection lasts whose client may not call: to be told so.
const REFUSED: Duration = Duration::from_secs(10);
/// Requests that one connection may have open.
const STREAMS: u32 = 256;

/// The API of this node, to be merged into a server.
pub fn router(workers: Workers, node: String, ingress: PathBuf) -> Router {
    let summary =
        async move |State(workers): State<Workers>| metrics::summary(&workers, &node).await;
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/metrics", get(async |State(it): State<Workers>| metrics::of_agent(&it)))
        .route(
            "/metrics/resource",
            get(async |State(it): State<Workers>| metrics::resource(&it).await),
        )
        .route("/metrics/host", get(async |State(it): State<Workers>| metrics::of_hosts(&it).await))
        .route("/metrics/ingress", get(move || metrics::of_ingress(ingress.clone())))
        .route("/stats/summary", get(summary))
        .route("/pods", get(async |State(it): State<Workers>| metrics::pods(&it)))
        .merge(streaming::router())
        .with_state(workers)
}

async fn container_logs(
    State(workers): State<Workers>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<LogOptions>,
    request: Request,
) -> Response {
    let source = workers.log(&namespace, &pod, &container, options.previous);
    let Some(source) = source else {
        let what = if options.previous { "previous terminated container" } else { "container" };
        let message = format!("{what} \"{container}\" in pod \"{pod}\" not found");
        return (StatusCode::NOT_FOUND, message).into_response();
    };
    if let Some(why) = workers.waits(&namespace, &pod, &container) {
        let message =
            format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}");
        return (StatusCode::BAD_REQUEST, message).into_response();
    }
    let begin = move || {
        let (out, lines) = mpsc::channel(16);
        let is_running = move || workers.is_running(&namespace, &pod, &container, source.attempt);
        tokio::spawn(logs::read(source.path, options, out, is_running));
        lines
    };
    if request.headers().contains_key(UPGRADE) {
        return streaming::log_over_websocket(request, begin);
    }
    let lines = futures::stream::unfold(begin(), |mut lines| async {
        lines.recv().await.map(|line| (Ok::<_, std::convert::Infallible>(line), lines))
    });
    Response::new(Body::from_stream(lines.boxed()))
}

/// The API as it is served, on connections of whatever kind; clones are the same.
#[derive(Clone)]
pub struct Kubelet {
    /// TLS as it is at the time.
    tls: Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>,
    router: Router,
}

impl Kubelet {
    /// Serves `router`, each connection as `tls` is then.
    pub fn new(
        tls: impl Fn() -> Arc<rustls::ServerConfig> + Send + Sync + 'static,
        router: Router,
    ) -> Self {
        let router = router.layer(axum::middleware::from_fn(allowed));
        Self { tls: Arc::new(tls), router }
    }

    /// Serves who comes, for ever.
    pub async fn listen(self, listener: TcpListener) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            // Streams have small pieces, each of which would wait until the last has been acknowledged.
            let _ = stream.set_nodelay(true);
            tokio::spawn(self.clone().serve(stream, peer.to_string()));
        }
    }

    /// Serves one connection until it ends; `peer` is what is said of where it comes from.
    pub(crate) async fn serve<T>(self, stream: T, peer: String)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = TlsAcceptor::from((self.tls)()).accept(stream);
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, handshake).await else { return };
        let shown = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
        let caller = Caller { allowed: shown.is_some_and(may_call), peer };
        let allowed = caller.allowed;
        let service = TowerToHyperService::new(self.router.layer(axum::Extension(caller)));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(Some(HEAD));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        // A connection that breaks is the caller's business.
        if allowed {
            let _ = connection.await;
        } else {
            let _ = tokio::time::timeout(REFUSED, connection).await;
        }
    }
}

#[derive(Clone)]
struct Caller {
    allowed: bool,
    peer: String,
}

async fn allowed(request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.allowed => next.run(request).await,
        caller => {
            tracing::warn!(peer = ?caller.map(|c| &c.peer), "kubelet API refused a caller");
            (StatusCode::FORBIDDEN, "only the API server may call").into_response()
        }
    }
}

/// Certificates of nodes and users come from the same CA: only `system:masters` may call.
fn may_call(certificate: &rustls::pki_types::CertificateDer<'static>) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    certificate
        .subject()
        .iter_organization()
        .any(|o| o.as_str().is_ok_and(|o| o == "system:masters"))
}
