//! The image registry built into the cluster: the OCI distribution protocol (version 1.1) below `/v2/`.
//!
//! It makes `coracle push`, and equally `oras`, `skopeo`, `wkg` or `docker push`, work with nothing else installed, and
//! it is where agents look up image names that have no host. Who may call it is decided in front of it; here is only
//! the protocol. Three layers: [`names`] is the grammar, so that nothing that reaches a path can leave the folder;
//! [`disk`] is content-addressed files and what each repository holds of them; [`uploads`] are the blobs that are still
//! arriving, streamed to disk and hashed on the way, so that no blob is ever held in memory.

mod blobs;
mod disk;
mod error;
mod listing;
mod manifests;
mod names;
#[cfg(test)]
mod tests;
mod uploads;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use disk::Disk;
use error::Refusal;
use names::Target;
use uploads::Uploads;

/// A request's extension: who sends it may not read what it asks to mount.
#[derive(Debug, Clone)]
pub(crate) struct NoMount;

/// What a handler answers.
type Answer = Result<Response, Refusal>;

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The registry in one folder; clones share it.
#[derive(Clone)]
pub struct Registry {
    disk: Arc<Disk>,
    uploads: Uploads,
}

/// Why a registry's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the image registry in {}: {source}", folder.display())]
pub struct OpenError {
    folder: std::path::PathBuf,
    #[source]
    source: std::io::Error,
}

impl Registry {
    /// Opens the registry in `dir`, which is made if need be. Uploads that an earlier process left unfinished are gone.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let error = |source| OpenError { folder: dir.to_owned(), source };
        let disk = Arc::new(Disk::open(dir).map_err(error)?);
        Ok(Self { uploads: Uploads::new(disk.clone()), disk })
    }

    /// Runs `work`, which does file I/O, where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let disk = self.disk.clone();
        match tokio::task::spawn_blocking(move || work(&disk)).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Serves `registry` below `/v2/`.
pub fn router(registry: Registry) -> Router {
    Router::new()
        .route("/v2", any(base))
        .route("/v2/", any(base))
        .route("/v2/{*path}", any(serve))
        .with_state(registry)
}

/// Whether this is a registry, and whether the caller may use it.
async fn base(method: Method) -> Response {
    let answer = match method {
        Method::GET | Method::HEAD => {
            Ok(([(header::CONTENT_TYPE, "application/json"), (API_VERSION, "registry/2.0")], "{}")
                .into_response())
        }
        _ => Err(Refusal::method(&method)),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

type Parameters = HashMap<String, String>;

async fn serve(
    State(registry): State<Registry>,
    UrlPath(path): UrlPath<String>,
    Query(mut query): Query<Parameters>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    if parts.extensions.get::<NoMount>().is_some() {
        // What cannot be mounted is uploaded, as the specification has it.
        query.remove("mount");
    }
    let answer = dispatch(&registry, &path, &query, parts, body).await;
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn dispatch(
    registry: &Registry,
    path: &str,
    query: &Parameters,
    parts: Parts,
    body: Body,
) -> Answer {
    let (method, headers) = (parts.method, parts.headers);
    match (method.as_str(), Target::parse(path)?) {
        ("GET" | "HEAD", Target::Blob(name, digest)) => {
            blobs::get(registry, name, digest, &method, &headers).await
        }
        ("DELETE", Target::Blob(name, digest)) => blobs::delete(registry, name, digest).await,
        ("POST", Target::Uploads(name)) => {
            blobs::start(registry, name, query, &headers, body).await
        }
        ("GET", Target::Upload(name, id)) => blobs::progress(registry, &name, &id),
        ("PATCH", Target::Upload(name, id)) => {
            blobs::chunk(registry, &name, &id, &headers, body).await
        }
        ("PUT", Target::Upload(name, id)) => {
            blobs::finish(registry, name, &id, query, &headers, body).await
        }
        ("DELETE", Target::Upload(name, id)) => blobs::cancel(registry, &name, &id),
        ("GET" | "HEAD", Target::Manifest(name, reference)) => {
            manifests::get(registry, name, reference, &method).await
        }
        ("PUT", Target::Manifest(name, reference)) => {
            manifests::put(registry, name, reference, &headers, body).await
        }
        ("DELETE", Target::Manifest(name, reference)) => {
            manifests::delete(registry, name, reference).await
        }
        ("GET", Target::Tags(name)) => listing::tags(registry, name, query).await,
        ("GET", Target::Catalog) => listing::catalog(registry, query).await,
        ("GET", Target::Referrers(name, digest)) => {
            listing::referrers(registry, name, digest, query).await
        }
        _ => Err(Refusal::method(&method)),
    }
}

/// A header whose text this module made itself.
fn value(text: impl Into<String>) -> HeaderValue {
    // Names, digests and numbers are visible ASCII by their grammar.
    HeaderValue::try_from(text.into()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The length that the client announced.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `201 Created`: where it is, and its digest.
fn created(location: String, digest: &names::Digest) -> Response {
    let headers = [(header::LOCATION, value(location)), (DIGEST, value(digest.to_string()))];
    (StatusCode::CREATED, headers).into_response()
}
