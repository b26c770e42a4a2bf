//! Errors, in the form that the distribution specification gives them.

use std::io::{self, ErrorKind};

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::names::{Digest, Name};

/// The specification's error codes, with the status that goes with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TooManyRequests,
    Unsupported,
    Unknown,
}

impl Code {
    fn text(self) -> (&'static str, StatusCode) {
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", StatusCode::NOT_FOUND),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", StatusCode::BAD_REQUEST),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", StatusCode::NOT_FOUND),
            Self::DigestInvalid => ("DIGEST_INVALID", StatusCode::BAD_REQUEST),
            Self::ManifestBlobUnknown => ("MANIFEST_BLOB_UNKNOWN", StatusCode::BAD_REQUEST),
            Self::ManifestInvalid => ("MANIFEST_INVALID", StatusCode::BAD_REQUEST),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", StatusCode::NOT_FOUND),
            Self::NameInvalid => ("NAME_INVALID", StatusCode::BAD_REQUEST),
            Self::NameUnknown => ("NAME_UNKNOWN", StatusCode::NOT_FOUND),
            Self::SizeInvalid => ("SIZE_INVALID", StatusCode::BAD_REQUEST),
            Self::TooManyRequests => ("TOOMANYREQUESTS", StatusCode::TOO_MANY_REQUESTS),
            Self::Unsupported => ("UNSUPPORTED", StatusCode::METHOD_NOT_ALLOWED),
            Self::Unknown => ("UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// A request that is refused.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    code: Code,
    message: String,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: code.text().1, headers: Vec::new() }
    }

    /// The same with another status than the code's usual one.
    pub(super) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Whether the content is not there.
    pub(super) fn is_unknown(&self) -> bool {
        self.code == Code::BlobUnknown
    }

    /// Whether the request alone was wrong, and what it was about goes on.
    pub(super) fn is_retryable(&self) -> bool {
        matches!(self.status, StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::CONFLICT)
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn method(method: &Method) -> Self {
        Self::new(Code::Unsupported, format!("the registry has no {method} here"))
    }

    pub(super) fn no_blob(name: &Name, digest: &Digest) -> Self {
        Self::new(Code::BlobUnknown, format!("repository {name} has no blob {digest}"))
    }

    /// A failure of the disk while `doing` something.
    pub(super) fn disk(doing: &str, error: &io::Error) -> Self {
        tracing::warn!(%error, doing, "image registry");
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::new(
                Code::Unknown,
                "the registry's disk is full: nothing was stored; free some space, then push again",
            )
            .status(StatusCode::INSUFFICIENT_STORAGE),
            _ => Self::new(Code::Unknown, format!("{doing} failed: {error}")),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({"errors": [{"code": self.code.text().0, "message": self.message}]});
        let content = [(header::CONTENT_TYPE, "application/json")];
        let mut response = (self.status, content, body.to_string()).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}
