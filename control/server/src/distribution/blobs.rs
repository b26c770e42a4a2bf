//! Blobs: reading, deleting, and uploading them whole, in pieces or by mounting.

use std::io::SeekFrom;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::error::{Code, Refusal};
use super::names::{Digest, Name};
use super::uploads::{Piece, Upload};
use super::{Answer, DIGEST, Parameters, Registry, UPLOAD_ID, content_length, created, value};

/// Bytes read at a time.
const BUFFER: usize = 128 << 10;

/// `GET` or `HEAD` of a blob, or of one range of it.
pub(super) async fn get(
    registry: &Registry,
    name: Name,
    digest: Digest,
    method: &Method,
    headers: &HeaderMap,
) -> Answer {
    let (file, size) = registry.blocking(move |disk| disk.blob(&name, &digest)).await?;
    let wanted = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let range = wanted.map_or(Ok(None), |range| parse_range(range, size)).map_err(|()| {
        let message = format!("the blob has {size} bytes");
        Refusal::new(Code::SizeInvalid, message)
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(header::CONTENT_RANGE, value(format!("bytes */{size}")))
    })?;
    let (start, length) = range.unwrap_or((0, size));
    let mut response = match method == Method::HEAD {
        true => Body::empty(),
        false => {
            let mut file = tokio::fs::File::from_std(file);
            let sought = file.seek(SeekFrom::Start(start)).await;
            sought.map_err(|error| Refusal::disk("reading a blob", &error))?;
            Body::from_stream(ReaderStream::with_capacity(file.take(length), BUFFER))
        }
    }
    .into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, value(length.to_string()));
    headers.insert(header::ACCEPT_RANGES, value("bytes"));
    headers.insert(header::ETAG, value(format!("\"{digest}\"")));
    headers.insert(DIGEST, value(digest.to_string()));
    if range.is_some() {
        let text = format!("bytes {start}-{}/{size}", start + length - 1);
        headers.insert(header::CONTENT_RANGE, value(text));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Start and length of the one range asked for. What is not one range of bytes is as good as absent (RFC 9110, 14.2);
/// an error if it lies outside.
fn parse_range(text: &str, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Ok(None);
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, size.min(last.saturating_add(1))),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(suffix)) if first.is_empty() => (size.saturating_sub(suffix), size),
        _ => return Ok(None),
    };
    if start < end { Ok(Some((start, end - start))) } else { Err(()) }
}

/// Ends a repository's hold of a blob.
pub(super) async fn delete(registry: &Registry, name: Name, digest: Digest) -> Answer {
    let held = {
        let name = name.clone();
        registry.blocking(move |disk| disk.drop_blob(&name, &digest)).await?
    };
    match held {
        true => Ok(StatusCode::ACCEPTED.into_response()),
        false => Err(Refusal::no_blob(&name, &digest)),
    }
}

/// Starts an upload; `mount` takes the blob from another repository, `digest` brings it whole.
pub(super) async fn start(
    registry: &Registry,
    name: Name,
    query: &Parameters,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from")) {
        let (digest, from) = (Digest::parse(digest)?, Name::parse(from)?);
        let to = name.clone();
        let mounted = registry.blocking(move |disk| disk.mount(&to, &from, &digest)).await;
        // What cannot be mounted is uploaded, as the specification has it.
        if mounted.is_ok() {
            return Ok(created(format!("/v2/{name}/blobs/{digest}"), &digest));
        }
    }
    let whole = query.get("digest").map(|digest| Digest::parse(digest)).transpose()?;
    let upload = registry.uploads.start(name.clone())?;
    let Some(digest) = whole else { return Ok(accepted(&name, &upload, 0)) };
    let piece = Piece { start: None, length: content_length(headers) };
    complete(registry, &name, &upload, digest, piece, body).await
}

/// How far an upload is.
pub(super) fn progress(registry: &Registry, name: &Name, id: &str) -> Answer {
    let upload = registry.uploads.get(name, id)?;
    let size = upload.size()?;
    let mut response = accepted(name, &upload, size);
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Appends a piece.
pub(super) async fn chunk(
    registry: &Registry,
    name: &Name,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let upload = registry.uploads.get(name, id)?;
    let size = upload.append(piece(headers)?, body).await;
    let size = size.map_err(|refusal| located(refusal, name, &upload))?;
    Ok(accepted(name, &upload, size))
}

/// Appends what the body holds, and ends the upload.
pub(super) async fn finish(
    registry: &Registry,
    name: Name,
    id: &str,
    query: &Parameters,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let upload = registry.uploads.get(&name, id)?;
    let digest = query.get("digest").ok_or_else(|| {
        Refusal::new(Code::DigestInvalid, "the parameter digest is missing: ?digest=sha256:…")
    })?;
    complete(registry, &name, &upload, Digest::parse(digest)?, piece(headers)?, body).await
}

/// Gives an upload up.
pub(super) fn cancel(registry: &Registry, name: &Name, id: &str) -> Answer {
    let upload = registry.uploads.get(name, id)?;
    registry.uploads.forget(&upload.id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn complete(
    registry: &Registry,
    name: &Name,
    upload: &Upload,
    digest: Digest,
    piece: Piece,
    body: Body,
) -> Answer {
    let finished = upload.finish(registry.disk.clone(), digest, piece, body).await;
    match finished {
        // A piece at the wrong place, or beside another request: the upload goes on.
        Err(refusal) if refusal.is_retryable() => Err(located(refusal, name, upload)),
        finished => {
            registry.uploads.forget(&upload.id);
            finished.map(|()| created(format!("/v2/{name}/blobs/{digest}"), &digest))
        }
    }
}

/// Where a request's body belongs: `Content-Range: <first>-<last>`, and `Content-Length`.
fn piece(headers: &HeaderMap) -> Result<Piece, Refusal> {
    let length = content_length(headers);
    let Some(range) = headers.get(header::CONTENT_RANGE) else {
        return Ok(Piece { start: None, length });
    };
    let text = range.to_str().unwrap_or_default();
    let bounds = text.strip_prefix("bytes ").unwrap_or(text).split_once('-');
    let bounds = bounds.and_then(|(first, last)| {
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        Some((first, last.checked_sub(first)?.checked_add(1)?))
    });
    match bounds {
        Some((start, bytes)) if length.is_none_or(|length| length == bytes) => {
            Ok(Piece { start: Some(start), length: Some(bytes) })
        }
        _ => {
            let message = format!("Content-Range {text:?} is not <first>-<last> of this content");
            Err(Refusal::new(Code::BlobUploadInvalid, message))
        }
    }
}

/// `202 Accepted`: where to go on, and what has arrived.
fn accepted(name: &Name, upload: &Upload, size: u64) -> Response {
    let id = upload.id.to_string();
    let headers = [
        (header::LOCATION, value(format!("/v2/{name}/blobs/uploads/{id}"))),
        (header::RANGE, value(format!("0-{}", size.saturating_sub(1)))),
        (UPLOAD_ID, value(id)),
    ];
    (StatusCode::ACCEPTED, headers).into_response()
}

/// The same refusal, saying where the upload goes on.
fn located(refusal: Refusal, name: &Name, upload: &Upload) -> Refusal {
    let location = value(format!("/v2/{name}/blobs/uploads/{}", upload.id));
    let refusal = refusal.header(header::LOCATION, location);
    match upload.size() {
        Ok(size) => refusal.header(header::RANGE, value(format!("0-{}", size.saturating_sub(1)))),
        Err(_) => refusal,
    }
}
