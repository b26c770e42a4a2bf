//! `pods/exec`, `attach`, `portforward` and a `log` over WebSocket: connections that switch to another protocol, and end at a node's agent.
//!
//! The agent is asked for the same upgrade as this server; once it has agreed, bytes are passed on both ways as they come
//! (upstream's `UpgradeAwareHandler`). Which protocol that is, and what is said in it, is theirs.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use coracle_api::kinds::{self, Subresource};
use coracle_api::{ApiError, Object};
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::App;
use super::answer::{Answer, Failure};
use super::apply;
use super::logs::{self, ERROR_LIMIT};
use super::request::RequestInfo;
use crate::auth::Identity;
use crate::registry::{Operation, Request};

/// As much is passed on at once, each way.
const COPY: usize = 32 << 10;
/// What the agent has to see of a request, and the client of its answer, when they switch protocols.
const PASSED_ON: &[&str] = &[
    "connection",
    "upgrade",
    "sec-websocket-accept",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "x-accepted-stream-protocol-versions",
    "x-stream-protocol-version",
];

/// GET or POST of one of them.
pub(crate) async fn connect(
    app: &App,
    info: &RequestInfo,
    wanted: Subresource,
    identity: Option<&Identity>,
    parts: &Parts,
) -> Answer {
    may_create(app, info, identity, parts)?;
    app.registry.catch_up().await?;
    let pod = app
        .registry
        .cache
        .get(&kinds::POD, &info.namespace, &info.name)
        .ok_or_else(|| ApiError::not_found(&kinds::POD, &info.name))?;
    let (caller, place) = (apply::caller(parts), (info.namespace.as_str(), info.name.as_str()));
    let request = Request::new(Operation::Connect, &kinds::POD, place, &caller);
    app.registry.admit_action(&request.of(&info.subresource), &mut options(info, wanted)).await?;
    let path = path(info, wanted, &pod)?;
    let Some(node) = &pod.node_name else {
        let why = format!("pod {} does not have a host assigned", info.name);
        return Err(ApiError::bad_request(why).into());
    };
    pass_on(app, node, &path, parts).await
}

/// Asks a node's agent for the upgrade that the client asks for; from then on their bytes are passed on.
pub(super) async fn pass_on(app: &App, node: &str, path: &str, parts: &Parts) -> Answer {
    let upgrade = parts.extensions.get::<OnUpgrade>().cloned();
    let (Some(upgrade), true) = (upgrade, is_upgrade(&parts.headers)) else {
        return Err(ApiError::bad_request("Upgrade request required").into());
    };
    let headers = passed_on(&parts.headers);
    let request = logs::request(&app.registry.cache, node, parts.method.clone(), path, headers)?;
    let mut response = logs::send(&app.kubelets, node, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refused(response).await;
    }
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = passed_on(response.headers());
    let agent = hyper::upgrade::on(&mut response);
    let stop = app.shutdown.clone();
    tokio::spawn(async move {
        match tokio::try_join!(upgrade, agent) {
            Ok((client, agent)) => copy(client, agent, stop).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    Ok(answer)
}

/// A browser can be made to open a WebSocket, by GET alone: who may read such a subresource may not therefore run things.
fn may_create(
    app: &App,
    info: &RequestInfo,
    identity: Option<&Identity>,
    parts: &Parts,
) -> Result<(), Failure> {
    if parts.method != http::Method::GET || !is_upgrade(&parts.headers) {
        return Ok(());
    }
    let identity = identity.ok_or_else(|| ApiError::internal("the request has no identity"))?;
    let mut attributes = info.attributes();
    attributes.verb = "create".to_owned();
    let cluster = app.registry.cache.read();
    Ok(app.auth.authorize(&cluster, identity, &attributes)?)
}

/// Whether a request asks for another protocol.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CONNECTION).into_iter().filter_map(|line| line.to_str().ok());
    let mut tokens = lines.flat_map(|line| line.split(',')).map(str::trim);
    tokens.any(|token| token.eq_ignore_ascii_case("upgrade")) && headers.contains_key(UPGRADE)
}

/// Whether the protocol that it asks for is WebSocket.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(UPGRADE).into_iter().filter_map(|line| line.to_str().ok());
    let mut tokens = lines.flat_map(|line| line.split(',')).map(str::trim);
    is_upgrade(headers) && tokens.any(|token| token.eq_ignore_ascii_case("websocket"))
}

/// What admission is shown of it.
fn options(info: &RequestInfo, wanted: Subresource) -> Value {
    let query = &info.query;
    if wanted == Subresource::PortForward {
        let ports = query.all("ports").flat_map(|ports| ports.split(','));
        let ports: Vec<u16> = ports.filter_map(|port| port.parse().ok()).collect();
        return json!({"apiVersion": "v1", "kind": "PodPortForwardOptions", "ports": ports});
    }
    let is_exec = wanted == Subresource::Exec;
    let kind = if is_exec { "PodExecOptions" } else { "PodAttachOptions" };
    let mut options = json!({"apiVersion": "v1", "kind": kind});
    for stream in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(stream) {
            options[stream] = true.into();
        }
    }
    if let Some(container) = query.get("container") {
        options["container"] = container.into();
    }
    if is_exec {
        options["command"] = query.all("command").collect();
    }
    options
}

/// The agent's path of it, and its query.
fn path(info: &RequestInfo, wanted: Subresource, pod: &Object) -> Result<String, ApiError> {
    let (namespace, name, query) = (&info.namespace, &info.name, &info.query);
    let mut out = Vec::new();
    if wanted == Subresource::PortForward {
        for port in query.all("ports").flat_map(|ports| ports.split(',')) {
            let number = port.parse::<u16>().ok().filter(|port| *port > 0);
            let number = number.ok_or_else(|| {
                ApiError::bad_request(format!("ports: \"{port}\" is not a port: 1 to 65535"))
            })?;
            out.push(("port", number.to_string()));
        }
        return Ok(format!("/portForward/{namespace}/{name}{}", logs::query(&out)));
    }
    let container = logs::container(pod, query.get("container"))?;
    for (ours, agents) in
        [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
    {
        if query.flag(ours) {
            out.push((agents, "1".to_owned()));
        }
    }
    let verb = if wanted == Subresource::Exec { "exec" } else { "attach" };
    if wanted == Subresource::Exec {
        out.extend(query.all("command").map(|word| ("command", word.to_owned())));
    }
    Ok(format!("/{verb}/{namespace}/{name}/{container}{}", logs::query(&out)))
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for name in PASSED_ON {
        let name = HeaderName::from_static(name);
        for value in headers.get_all(&name) {
            out.append(&name, value.clone());
        }
    }
    out
}

/// The agent's refusal, in its own words: a `Status`, or text that clients show as it is.
async fn refused(response: http::Response<hyper::body::Incoming>) -> Answer {
    let status = response.status();
    let mut headers = passed_on(response.headers());
    if let Some(kind) = response.headers().get(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, kind.clone());
    }
    for name in [CONNECTION, UPGRADE] {
        headers.remove(name);
    }
    let body = axum::body::to_bytes(Body::new(response.into_body()), ERROR_LIMIT).await;
    let body = body.unwrap_or_else(|_| Bytes::from_static(b"the agent's answer broke off"));
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// Until both sides have ended, or this server is to stop.
pub(super) async fn copy(client: Upgraded, agent: Upgraded, mut stop: watch::Receiver<bool>) {
    let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
    let both = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut agent, COPY, COPY);
    tokio::select! {
        outcome = both => {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a passed-on connection broke");
            }
        }
        // An error means that the server is gone: the same.
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
