//! From a request that asks for an upgrade to the answer that grants it.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Names the protocols within SPDY that a client or a server speaks; several of a client's, in its order.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What the server would have taken.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What both sides will speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// The protocol, as the server's list has it.
    pub(crate) protocol: &'static str,
    /// Over WebSocket, else over SPDY.
    pub(crate) websocket: bool,
}

/// Finds a common protocol. For a WebSocket whose client names none, the empty name stands, if the server has it.
///
/// # Errors
/// With the answer that tells the client what is missing.
pub(crate) fn agree(
    headers: &HeaderMap,
    websocket: &[&'static str],
    spdy: &[&'static str],
) -> Result<(Agreed, Response), Box<Response>> {
    let asked = list(headers, &UPGRADE);
    let refuse = |code: StatusCode, why: String| Err(Box::new((code, why).into_response()));
    if !list(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return refuse(StatusCode::BAD_REQUEST, "Upgrade request required".into());
    }
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = answer.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let wanted: Vec<&str> = asked.collect();
    if wanted.iter().any(|token| token.eq_ignore_ascii_case("websocket")) {
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
            return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is required".into());
        };
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Version must be 13".into());
        }
        let offered: Vec<&str> = list(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
        let Some(protocol) = common(&offered, websocket).or_else(|| {
            websocket.iter().copied().find(|name| name.is_empty() && offered.is_empty())
        }) else {
            return refuse(StatusCode::FORBIDDEN, disagreement(&offered, websocket));
        };
        let accept = derive_accept_key(key.as_bytes());
        out.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let accept = HeaderValue::try_from(accept);
        out.insert(SEC_WEBSOCKET_ACCEPT, accept.expect("base64 is a valid header"));
        if !protocol.is_empty() {
            out.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        return Ok((Agreed { protocol, websocket: true }, answer));
    }
    if !wanted.iter().any(|token| token.eq_ignore_ascii_case("SPDY/3.1")) {
        let why = format!(
            "unable to upgrade: missing upgrade headers in request: Upgrade must be websocket or \
             SPDY/3.1, not {wanted:?}"
        );
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    let offered: Vec<&str> = list(headers, &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        let why = "unable to upgrade: X-Stream-Protocol-Version is required";
        return refuse(StatusCode::BAD_REQUEST, why.into());
    }
    let Some(protocol) = common(&offered, spdy) else {
        let mut refusal = (StatusCode::FORBIDDEN, disagreement(&offered, spdy)).into_response();
        for name in spdy {
            refusal.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
        }
        return Err(Box::new(refusal));
    };
    out.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    out.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((Agreed { protocol, websocket: false }, answer))
}

/// The first that the client offers and the server has.
fn common(offered: &[&str], served: &[&'static str]) -> Option<&'static str> {
    offered.iter().find_map(|offer| served.iter().find(|name| *name == offer).copied())
}

fn disagreement(offered: &[&str], served: &[&str]) -> String {
    format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offered.join(" "),
        served.join(" ")
    )
}

/// The values of a header, whether they come in one line or in several.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
