//! From results to responses; the one place where an [`ApiError`] becomes a `Status`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use coracle_api::schema::protobuf;
use coracle_api::{ApiError, Object};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderValue, StatusCode};
use hyper::body::Body as _;
use serde_json::{Value, json};

use super::accept::meta_version;
use super::render::protobuf_of;

/// An error on its way to the client.
pub(crate) struct Failure(pub(crate) ApiError);

/// Bytes of a `Status`, a review, or what else is no object of a kind.
const TREE: u64 = 1 << 20;

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

/// A `Table` (`meta.k8s.io`) of what is no object of a kind, from columns' names, types and formats, and each item's cells.
pub(super) fn table(
    v1: bool,
    columns: &[(&str, &str, &str)],
    items: &[Value],
    cells: impl Fn(&Value) -> Value,
) -> Value {
    let columns = columns.iter().map(|(name, kind, format)| {
        json!({"name": name, "type": kind, "format": format, "description": "", "priority": 0})
    });
    let rows = items.iter().map(|item| {
        json!({"cells": cells(item), "object": {
            "kind": "PartialObjectMetadata",
            "apiVersion": meta_version(v1),
            "metadata": item["metadata"],
        }})
    });
    json!({
        "kind": "Table",
        "apiVersion": meta_version(v1),
        "metadata": {},
        "columnDefinitions": columns.collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    })
}

/// An answer that was written as JSON, in protobuf: what is no object of a kind ([`json_response`]), of a kind known there.
pub(crate) async fn in_protobuf(response: Response) -> Response {
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|it| it == "application/json");
    let is_small = response.body().size_hint().exact().is_some_and(|size| size <= TREE);
    if !is_json || !is_small {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(json) = axum::body::to_bytes(body, TREE as usize).await else {
        return Failure(ApiError::internal("the answer cannot be read")).into_response();
    };
    let tree = serde_json::from_slice(&json).unwrap_or(Value::Null);
    let body = match protobuf_of(&tree) {
        Some(body) => {
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(protobuf::MEDIA_TYPE));
            body.into()
        }
        None => json,
    };
    Response::from_parts(parts, Body::from(body))
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
