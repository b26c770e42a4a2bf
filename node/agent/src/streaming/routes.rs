//! The paths of the kubelet API that switch to another protocol.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use coracle_api::tunnel::DIAL;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::port_forward::{self, Target};
use super::remote_command::{self, RemoteCommand, Wanted};
use super::upgrade::{self, Agreed};
use super::websocket::{self, Form};
use super::{processes, spdy, wasm};
use crate::pod::worker::Workers;

/// SPDY's protocol of port-forward, and the same inside WebSocket messages.
const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Plain WebSocket's.
const CHANNELS: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];

type Pairs = Query<Vec<(String, String)>>;

/// Namespace, name and, in some forms of the path, UID and container.
type Names = Path<Vec<String>>;

/// Why a request is refused.
pub(super) struct Refusal {
    /// HTTP's code.
    pub(super) code: StatusCode,
    /// The reason of a `Status`; without, the message is sent as text, which kubectl repeats.
    pub(super) reason: Option<&'static str>,
    /// For people.
    pub(super) message: String,
}

impl Refusal {
    fn into_response(self) -> Response {
        let Some(reason) = self.reason else {
            return (self.code, self.message).into_response();
        };
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": reason,
            "code": self.code.as_u16(),
        });
        (self.code, [(CONTENT_TYPE, "application/json")], status.to_string()).into_response()
    }
}

/// `/exec`, `/attach`, `/portForward` and `/dial`. Clients use GET and POST alike.
pub(crate) fn router() -> Router<Workers> {
    let (exec, attach, forward) =
        (get(exec).post(exec), get(attach).post(attach), get(forward).post(forward));
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", exec.clone())
        .route("/exec/{namespace}/{pod}/{uid}/{container}", exec)
        .route("/attach/{namespace}/{pod}/{container}", attach.clone())
        .route("/attach/{namespace}/{pod}/{uid}/{container}", attach)
        .route("/portForward/{namespace}/{pod}", forward.clone())
        .route("/portForward/{namespace}/{pod}/{uid}", forward)
        .route("/dial/{namespace}/{pod}", get(dial))
}

async fn exec(
    State(workers): State<Workers>,
    Path(names): Names,
    Query(query): Pairs,
    request: Request,
) -> Response {
    let Some(process) = processes::find(&workers, &names) else {
        return wasm::no_exec(&workers, &names).into_response();
    };
    match Wanted::of(&query) {
        Ok(wanted) => serve_command(request, wanted, Box::new(process.exec(wanted, &query))),
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}

async fn attach(
    State(workers): State<Workers>,
    Path(names): Names,
    Query(query): Pairs,
    request: Request,
) -> Response {
    let wanted = match Wanted::of(&query) {
        Ok(wanted) => wanted,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    if let Some(process) = processes::find(&workers, &names) {
        return match process.attach(wanted).await {
            Ok(attached) => serve_command(request, wanted, Box::new(attached)),
            Err(refusal) => refusal.into_response(),
        };
    }
    match wasm::attach(&workers, &names, wanted) {
        Ok(command) => serve_command(request, wanted, Box::new(command)),
        Err(refusal) => refusal.into_response(),
    }
}

/// Switches to the protocol on which both agree, and leaves the connection to the command.
fn serve_command(request: Request, wanted: Wanted, command: Box<dyn RemoteCommand>) -> Response {
    let (websocket, spdy) = (remote_command::WEBSOCKET, remote_command::SPDY);
    let agreed = match upgrade::agree(request.headers(), websocket, spdy) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let Agreed { protocol, websocket } = agreed.0;
    switch(request, agreed.1, move |upgraded| async move {
        if !websocket {
            let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
            let (connection, streams) = spdy::serve(reader, writer);
            remote_command::over_spdy(connection, streams, protocol, wanted, command).await;
            return;
        }
        let form = form(protocol);
        let (connection, streams) = websocket::serve(websocket::accept(upgraded).await, form, 5);
        remote_command::over_channels(connection, streams, protocol, wanted, command).await;
    })
}

async fn forward(
    State(workers): State<Workers>,
    Path(names): Names,
    Query(query): Pairs,
    request: Request,
) -> Response {
    let target: Arc<dyn Target> = match wasm::target(&workers, &names) {
        Ok(target) => Arc::new(target),
        Err(refusal) => return refusal.into_response(),
    };
    let agreed = match upgrade::agree(request.headers(), CHANNELS, &[PORT_FORWARD]) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let Agreed { protocol, websocket } = agreed.0;
    // Only plain WebSocket says beforehand what it wants.
    let ports = match port_forward::ports(&query) {
        Err(why) if websocket && protocol != TUNNEL => {
            return (StatusCode::BAD_REQUEST, why).into_response();
        }
        ports => ports.unwrap_or_default(),
    };
    switch(request, agreed.1, move |upgraded| async move {
        if !websocket {
            let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
            let (connection, streams) = spdy::serve(reader, writer);
            port_forward::over_spdy(connection, streams, target).await;
            return;
        }
        let socket = websocket::accept(upgraded).await;
        if protocol == TUNNEL {
            let (reader, writer) = websocket::tunnel(socket);
            let (connection, streams) = spdy::serve(reader, writer);
            port_forward::over_spdy(connection, streams, target).await;
            return;
        }
        // At most 64 ports, with two channels each.
        let channels = (2 * ports.len()) as u8;
        let (connection, streams) = websocket::serve(socket, form(protocol), channels);
        port_forward::over_channels(connection, streams, ports, target).await;
    })
}

/// A connection to a port of a Pod, as one from another Pod would be: the API server makes its calls to webhooks, to extension
/// API servers and to what it is a proxy of this way, wherever the Pods' addresses are out of its reach.
async fn dial(
    State(workers): State<Workers>,
    Path(names): Names,
    Query(query): Pairs,
    request: Request,
) -> Response {
    let refuse = |code: StatusCode, why: String| (code, why).into_response();
    let port = query
        .iter()
        .find(|(name, _)| name == "port")
        .and_then(|(_, port)| port.parse::<u16>().ok());
    let Some(port) = port.filter(|port| *port > 0) else {
        return refuse(StatusCode::BAD_REQUEST, "query parameter \"port\": 1 to 65535".to_owned());
    };
    let is_it = request.headers().get(UPGRADE).is_some_and(|asked| asked == DIAL);
    if !is_it {
        return refuse(StatusCode::BAD_REQUEST, format!("an upgrade to {DIAL} is required"));
    }
    let target = match wasm::target(&workers, &names) {
        Ok(target) => target,
        Err(refusal) => return refusal.into_response(),
    };
    let mut stream = match target.connect(port).await {
        Ok(stream) => stream,
        Err(why) => return refuse(StatusCode::BAD_GATEWAY, why),
    };
    let mut answer = Response::new(axum::body::Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(DIAL));
    switch(request, answer, move |upgraded| async move {
        let mut upgraded = TokioIo::new(upgraded);
        // That one side breaks off is for the other to see.
        let _ = tokio::io::copy_bidirectional(&mut upgraded, &mut stream).await;
    })
}

fn form(protocol: &str) -> Form {
    Form { base64: protocol.contains("base64"), closes: protocol.starts_with("v5.") }
}

/// Gives the answer that was agreed on, and the connection to `then` once the client has it.
pub(super) fn switch<F>(
    mut request: Request,
    answer: Response,
    then: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        let why = "unable to upgrade: this connection cannot be upgraded; use HTTP/1.1";
        return (StatusCode::BAD_REQUEST, why).into_response();
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => then(upgraded).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    answer
}
