//! The tunnels that agents open ([`coracle_api::tunnel`]), so that this server reaches them through it.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use coracle_api::ApiError;
use coracle_api::tunnel::PROTOCOL;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};

use super::App;
use super::answer::Failure;
use super::connect::is_upgrade;
use crate::auth::{node, pki};
use crate::serve::PeerCertificate;

/// GET of it, by a node: which one, its certificate says, and nothing else.
pub(super) async fn open(State(app): State<App>, request: Request) -> Response {
    accept(app, request).unwrap_or_else(|error| Failure(error).into_response())
}

fn accept(app: App, request: Request) -> Result<Response, ApiError> {
    let shown = request.extensions().get::<PeerCertificate>().and_then(|peer| peer.0.as_ref());
    let identity = shown.and_then(pki::identity);
    let node = identity.as_ref().and_then(node::name).ok_or_else(|| {
        let why = "only nodes open tunnels, each its own, by the certificate that it has";
        ApiError::new(403, "Forbidden", why)
    })?;
    let node = node.to_owned();
    let headers = request.headers();
    if !is_upgrade(headers) || headers.get(UPGRADE).is_none_or(|asked| asked != PROTOCOL) {
        return Err(ApiError::bad_request(format!("an upgrade to {PROTOCOL} is required")));
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(io) => app.kubelets.tunnels().keep(&node, io, app.shutdown).await,
            Err(error) => tracing::debug!(%error, node, "a tunnel was not opened"),
        }
    });
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(answer)
}
