//! One request, from its head to the head of its answer.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::accept::Worker;
use crate::body::{Download, Fault, Progress, Upload};
use crate::config::Protocol;
use crate::headers::{self, Origin};
use crate::log::Line;
use crate::metrics::Record;
use crate::serve::Client;
use crate::state::{Pool, Route};
use crate::upstream::{Failure, Lease};

/// Endpoints, or connections, that a request is tried on.
const TRIES: usize = 4;
/// Bytes that are copied at once where a connection changed its protocol.
const PIECE: usize = 16 << 10;

/// Answers a request.
pub(crate) async fn answer(
    worker: &Rc<Worker>,
    client: &Arc<Client>,
    mut request: Request<Incoming>,
) -> Response<Download> {
    let mut record = Record::begin(worker.number);
    let close = client.begin();
    let host = match headers::host(&request) {
        Ok(_) if close => Err(headers::Bad::Length),
        checked => checked,
    };
    let host = match host {
        Ok(host) => host,
        Err(bad) => {
            worker.shared.counters.bad.fetch_add(1, Relaxed);
            client.refuse();
            return refusal(StatusCode::BAD_REQUEST, bad.words(), record, true);
        }
    };
    let state = &worker.shared.state;
    if let Some(served) = &client.certificate
        && state.certificate_of(&host).is_some_and(|own| own != *served)
    {
        // HTTP/2 clients reuse connections for other hosts that a certificate seems to be good for (RFC 9113, 9.1.2).
        let words = "this connection's certificate is not that of the request's host";
        return refusal(StatusCode::MISDIRECTED_REQUEST, words, record, false);
    }
    let Some(found) = state.find(&host, request.uri().path(), client.peer.ip()) else {
        worker.shared.counters.unknown.fetch_add(1, Relaxed);
        let lingers = has_body(&request);
        if lingers {
            client.refuse();
        }
        let words = "no Ingress has this host and path";
        return refusal(StatusCode::NOT_FOUND, words, record, lingers);
    };
    let route = found.route;
    record.route = Some(route.clone());
    let settings = route.target.settings.clone();
    let trusted = found.trusted;
    if settings.access_log
        && let Some(log) = &worker.shared.log
    {
        let line = line(client, trusted, &route, &host, &request);
        record.line = Some((Box::new(line), log.clone()));
    }
    let refuse = |status, words: &str, record| {
        let lingers = has_body(&request);
        if lingers {
            client.refuse();
        }
        refusal(status, words, record, lingers)
    };
    if let Some(why) = &settings.refused {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, why, record);
    }
    if !client.tls
        && (settings.force_ssl_redirect || settings.ssl_redirect && route.certified)
        && let Some(to) = secured(&host, worker.shared.https_port, request.uri())
    {
        let mut response = refuse(StatusCode::PERMANENT_REDIRECT, "", record);
        response.headers_mut().insert(header::LOCATION, to);
        return response;
    }
    let most = if settings.body_size == 0 { u64::MAX } else { settings.body_size };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most) {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, &Fault::TooLarge.to_string(), record);
    }
    let Some(pool) = found.pool else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the backend is not known yet", record);
    };
    if let Some(problem) = &pool.problem {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, problem, record);
    }

    let upgrade = headers::upgrade(&request).filter(|_| pool.protocol.is_http1());
    let switching = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let origin = Origin { client: &client.said, trusted, host: None };
    let (upload, parts) = prepare(request, &origin, &route, pool.protocol, upgrade, most);
    let progress = upload.progress();
    record.upload = Some(progress.clone());
    let repeat = (upload.is_none() && headers::is_idempotent(&parts.method)).then(|| clone(&parts));
    let request = Request::from_parts(parts, upload);
    let reading = settings.reading();
    match exchange(
        worker,
        &pool,
        request,
        repeat,
        (settings.connecting(), reading),
        &progress,
        &mut record,
    )
    .await
    {
        Ok((mut answer, lease)) => {
            record.status = answer.status().as_u16();
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                let Some(switching) = switching else {
                    return refusal(
                        StatusCode::BAD_GATEWAY,
                        "the endpoint changes a protocol that it was not asked to",
                        record,
                        false,
                    );
                };
                return switch(answer, switching, lease, reading, record);
            }
            let named = answer.headers().get(header::TRAILER).cloned();
            headers::end_hop(answer.headers_mut());
            if let Some(named) = named {
                answer.headers_mut().insert(header::TRAILER, named);
            }
            // An answer before the request's end: what still comes of that belongs to no other request.
            if !progress.is_over() && client.is_http1() {
                client.refuse();
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            *answer.version_mut() = Version::HTTP_11;
            answer.map(|body| Download::passed(body, reading, lease, record))
        }
        Err((status, words)) => {
            let lingers = !progress.is_over() || progress.fault().is_some();
            if lingers {
                client.refuse();
            }
            refusal(status, words, record, lingers)
        }
    }
}

fn has_body(request: &Request<Incoming>) -> bool {
    use hyper::body::Body as _;
    !request.body().is_end_stream()
}

/// The proxy's own answer. With `close`, nothing more of this connection is read.
fn refusal(status: StatusCode, words: &str, mut record: Record, close: bool) -> Response<Download> {
    record.status = status.as_u16();
    let body =
        if words.is_empty() { String::new() } else { format!("{} {words}\n", status.as_u16()) };
    let mut response = Response::new(Download::own(Bytes::from(body), record));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same under HTTPS.
fn secured(host: &str, port: u16, uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if host.is_empty() {
        return None;
    }
    let to = match port {
        443 => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    };
    HeaderValue::from_str(&to).ok()
}

fn line(
    client: &Client,
    trusted: bool,
    route: &Route,
    host: &str,
    request: &Request<Incoming>,
) -> Line {
    let text = |name: &str| {
        let value = request.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let told = text("x-forwarded-for").filter(|_| trusted);
    let first = told.as_deref().and_then(|all| all.split(',').next()).map(str::trim);
    let peer = client.peer.ip().to_canonical();
    Line {
        time: Timestamp::now(),
        remote: first.map_or_else(|| peer.to_string(), str::to_owned),
        ingress: route.target.ingress.clone(),
        backend: route.target.backend.clone(),
        endpoint: None,
        method: request.method().to_string(),
        scheme: if client.tls { "https" } else { "http" },
        host: host.to_owned(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        protocol: format!("{:?}", request.version()),
        status: 0,
        bytes_received: 0,
        bytes_sent: 0,
        duration_ms: 0.0,
        broken: false,
        user_agent: text("user-agent"),
    }
}

type Parts = http::request::Parts;

/// The request as endpoints get it.
fn prepare(
    request: Request<Incoming>,
    origin: &Origin<'_>,
    route: &Route,
    protocol: Protocol,
    upgrade: Option<HeaderValue>,
    most: u64,
) -> (Upload, Parts) {
    let settings = &route.target.settings;
    let (mut parts, body) = request.into_parts();
    let upload = Upload::new(body, most, settings.sending());
    let target = headers::target(&parts.uri, settings.rewrite_target.as_deref());
    let authority = parts.uri.authority().cloned();
    let host = match parts.headers.get(header::HOST) {
        Some(host) => Some(host.clone()),
        None => authority.as_ref().and_then(|a| HeaderValue::from_str(a.as_str()).ok()),
    };
    headers::end_hop(&mut parts.headers);
    headers::forward(&mut parts.headers, &Origin { host: host.as_ref(), ..*origin });
    // hyper has answered it.
    parts.headers.remove(header::EXPECT);
    let (version, uri) = match protocol {
        Protocol::Http1 | Protocol::Https => {
            // HTTP/2 clients may send cookies in pieces, which HTTP/1.1 does not know (RFC 9113, 8.2.3).
            join_cookies(&mut parts.headers);
            if let Some(host) = host {
                parts.headers.insert(header::HOST, host);
            } else {
                parts.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
            }
            if let Some(protocol) = upgrade {
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                parts.headers.insert(header::UPGRADE, protocol);
            }
            (Version::HTTP_11, Uri::builder().path_and_query(target).build())
        }
        Protocol::H2c | Protocol::H2 => {
            parts.headers.remove(header::HOST);
            parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
            let authority =
                host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
            let scheme = if protocol == Protocol::H2 { "https" } else { "http" };
            let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target);
            (Version::HTTP_2, uri.build())
        }
    };
    parts.version = version;
    // Both were part of a URI before.
    parts.uri = uri.unwrap_or_default();
    parts.extensions = http::Extensions::new();
    (upload, parts)
}

fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let all: Vec<_> =
            headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

fn clone(parts: &Parts) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = parts.method.clone();
    *copy.uri_mut() = parts.uri.clone();
    *copy.version_mut() = parts.version;
    *copy.headers_mut() = parts.headers.clone();
    copy
}

type Refused = (StatusCode, &'static str);

/// Sends the request to an endpoint, or to another if it was not heard: what was not sent may be sent again, and what may be
/// done twice (`repeat`) too.
async fn exchange(
    worker: &Rc<Worker>,
    pool: &Arc<Pool>,
    request: Request<Upload>,
    repeat: Option<Request<()>>,
    patience: (Duration, Duration),
    progress: &Progress,
    record: &mut Record,
) -> Result<(Response<Incoming>, Lease), Refused> {
    let mut request = request;
    let mut tried = Vec::new();
    for attempt in 0..TRIES {
        let Some(endpoint) = pool.choose(&tried) else {
            return Err(match tried.is_empty() {
                true => (StatusCode::SERVICE_UNAVAILABLE, "the backend has no endpoints"),
                false => (StatusCode::BAD_GATEWAY, "no endpoint takes a connection"),
            });
        };
        if attempt > 0 {
            record.again();
        }
        if let Some((line, _)) = &mut record.line {
            line.endpoint = Some(endpoint.address);
        }
        match worker.upstreams.send(&endpoint, request, patience, progress).await {
            Ok(answered) => return Ok(answered),
            Err(Failure::Silent) => {
                return Err((StatusCode::GATEWAY_TIMEOUT, "the endpoint did not answer in time"));
            }
            Err(Failure::Connect(again, error)) => {
                tracing::debug!(%error, endpoint = %endpoint.address, "no connection");
                endpoint.fail();
                tried.push(endpoint.address);
                request = *again;
            }
            Err(Failure::Unsent(again)) => request = *again,
            Err(Failure::Broken(error)) => {
                match progress.fault() {
                    Some(Fault::TooLarge) => {
                        return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"));
                    }
                    Some(Fault::Silent | Fault::Broken) => {
                        return Err((
                            StatusCode::REQUEST_TIMEOUT,
                            "the body did not come to its end",
                        ));
                    }
                    None => {}
                }
                tracing::debug!(%error, endpoint = %endpoint.address, "no answer");
                let Some(repeat) = &repeat else {
                    return Err((StatusCode::BAD_GATEWAY, "the endpoint broke off"));
                };
                request = repeat.clone().map(|()| Upload::none());
            }
        }
    }
    Err((StatusCode::BAD_GATEWAY, "no endpoint answers"))
}

/// Passes a connection through that both sides speak another protocol on from now on.
fn switch(
    mut answer: Response<Incoming>,
    client: hyper::upgrade::OnUpgrade,
    mut lease: Lease,
    patience: Duration,
    record: Record,
) -> Response<Download> {
    let endpoint = hyper::upgrade::on(&mut answer);
    let protocol = answer.headers().get(header::UPGRADE).cloned();
    headers::end_hop(answer.headers_mut());
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        answer.headers_mut().insert(header::UPGRADE, protocol);
    }
    // It is given to whoever waits for it once it has ended as HTTP.
    if let Some(connection) = lease.link.take().and_then(|link| link.connection()) {
        tokio::task::spawn_local(connection);
    }
    tokio::task::spawn_local(async move {
        let _lease = lease;
        let Ok(Ok((client, endpoint))) =
            tokio::time::timeout(patience, async { tokio::try_join!(client, endpoint) }).await
        else {
            return;
        };
        let (client, endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
        pass(client, endpoint, patience, record).await;
    });
    answer.map(|_| Download::own(Bytes::new(), Record::begin(0)))
}

/// Copies both ways until both are at their end, one breaks, or nothing was said for `patience`.
async fn pass<A, B>(a: A, b: B, patience: Duration, mut record: Record)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_a, mut to_a) = tokio::io::split(a);
    let (mut from_b, mut to_b) = tokio::io::split(b);
    let heard = std::cell::Cell::new(tokio::time::Instant::now());
    let sent = std::cell::Cell::new(0usize);
    let up = copy(&mut from_a, &mut to_b, |_| heard.set(tokio::time::Instant::now()));
    let down = copy(&mut from_b, &mut to_a, |bytes| {
        heard.set(tokio::time::Instant::now());
        sent.set(sent.get() + bytes);
    });
    let silent = async {
        while heard.get().elapsed() < patience {
            tokio::time::sleep_until(heard.get() + patience).await;
        }
    };
    tokio::select! {
        _ = async { tokio::try_join!(up, down) } => {}
        () = silent => {}
    }
    record.sent(sent.get());
}

async fn copy<R, W>(from: &mut R, to: &mut W, mut told: impl FnMut(usize)) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        told(length);
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
        to.flush().await?;
    }
}
