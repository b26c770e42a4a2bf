//! From results to responses; the one place where an [`ApiError`] becomes a `Status`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use coracle_api::{ApiError, Object};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

/// An error on its way to the client.
pub(crate) struct Failure(pub(crate) ApiError);

/// What handlers return.
pub(crate) type Answer = Result<Response, Failure>;

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(error) = self;
        let mut response = json_response(error.code, &error.status());
        let after = error.details.as_ref().and_then(|d| d.retry_after_seconds);
        if let Some(seconds) = after.or((error.code == 429).then_some(1)) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A JSON answer from a tree.
pub(crate) fn json_response(code: u16, value: &Value) -> Response {
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    bytes_response(code, "application/json", body.into())
}

/// An answer from bytes.
pub(crate) fn bytes_response(code: u16, content_type: &'static str, body: Bytes) -> Response {
    body_response(code, content_type, Body::from(body))
}

/// An answer from any body.
pub(crate) fn body_response(code: u16, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text, as health checks answer.
pub(crate) fn text(code: u16, body: impl Into<String>) -> Response {
    bytes_response(code, "text/plain; charset=utf-8", Bytes::from(body.into()))
}

/// Adds `Warning` headers, as `kubectl` prints them.
pub(crate) fn warn(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

/// `Status` of a success that has no object to show.
pub(crate) fn success(object: &Object) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": object.meta.name,
            "group": object.kind.group,
            "kind": object.kind.plural,
            "uid": object.meta.uid,
        },
    })
}
