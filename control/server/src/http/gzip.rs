//! Large answers to reads, compressed for clients that take it (upstream's `APIResponseCompression`).

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::body::{Body as _, Frame};

use super::request::RequestInfo;

/// Bytes below which it is not worth the work, as upstream.
const LEAST: u64 = 128 << 10;

/// Whether the caller of a read takes gzip.
pub(crate) fn is_wanted(info: &RequestInfo, headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    matches!(info.verb, "get" | "list")
        && lines.flat_map(|line| line.split(',')).any(|coding| coding.trim() == "gzip")
}

/// The answer, compressed while it is sent if it is large and its size is known: streams are sent as they come.
pub(crate) fn compressed(mut response: Response) -> Response {
    let large = response.body().size_hint().exact().is_some_and(|size| size >= LEAST);
    if !large || response.status() != StatusCode::OK {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.remove(CONTENT_LENGTH);
    response.map(|body| {
        Body::new(Gzip { body, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) })
    })
}

struct Gzip {
    body: Body,
    /// None once the last bytes are out.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl hyper::body::Body for Gzip {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        while let Some(encoder) = &mut this.encoder {
            let bytes = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(frame) => {
                    let Ok(data) = frame?.into_data() else { continue };
                    encoder.write_all(&data)?;
                    std::mem::take(encoder.get_mut())
                }
                None => match this.encoder.take() {
                    Some(encoder) => encoder.finish()?,
                    None => break,
                },
            };
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
            }
        }
        Poll::Ready(None)
    }
}
