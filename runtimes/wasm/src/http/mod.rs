//! Components that export `wasi:http/incoming-handler`: a fresh instance for every request.
//!
//! A request's guest is polled by its own connection's task, first until the answer's head is
//! there, then by the answer's body: no task, channel or timer is made for a guest that answers at
//! once. What a guest still does after its answer has left goes on in a task of its own.
//!
//! **Limits.** A container runs at most [`MOST_ACTIVE`] requests at once; [`MOST_WAITING`] more
//! wait; beyond that, or if the host has no free slot in time, clients get 503 and Retry-After. A
//! trap is a 500 that says nothing of its reasons, which are in the container's log. A request that
//! exceeds the memory limit is a 500, and the container exits with 137, OOMKilled.
//!
//! **Stopping drops nothing.** From the stop on, the container *drains*: it serves new and old
//! connections as before, but every HTTP/1.1 answer says `Connection: close` and every HTTP/2
//! connection gets a GOAWAY, so that clients go where the Service sends them by now. Once no
//! request has come for [`QUIET`] and none is being served, it closes its listeners and idle
//! connections and exits with 0, Completed. When the grace period is over it does so regardless:
//! with 0 if no request is being served, else with 137 and those requests are lost. A grace of 0
//! kills at once.

mod answer;
mod client;
mod drain;
mod p2;
mod p3;
mod place;
mod record;
mod refusal;
mod reuse;
mod running;
mod serve;
mod traffic;
mod upload;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Body;
use tokio::time::Instant;
use wasmtime_wasi_http::Error;

use crate::container::Container;
use answer::Answer;
use client::Client;
use place::PATIENCE;
use record::Record;
use refusal::Refusal;
use upload::Upload;

pub(crate) use reuse::{Keepers, may_reuse};
pub(crate) use running::trapped;
pub(crate) use serve::serve_connection;
pub(crate) use traffic::{BUCKETS, CLASSES, Traffic};

/// Bytes of a request's body, unless the container says otherwise.
const MOST_RECEIVED: u64 = 1 << 30;

/// Answers a request of a guest of this host.
pub(crate) async fn handle<B>(container: &Arc<Container>, request: Request<B>) -> Response<Answer>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Error>,
{
    handle_from(container, request, None).await
}

/// Answers a request, from a connection or from a guest of this host.
async fn handle_from<B>(
    container: &Arc<Container>,
    mut request: Request<B>,
    client: Option<&Arc<Client>>,
) -> Response<Answer>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Error>,
{
    let mut record = Record::begin(container, client, &request);
    let lingers = client.is_some_and(|client| !client.http2.load(Relaxed))
        && !request.headers().contains_key(header::EXPECT);
    let ambiguous = client.is_some_and(|client| client.is_ambiguous());
    let checked = if ambiguous { Err(Refusal::Ambiguous) } else { check(container, &mut request) };
    let answered = match checked.and_then(|()| {
        if client.is_some_and(|client| !client.pay(&container.memory)) {
            return Err(Refusal::Full);
        }
        let (parts, body) = request.into_parts();
        let most = container.spec.http.max_request_bytes.unwrap_or(MOST_RECEIVED);
        let mut body = Upload::new(body, most, &container.memory)?;
        if lingers {
            body = body.read_to_the_end();
        }
        record.upload = body.progress();
        Ok(Request::from_parts(parts, body))
    }) {
        Ok(request) => answer::begin(container, request, &record).await,
        Err(refusal) => Err(refusal),
    };
    match answered {
        Ok(begun) => Answer::of_guest(begun, record),
        Err(refusal) => {
            if refusal.is_want_of_room() {
                let wait = container.traffic.counts().refuse();
                // What refusing costs is the container's expense, too.
                let wait = wait.max(container.cpu.debt().unwrap_or_default());
                if !wait.is_zero() {
                    let late = (Instant::now() + wait).min(record.begun + PATIENCE);
                    tokio::time::sleep_until(late.min(record.deadline)).await;
                }
            }
            Answer::refusal(refusal, record)
        }
    }
}

/// What no guest is to see.
fn check<B>(container: &Container, request: &mut Request<B>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let headers = request.headers();
    // `Upgrade: h2c` and others may be ignored; who wants a WebSocket can do nothing with an answer.
    let upgrade = headers.get(header::UPGRADE);
    if upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(Refusal::Upgrade);
    }
    // hyper sees to it that the last one is `chunked`; what else was done to the body nobody would undo.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return Err(Refusal::Coding);
    }
    if let Some(authority) = request.uri().authority() {
        return if authority.as_str().contains('@') { Err(Refusal::Host) } else { Ok(()) };
    }
    match host(headers)? {
        true => Ok(()),
        // Only in HTTP/1.0 may it be left out.
        false if request.version() == Version::HTTP_10 => {
            let ip = container.sandbox.spec.ips.first().map(IpAddr::to_string);
            let host = ip.and_then(|ip| HeaderValue::try_from(ip).ok()).ok_or(Refusal::Host)?;
            request.headers_mut().insert(header::HOST, host);
            Ok(())
        }
        false => Err(Refusal::Host),
    }
}

/// Whether a request names a host; an error if it names several, or what cannot be one.
fn host(headers: &HeaderMap) -> Result<bool, Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else { return Ok(false) };
    let is_fit = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(b);
    if hosts.next().is_some() || host.is_empty() || !host.as_bytes().iter().all(is_fit) {
        return Err(Refusal::Host);
    }
    Ok(true)
}
