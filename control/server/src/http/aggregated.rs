//! Requests that another API server answers in this one's place ([`crate::aggregation`]): passed on with who makes them.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::LOCATION;
use http::request::Parts;

use super::App;
use super::answer::text;
use super::forward::{self, Way};
use crate::aggregation::{Remote, identify};
use crate::auth::{Identity, MASTERS};

/// Passes a request on. What goes wrong is told as upstream does: as text, which clients show beside the code.
pub(super) async fn serve(
    app: &App,
    remote: &Remote,
    identity: &Identity,
    parts: &Parts,
    body: Body,
) -> Response {
    if !remote.available {
        return text(503, "service unavailable\n");
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let way = remote.uri(path).and_then(|uri| {
        let (client, upgrading) = remote.clients()?;
        Ok(Way { client, upgrading, uri })
    });
    let (way, who) = match (way, identify(identity)) {
        (Ok(way), Ok(who)) => (way, who),
        (Err(why), _) | (_, Err(why)) => return text(500, format!("{why}\n")),
    };
    match forward::pass_on(way, parts, body, who, app.shutdown.clone()).await {
        Ok(answer) => checked(answer),
        Err(why) => {
            tracing::debug!(api = remote.name, why, "an API server does not answer");
            app.aggregator.doubt(remote);
            text(503, format!("error trying to reach service: {why}\n"))
        }
    }
}

/// A client that is sent elsewhere would take its credentials along.
fn checked(answer: Response) -> Response {
    if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) {
        let why = "the backend attempted to redirect this request, which is not permitted";
        return text(StatusCode::BAD_GATEWAY.as_u16(), why);
    }
    answer
}

/// A document of one's, for whoever may read documents: nobody's rights decide what is in it.
pub(super) async fn document(app: &App, remote: &Remote, parts: &Parts) -> Response {
    let who = Identity {
        user: "system:aggregator".to_owned(),
        groups: vec![MASTERS.to_owned()],
        ..Identity::default()
    };
    serve(app, remote, &who, parts, Body::empty()).await
}
