//! `proxy` of Pods, Services and nodes: HTTP that is passed on to them, whatever the verb, upgrades included
//! (`kubectl proxy`, `kubectl get --raw /api/v1/namespaces/NAMESPACE/services/NAME:PORT/proxy/PATH`).
//!
//! Whoever answers knows nothing of the path that leads to it, so where it names places of its own, in redirects and in pages, the
//! path is put before them ([`links`]), as upstream's proxy does. Of a node it is the kubelet API that answers.

mod links;
mod target;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use coracle_api::{ApiError, Kind, kinds};
use futures::StreamExt as _;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::body::Body as _;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use serde_json::json;

use super::answer::Answer;
use super::connect::is_upgrade;
use super::forward::{self, Outward, Way};
use super::request::{RequestInfo, not_found_here};
use super::{App, apply};
use crate::reach::Reach;
use crate::registry::{Operation, Request};
use crate::tls;
use links::Place;
use target::Target;

/// Bytes of a page whose links are rewritten; longer ones are passed on as they are.
const PAGE: usize = 8 << 20;
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// What would let pages of elsewhere read answers, in the name of whoever looks at them.
const CROSS_ORIGIN: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Calls Pods and Services; over TLS they may show any certificate, as upstream.
pub(crate) fn client(reach: Reach) -> Outward {
    let tls = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(tls::anybody())
        .with_no_client_auth();
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(reach);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(std::time::Duration::from_secs(30))
        .pool_max_idle_per_host(4)
        .build(https)
}

/// Which kind's `proxy` a request is for, if it is for one.
pub(crate) fn of(info: &RequestInfo) -> Option<&'static Kind> {
    let first = info.subresource.split('/').next();
    if !info.group.is_empty() || first != Some("proxy") {
        return None;
    }
    match info.resource.as_str() {
        "nodes" => Some(&kinds::NODE),
        "pods" => Some(&kinds::POD),
        "services" => Some(&kinds::SERVICE),
        _ => None,
    }
}

/// Any verb of it.
pub(crate) async fn serve(
    app: &App,
    info: &RequestInfo,
    kind: &'static Kind,
    parts: &Parts,
    body: Body,
) -> Answer {
    app.registry.catch_up().await?;
    let (prefix, path) = split(&info.path, kind).ok_or_else(not_found_here)?;
    let target = Target::of(app, kind, info)?;
    let mut options = json!({"apiVersion": "v1", "kind": target.options()});
    if !path.is_empty() {
        options["path"] = path.trim_start_matches('/').into();
    }
    let (caller, place) = (apply::caller(parts), (info.namespace.as_str(), target.name()));
    let request = Request::new(Operation::Connect, kind, place, &caller);
    app.registry.admit_action(&request.of("proxy"), &mut options).await?;

    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let upgrades = is_upgrade(&parts.headers);
    if path.is_empty() && !upgrades && matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(redirect(&format!("{prefix}/{query}")));
    }
    let host = parts.headers.get(HOST).cloned().or_else(|| {
        let host = parts.uri.authority()?.as_str();
        HeaderValue::from_str(host).ok()
    });
    let mut headers = HeaderMap::new();
    headers.extend(host.clone().map(|host| (HOST, host)));
    if let Ok(uri) = HeaderValue::from_str(&format!("{prefix}{path}")) {
        headers.insert(FORWARDED_URI, uri);
    }
    let mut parts = parts.clone();
    let pages = |accept: &HeaderValue| accept.to_str().is_ok_and(|it| it.contains("text/html"));
    if parts.headers.get_all(ACCEPT).iter().any(pages) {
        // Pages are read here.
        parts.headers.remove(ACCEPT_ENCODING);
    }
    let unreachable = |why: String| {
        ApiError::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
    };
    let path = if path.is_empty() { "/" } else { path };
    let uri = target.uri(&format!("{path}{query}"));
    let uri = uri.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let answer = match &target {
        Target::Kubelet { node, .. } => {
            headers.remove(HOST);
            let client = app.kubelets.client();
            let way = Way { client: &client, upgrading: &client, uri: uri.clone() };
            let stop = app.shutdown.clone();
            forward::pass_on(way, &parts, body, headers, stop).await.map_err(|why| {
                unreachable(format!("the agent of node \"{node}\" does not answer: {why}"))
            })?
        }
        _ => {
            let way = Way { client: &app.outward, upgrading: &app.outward, uri: uri.clone() };
            let stop = app.shutdown.clone();
            forward::pass_on(way, &parts, body, headers, stop).await.map_err(unreachable)?
        }
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer);
    }
    let known =
        [target.address(), host.as_ref().and_then(|host| host.to_str().ok()).map(Into::into)];
    Ok(rewritten(answer, &Place { prefix, hosts: known.into_iter().flatten().collect() }).await)
}

/// The path that leads to an object's `proxy`, and what follows it, as the client wrote both, so that what it escaped stays so;
/// `None` where what leads there is escaped, whose end can be in the middle of what follows.
fn split<'a>(path: &'a str, kind: &Kind) -> Option<(&'a str, &'a str)> {
    let namespace: &[Option<&str>] =
        if kind.namespaced { &[Some("namespaces"), None] } else { &[] };
    let object = [Some(kind.resource), None, Some("proxy")];
    let mut rest = path;
    for part in [Some("api"), Some("v1")].iter().chain(namespace).chain(&object) {
        rest = rest.trim_start_matches('/');
        let (first, more) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if part.is_some_and(|part| part != first) {
            return None;
        }
        rest = more;
    }
    Some(path.split_at(path.len() - rest.len()))
}

/// To the root of what is proxied: relative links of its page would be wrong without the slash.
fn redirect(to: &str) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

async fn rewritten(mut answer: Response, place: &Place<'_>) -> Response {
    for name in CROSS_ORIGIN {
        answer.headers_mut().remove(name);
    }
    if let Some(location) = answer.headers().get(LOCATION).and_then(|it| it.to_str().ok()) {
        if let Ok(location) = HeaderValue::from_str(&place.rewrite(location)) {
            answer.headers_mut().insert(LOCATION, location);
        }
        return answer;
    }
    let headers = answer.headers();
    let media = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let is_page = media.split(';').next().is_some_and(|media| media.trim() == "text/html");
    let too_long = answer.body().size_hint().lower() > PAGE as u64;
    if !is_page || too_long || headers.contains_key(CONTENT_ENCODING) {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let mut rest = body.into_data_stream();
    let mut page = BytesMut::new();
    while page.len() <= PAGE {
        match rest.next().await {
            Some(Ok(piece)) => page.extend_from_slice(&piece),
            None => {
                let page = match std::str::from_utf8(&page) {
                    Ok(text) => Bytes::from(place.page(text)),
                    Err(_) => page.freeze(),
                };
                parts.headers.remove(CONTENT_LENGTH);
                return Response::from_parts(parts, Body::from(page));
            }
            // What there is of it is passed on, and then that it broke off.
            Some(Err(error)) => {
                let page = futures::stream::iter([Ok(page.freeze()), Err(error)]);
                return Response::from_parts(parts, Body::from_stream(page));
            }
        }
    }
    let page = futures::stream::iter([Ok(page.freeze())]).chain(rest);
    Response::from_parts(parts, Body::from_stream(page))
}

#[cfg(test)]
mod tests {
    use super::split;
    use coracle_api::kinds;

    #[test]
    fn what_is_passed_on_is_what_follows_the_word_in_its_place() {
        for (path, expected) in [
            ("/api/v1/nodes/n1/proxy", Some(("/api/v1/nodes/n1/proxy", ""))),
            ("/api/v1//nodes/n1/proxy/", Some(("/api/v1//nodes/n1/proxy", "/"))),
            ("/api/v1/nodes/n1/proxy/a%2Fb//c/", Some(("/api/v1/nodes/n1/proxy", "/a%2Fb//c/"))),
            ("/api/v1/nodes/proxy0/proxy/x", Some(("/api/v1/nodes/proxy0/proxy", "/x"))),
            ("/api/v1/nodes/proxy/proxy/proxy/x", Some(("/api/v1/nodes/proxy/proxy", "/proxy/x"))),
            ("//api/v1/nodes/n1//proxy//x", Some(("//api/v1/nodes/n1//proxy", "//x"))),
            ("/api/v1/nodes/n1/proxy%2Fx", None),
            ("/api/v1/nodes/n1/%70roxy/x", None),
            ("/api/v1/watch/nodes/n1/proxy/x", None),
        ] {
            assert_eq!(split(path, &kinds::NODE), expected, "{path}");
        }
        let path = "/api/v1/namespaces/proxy/pods/https:proxy:8443/proxy";
        let below = format!("{path}/proxy/x");
        assert_eq!(split(&below, &kinds::POD), Some((path, "/proxy/x")));
        assert_eq!(split(&below, &kinds::SERVICE), None);
    }
}
