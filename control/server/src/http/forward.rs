//! Requests that are passed on as they are, to another server that answers in this one's place: what an API server, a Pod or a
//! Service is asked through this one, streams and upgrades included (upstream's `UpgradeAwareHandler`).
//!
//! Bodies are passed on as they come, both ways, so that nothing is held here of what is large or slow. Credentials are this
//! server's business: none of them is passed on.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;
use tokio::sync::watch;

use super::connect::{self, is_upgrade};
use crate::reach::Reach;
use crate::registry::cause;
use crate::serve::PeerAddress;

/// Calls whatever [`Reach`] leads to.
pub(crate) type Outward = Client<HttpsConnector<Reach>, Body>;

/// How long the head of an answer may take, of whatever goes on for long afterwards; other requests have less.
const HEAD: Duration = Duration::from_secs(60);

/// What concerns one connection, and not who is at the far end of the next.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "trailer",
    "transfer-encoding",
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Who makes a request, to a server that believes this one.
const REMOTE: &str = "x-remote-";
/// Whom a caller wants to be, which has been decided by now.
const IMPERSONATE: &str = "impersonate-";

/// Where a request goes.
pub(crate) struct Way<'a, C> {
    pub(crate) client: &'a Client<C, Body>,
    /// The same server by HTTP/1.1, which is what connections are upgraded from.
    pub(crate) upgrading: &'a Client<C, Body>,
    pub(crate) uri: Uri,
}

/// Passes a request on, with `headers` beside its own and in their place. The error says why nobody answers.
pub(crate) async fn pass_on<C: Connect + Clone + Send + Sync + 'static>(
    way: Way<'_, C>,
    parts: &Parts,
    body: Body,
    headers: HeaderMap,
    stop: watch::Receiver<bool>,
) -> Result<Response, String> {
    let upgrade = parts.extensions.get::<OnUpgrade>().cloned();
    let upgrade = upgrade.filter(|_| is_upgrade(&parts.headers));
    let mut request = Request::new(if upgrade.is_some() { Body::empty() } else { body });
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = way.uri;
    *request.headers_mut() = end_to_end(&parts.headers, upgrade.is_some());
    let sent = request.headers_mut();
    sent.remove(AUTHORIZATION);
    let hidden = |name: &HeaderName| {
        name.as_str().starts_with(REMOTE) || name.as_str().starts_with(IMPERSONATE)
    };
    let all: Vec<HeaderName> = sent.keys().filter(|name| hidden(name)).cloned().collect();
    all.iter().for_each(|name| drop(sent.remove(name)));
    if !headers.contains_key(HOST) {
        sent.remove(HOST);
    }
    if upgrade.is_some() {
        sent.remove(CONTENT_LENGTH);
    }
    if let Some(PeerAddress(address)) = parts.extensions.get() {
        forwarded_for(sent, *address);
    }
    for name in headers.keys() {
        sent.remove(name);
    }
    sent.extend(headers);
    let client = if upgrade.is_some() { way.upgrading } else { way.client };
    let answer = tokio::time::timeout(HEAD, client.request(request)).await;
    let answer = answer.map_err(|_| "context deadline exceeded".to_owned())?;
    let mut answer = answer.map_err(|error| cause(&error))?;
    let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = end_to_end(answer.headers(), switched);
    let mut out = Response::new(Body::empty());
    *out.status_mut() = answer.status();
    *out.headers_mut() = headers;
    match (switched, upgrade) {
        (false, _) => *out.body_mut() = Body::new(answer.into_body()),
        (true, None) => return Err("it switched protocols unasked".to_owned()),
        (true, Some(upgrade)) => {
            let theirs = hyper::upgrade::on(&mut answer);
            tokio::spawn(async move {
                match tokio::try_join!(upgrade, theirs) {
                    Ok((client, server)) => connect::copy(client, server, stop).await,
                    Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
                }
            });
        }
    }
    *out.version_mut() = Version::HTTP_11;
    Ok(out)
}

/// The headers that are for the far end.
fn end_to_end(headers: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut out = headers.clone();
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP) {
        if !name.eq_ignore_ascii_case("upgrade") {
            out.remove(name);
        }
    }
    out.remove(TRANSFER_ENCODING);
    if out.get(TE).is_some_and(|te| te != "trailers") {
        out.remove(TE);
    }
    if upgrades {
        out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        out.remove(UPGRADE);
    }
    out
}

/// Adds whom the request came from to those through whom it came before.
fn forwarded_for(headers: &mut HeaderMap, address: IpAddr) {
    let before: Vec<&str> =
        headers.get_all(&FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()).collect();
    let all = [before.as_slice(), &[&address.to_string()]].concat().join(", ");
    if let Ok(all) = HeaderValue::from_str(&all) {
        headers.insert(FORWARDED_FOR, all);
    }
}
