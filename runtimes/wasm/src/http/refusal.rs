//! What a client is told where the guest has no answer.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::answer::Answer;

/// Why there is no answer from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Malformed,
    Over,
    Full,
    Failed,
    TimedOut,
}

impl Refusal {
    pub(super) fn response(self) -> Response<Answer> {
        let (status, text) = match self {
            Refusal::Malformed => (StatusCode::BAD_REQUEST, "the request names no host\n"),
            Refusal::Over => (StatusCode::SERVICE_UNAVAILABLE, "the container has exited\n"),
            Refusal::Full => (StatusCode::SERVICE_UNAVAILABLE, "no room for more requests\n"),
            Refusal::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "the component failed\n"),
            Refusal::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "the component took too long\n"),
        };
        let body = http_body_util::Full::new(Bytes::from_static(text.as_bytes()));
        let inner = body.map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(Answer::new(inner, None));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
