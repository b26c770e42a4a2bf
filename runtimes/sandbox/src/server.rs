//! Puts a [`Runtime`] on a unix socket.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path as UrlPath, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use bytes::Bytes;
use futures::StreamExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::Notify;

use crate::runtime::Runtime;
use crate::stream::{self, Session};
use crate::types::*;

/// A table of routes for a very large cluster is tens of megabytes.
const MAX_BODY: usize = 64 << 20;

/// [`bind`], for a tokio runtime.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    UnixListener::from_std(bind(path)?)
}

/// Opens a socket at `path` with mode 0600, taking the place of one that nobody serves any more.
/// The name appears only once the mode is right.
pub fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another host is already serving {}", path.display()),
        ));
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = Path::new(&fresh);
    let _ = std::fs::remove_file(fresh);
    let name = |e: io::Error| io::Error::new(e.kind(), format!("socket {}: {e}", path.display()));
    let listener = std::os::unix::net::UnixListener::bind(fresh).map_err(name)?;
    listener.set_nonblocking(true).map_err(name)?;
    std::fs::set_permissions(fresh, PermissionsExt::from_mode(0o600)).map_err(name)?;
    std::fs::rename(fresh, path).map_err(name)?;
    Ok(listener)
}

/// Serves until a shutdown was asked for and answered.
pub async fn serve(listener: UnixListener, runtime: Arc<dyn Runtime>) -> io::Result<()> {
    let host = Host { runtime, stopped: Arc::new(Notify::new()) };
    let stopped = host.stopped.clone();
    let (begin, mut begun) = tokio::sync::watch::channel(false);
    let server = axum::serve(listener, router(host)).with_graceful_shutdown(async move {
        stopped.notified().await;
        let _ = begin.send(true);
    });
    // Event streams may be held open by agents for ever; a short while is enough for answers.
    tokio::select! {
        done = async { server.await } => done,
        () = async {
            let _ = begun.wait_for(|b| *b).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        } => Ok(()),
    }
}

#[derive(Clone)]
struct Host {
    runtime: Arc<dyn Runtime>,
    stopped: Arc<Notify>,
}

fn router(host: Host) -> Router {
    Router::new()
        .route("/v1/info", get(info))
        .route("/v1/images", post(prepare_image))
        .route("/v1/sandboxes", get(sandboxes))
        .route("/v1/sandboxes/{id}", get(sandbox).put(put_sandbox).delete(delete_sandbox))
        .route("/v1/sandboxes/{id}/resources", patch(update_sandbox))
        .route("/v1/sandboxes/{id}/containers/{name}", put(start_container))
        .route("/v1/starts", post(start_all))
        .route("/v1/sandboxes/{id}/containers/{name}/stop", post(stop_container))
        .route("/v1/sandboxes/{id}/containers/{name}/resources", patch(update_container))
        .route("/v1/sandboxes/{id}/containers/{name}/exec", post(exec))
        .route("/v1/sandboxes/{id}/containers/{name}/attach", post(attach))
        .route("/v1/sandboxes/{id}/containers/{name}/run", post(run))
        .route("/v1/sandboxes/{id}/ports/{port}", post(forward))
        .route("/v1/usage", get(usage))
        .route("/v1/metrics", get(metrics))
        .route("/v1/routes", put(put_routes))
        .route("/v1/events", get(events))
        .route("/v1/shutdown", post(shutdown))
        .fallback(|| async {
            Problem::new(ProblemCode::NotFound, "no such path in the sandbox protocol, version 1")
                .into_response()
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(host)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.code.status(), axum::Json(self)).into_response()
    }
}

/// JSON in, whatever the content type says; a refusal is a [`Problem`].
struct Json<T>(T);

impl<T, S> FromRequest<S> for Json<T>
where
    T: for<'de> Deserialize<'de>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Problem> {
        let invalid = |e: String| Problem::new(ProblemCode::InvalidSpec, e);
        let body = Bytes::from_request(request, state).await.map_err(|e| invalid(e.to_string()))?;
        axum::Json::<T>::from_bytes(&body)
            .map(|axum::Json(value)| Json(value))
            .map_err(|e: JsonRejection| invalid(e.body_text()))
    }
}

async fn json<T: Serialize>(work: impl Future<Output = Result<T, Problem>>) -> Response {
    match work.await {
        Ok(value) => axum::Json(value).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn info(State(host): State<Host>) -> Response {
    axum::Json(host.runtime.info().await).into_response()
}

async fn prepare_image(State(host): State<Host>, Json(image): Json<Image>) -> Response {
    json(host.runtime.prepare_image(image)).await
}

async fn put_sandbox(
    State(host): State<Host>,
    UrlPath(id): UrlPath<String>,
    Json(spec): Json<SandboxSpec>,
) -> Response {
    if spec.id != id {
        let message = format!("the path says sandbox {id}, the body says {}", spec.id);
        return Problem::new(ProblemCode::InvalidSpec, message).into_response();
    }
    json(host.runtime.put_sandbox(spec)).await
}

async fn sandboxes(State(host): State<Host>) -> Response {
    axum::Json(host.runtime.sandboxes().await).into_response()
}

#[derive(Deserialize)]
struct WhichUsage {
    #[serde(default)]
    recent: bool,
}

async fn usage(State(host): State<Host>, Query(which): Query<WhichUsage>) -> Response {
    let usage = match which.recent {
        true => host.runtime.recent_usage().await,
        false => host.runtime.usage().await,
    };
    axum::Json(usage).into_response()
}

async fn metrics(State(host): State<Host>) -> Response {
    host.runtime.metrics().await.into_response()
}

async fn sandbox(State(host): State<Host>, UrlPath(id): UrlPath<String>) -> Response {
    json(host.runtime.sandbox(&id)).await
}

async fn delete_sandbox(State(host): State<Host>, UrlPath(id): UrlPath<String>) -> Response {
    json(host.runtime.delete_sandbox(&id)).await
}

async fn start_container(
    State(host): State<Host>,
    UrlPath((id, name)): UrlPath<(String, String)>,
    Json(spec): Json<ContainerSpec>,
) -> Response {
    if spec.name != name {
        let message = format!("the path says container {name}, the body says {}", spec.name);
        return Problem::new(ProblemCode::InvalidSpec, message).into_response();
    }
    json(host.runtime.start_container(&id, spec)).await
}

/// What came of one of many starts.
#[derive(Serialize)]
#[serde(untagged)]
enum Started {
    Sandbox(Box<SandboxStatus>),
    Container(Box<ContainerStatus>),
}

/// Each has its answer, in the order of the starts.
async fn start_all(State(host): State<Host>, Json(starts): Json<Vec<Start>>) -> Response {
    let all = starts.into_iter().map(async |start| match start {
        Start::Sandbox(spec) => {
            host.runtime.put_sandbox(*spec).await.map(Box::new).map(Started::Sandbox)
        }
        Start::Container { sandbox, spec } => {
            let started = host.runtime.start_container(&sandbox, *spec).await;
            started.map(Box::new).map(Started::Container)
        }
    });
    axum::Json(futures::future::join_all(all).await).into_response()
}

async fn stop_container(
    State(host): State<Host>,
    UrlPath((id, name)): UrlPath<(String, String)>,
    Json(stop): Json<Stop>,
) -> Response {
    match host.runtime.stop_container(&id, &name, stop).await {
        Ok(()) => (http::StatusCode::ACCEPTED, axum::Json(())).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn update_container(
    State(host): State<Host>,
    UrlPath((id, name)): UrlPath<(String, String)>,
    Json(resources): Json<Resources>,
) -> Response {
    json(host.runtime.update_container(&id, &name, resources)).await
}

async fn update_sandbox(
    State(host): State<Host>,
    UrlPath(id): UrlPath<String>,
    Json(resources): Json<Resources>,
) -> Response {
    json(host.runtime.update_sandbox(&id, resources)).await
}

async fn run(
    State(host): State<Host>,
    UrlPath((id, name)): UrlPath<(String, String)>,
    Json(spec): Json<RunSpec>,
) -> Response {
    json(host.runtime.run(&id, &name, spec)).await
}

async fn exec(
    State(host): State<Host>,
    UrlPath((id, name)): UrlPath<(String, String)>,
    Upgrade(upgrade): Upgrade,
    Json(spec): Json<ExecSpec>,
) -> Response {
    streams(upgrade, host.runtime.exec(&id, &name, spec).await)
}

async fn attach(
    State(host): State<Host>,
    UrlPath((id, name)): UrlPath<(String, String)>,
    Upgrade(upgrade): Upgrade,
    Json(spec): Json<AttachSpec>,
) -> Response {
    streams(upgrade, host.runtime.attach(&id, &name, spec).await)
}

async fn forward(
    State(host): State<Host>,
    UrlPath((id, port)): UrlPath<(String, u16)>,
    Upgrade(upgrade): Upgrade,
) -> Response {
    match host.runtime.forward(&id, port).await {
        Ok(mut there) => switch(upgrade, stream::BYTES, async move |mut here| {
            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        }),
        Err(problem) => problem.into_response(),
    }
}

/// The connection, as it will be once the answer was sent.
struct Upgrade(OnUpgrade);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.remove::<OnUpgrade>().map(Upgrade).ok_or_else(|| {
            let message = "this needs an HTTP/1.1 connection with the header Connection: upgrade";
            Problem::new(ProblemCode::InvalidSpec, message)
        })
    }
}

fn streams(upgrade: OnUpgrade, session: Result<Session, Problem>) -> Response {
    match session {
        Ok(session) => switch(upgrade, stream::STREAMS, async move |connection| {
            stream::serve(connection, session).await;
        }),
        Err(problem) => problem.into_response(),
    }
}

fn switch<F>(
    upgrade: OnUpgrade,
    protocol: &'static str,
    carry: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    tokio::spawn(async move {
        if let Ok(connection) = upgrade.await {
            carry(TokioIo::new(connection)).await;
        }
    });
    let headers = [(http::header::CONNECTION, "upgrade"), (http::header::UPGRADE, protocol)];
    (http::StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn put_routes(State(host): State<Host>, Json(routes): Json<Routes>) -> Response {
    json(host.runtime.put_routes(routes)).await
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn events(State(host): State<Host>, Query(query): Query<After>) -> Response {
    let lines = host.runtime.events(query.after).map(|line| {
        let mut text = serde_json::to_vec(&line).map_err(io::Error::other)?;
        text.push(b'\n');
        Ok::<_, io::Error>(Bytes::from(text))
    });
    let kind = [(http::header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}

async fn shutdown(State(host): State<Host>) -> Response {
    host.runtime.shutdown().await;
    host.stopped.notify_one();
    axum::Json(()).into_response()
}
