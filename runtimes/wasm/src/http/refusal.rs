//! What a client is told where the guest has no answer. It says what the client can do about it,
//! and nothing of what happened inside.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Why there is no answer from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request names no host, or several.
    Host,
    /// The method is for proxies.
    Connect,
    /// The client wants to speak something else.
    Upgrade,
    /// Its length is said in two ways.
    Ambiguous,
    /// The body is coded in a way that is not known here.
    Coding,
    /// The body broke off, or was no valid HTTP.
    BrokenBody,
    /// The body is larger than the container takes.
    TooLarge,
    /// The container has exited.
    Over,
    /// There is no room.
    Full,
    /// The guest trapped, or ended without an answer.
    Failed,
    /// The answer is larger than it may be.
    Overlong,
    /// The guest took too long.
    TimedOut,
}

impl Refusal {
    /// As in access logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Refusal::Host => "host",
            Refusal::Connect => "connect",
            Refusal::Upgrade => "upgrade",
            Refusal::Ambiguous => "ambiguous-length",
            Refusal::Coding => "transfer-coding",
            Refusal::BrokenBody => "broken-body",
            Refusal::TooLarge => "request-too-large",
            Refusal::Over => "exited",
            Refusal::Full => "full",
            Refusal::Failed => "failed",
            Refusal::Overlong => "answer-too-large",
            Refusal::TimedOut => "timeout",
        }
    }

    /// Whether it is for want of room; told apart from failures.
    pub(super) fn is_want_of_room(self) -> bool {
        matches!(self, Refusal::Full | Refusal::Over)
    }

    pub(super) fn response(self) -> Response<HyperOutgoingBody> {
        use StatusCode as S;
        let (status, text) = match self {
            Refusal::Host => (S::BAD_REQUEST, "the request must name one host\n"),
            Refusal::Connect => (S::BAD_REQUEST, "CONNECT is for proxies\n"),
            Refusal::Upgrade => (S::BAD_REQUEST, "protocols cannot be switched here\n"),
            Refusal::Ambiguous => {
                (S::BAD_REQUEST, "the request has both a Content-Length and a Transfer-Encoding\n")
            }
            Refusal::Coding => (S::NOT_IMPLEMENTED, "the only transfer coding is chunked\n"),
            Refusal::BrokenBody => (S::BAD_REQUEST, "the request's body is broken\n"),
            Refusal::TooLarge => (S::PAYLOAD_TOO_LARGE, "the request's body is too large\n"),
            Refusal::Over => (S::SERVICE_UNAVAILABLE, "the container has exited\n"),
            Refusal::Full => (S::SERVICE_UNAVAILABLE, "no room for more requests\n"),
            Refusal::Failed => (S::INTERNAL_SERVER_ERROR, "the component failed\n"),
            Refusal::Overlong => {
                (S::INTERNAL_SERVER_ERROR, "the component's answer is too large\n")
            }
            Refusal::TimedOut => (S::GATEWAY_TIMEOUT, "the component took too long\n"),
        };
        let body = Full::new(Bytes::from_static(text.as_bytes()));
        let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if status == S::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Whether what follows on the connection cannot be trusted, or not be waited for.
    pub(super) fn ends_connection(self) -> bool {
        matches!(
            self,
            Refusal::Host
                | Refusal::Connect
                | Refusal::Upgrade
                | Refusal::Ambiguous
                | Refusal::Coding
                | Refusal::BrokenBody
                | Refusal::TooLarge
        )
    }
}
