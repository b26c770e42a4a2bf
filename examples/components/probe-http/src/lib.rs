//! A fixture for tests, not an example: an HTTP service that misbehaves on request, so that the
//! end-to-end suite and the benchmarks can show that it harms nobody else. See `hello-http` for
//! an example worth copying.
//!
//! | path                                | what it does                                              |
//! |-------------------------------------|-----------------------------------------------------------|
//! | `/health`                           | status `$HEALTH_STATUS`, 200 if unset                     |
//! | `/echo`                             | streams the request body back as it comes, and then its   |
//! |                                     | trailers, announced where the request announced them      |
//! | `/relay?url=URL`                    | POSTs the request's body and trailers to URL, and answers |
//! |                                     | with the body and the trailers that come back             |
//! | `/drink?ms=N`                       | reads the body, 64 KiB at a time and N ms apart; how many |
//! |                                     | bytes there were                                          |
//! | `/pour?mib=N`                       | N MiB, as fast as the client takes them                   |
//! | `/file?path=PATH`                   | a file of a mounted volume                                |
//! | `/status/NNN`                       | that status                                               |
//! | `/count`                            | how many requests this instance has served, this included |
//! | `/sleep?ms=N`                       | answers after N ms, using no CPU                          |
//! | `/busy?ms=N`                        | spins for N ms; without `ms`, for ever                    |
//! | `/grow?mib=N&ms=M`                  | touches N MiB, keeps them, answers M ms later             |
//! | `/trap`                             | executes `unreachable`                                    |
//! | `/silent`                           | returns without setting a response                        |
//! | `/log?lines=N`                      | N lines on stdout and N on stderr                         |
//! | `/flood?bytes=N`                    | lines of N bytes on stdout, for ever; 0: no line ever ends |
//! | `/stack`                            | calls itself until the stack is used up                   |
//! | `/random?bytes=N`                   | N random bytes, got with one call, for ever and ever      |
//! | `/fill?mib=N`                       | fills N MiB again and again, for ever                     |
//! | `/sockets?count=N`                  | opens N sockets, keeps them; how many it got, and why no  |
//! |                                     | more                                                      |
//! | `/resources?count=N`                | the same with things of the host's: pollables             |
//! | `/stream?chunks=N&ms=M`             | N lines, M ms apart                                       |
//! | `/fetch?url=URL`                    | GETs URL (the rest of the query, not encoded); its status, |
//! |                                     | then its body; 502 and the error if it could not be had.  |
//! |                                     | Before `url`, limits in ms may be given: `connect=N`,     |
//! |                                     | `first=N` and `between=N`; and the file of a token to     |
//! |                                     | show, `token=PATH`                                        |

use std::fmt::Debug;
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use wasip2::cli::{environment, stderr, stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    OutgoingResponse, RequestOptions, ResponseOutparam, Scheme, Trailers,
};
use wasip2::io::streams::{OutputStream, StreamError};
use wasip2::random::random;
use wasip2::sockets::network::IpAddressFamily;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

static SERVED: AtomicU32 = AtomicU32::new(0);

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let served = SERVED.fetch_add(1, Relaxed) + 1;
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number = |name| parameter(query, name).unwrap_or(0);
        let text = |status, body: String| (status, body);
        let (status, body) = match path {
            "/" => text(200, "probe-http: a test fixture\n".into()),
            "/health" => text(health_status(), "health\n".into()),
            "/count" => text(200, format!("{served}\n")),
            "/sleep" => {
                sleep(number("ms"));
                text(200, "slept\n".into())
            }
            "/busy" => {
                spin(parameter(query, "ms"));
                text(200, "spun\n".into())
            }
            "/grow" => {
                grow(number("mib"));
                sleep(number("ms"));
                text(200, format!("{} MiB\n", number("mib")))
            }
            "/trap" => trap(),
            "/silent" => return,
            "/log" => {
                log(number("lines"));
                text(200, "logged\n".into())
            }
            "/flood" => flood(number("bytes")),
            "/stack" => text(200, format!("{}\n", recurse(number("depth")))),
            "/random" => loop {
                black_box(random::get_random_bytes(number("bytes")));
            },
            "/fill" => fill(number("mib")),
            "/sockets" => text(200, sockets(number("count"))),
            "/resources" => {
                let pollables =
                    (0..number("count")).map(|n| monotonic_clock::subscribe_duration(n));
                let kept: Vec<_> = pollables.collect();
                text(200, format!("{}\n", kept.len()))
            }
            "/fetch" => fetch(query),
            "/file" => match steps::files::read(query.strip_prefix("path=").unwrap_or_default()) {
                Ok(content) => text(200, content),
                Err(error) => text(404, error),
            },
            "/drink" => match drink(&request, number("ms")) {
                Some(bytes) => text(200, format!("{bytes}\n")),
                None => text(400, "the body broke off\n".into()),
            },
            "/echo" => {
                let body = request.consume().expect("taken once");
                return respond(out, 200, announced(&request.headers()), |stream| {
                    pass(body, stream)
                });
            }
            "/relay" => match relay(&request, query.strip_prefix("url=").unwrap_or_default()) {
                Ok(response) => {
                    let body = response.consume().expect("taken once");
                    let headers = announced(&response.headers());
                    return respond(out, response.status(), headers, |stream| pass(body, stream));
                }
                Err(error) => text(502, format!("{error}\n")),
            },
            "/pour" => {
                return respond(out, 200, Fields::new(), |stream| {
                    let part = vec![b'x'; 64 << 10];
                    for _ in 0..number("mib") * 16 {
                        stream.write_all(&part).ok()?;
                    }
                    Some(None)
                });
            }
            "/stream" => {
                return respond(out, 200, Fields::new(), |stream| {
                    for n in 1..=number("chunks") {
                        stream.write_all(format!("chunk {n}\n").as_bytes()).ok()?;
                        stream.blocking_flush().ok()?;
                        sleep(number("ms"));
                    }
                    Some(None)
                });
            }
            _ => match path.strip_prefix("/status/").map(str::parse) {
                Some(Ok(status)) => text(status, format!("{status}\n")),
                _ => text(404, format!("no such path: {path}\n")),
            },
        };
        let write = |stream: &mut OutputStream| stream.write_all(body.as_bytes()).ok();
        respond(out, status, Fields::new(), |stream| write(stream).map(|()| None));
    }
}

/// Sends what `write` writes, and the trailers that it returns. Where it fails (None), the body is
/// left unfinished, which the client sees as a broken answer.
fn respond(
    out: ResponseOutparam,
    status: u16,
    headers: Fields,
    write: impl FnOnce(&mut OutputStream) -> Option<Option<Trailers>>,
) {
    let response = OutgoingResponse::new(headers);
    if response.set_status_code(status).is_err() {
        let _ = response.set_status_code(400);
    }
    let body = response.body().expect("taken once");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("taken once");
    let written = write(&mut stream);
    let flushed = stream.blocking_flush().is_ok();
    drop(stream);
    if let Some(trailers) = written.filter(|_| flushed) {
        let _ = OutgoingBody::finish(body, trailers);
    }
}

fn parameter(query: &str, name: &str) -> Option<u64> {
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    values.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

fn health_status() -> u16 {
    let variables = environment::get_environment();
    let status = variables.iter().find(|(name, _)| name == "HEALTH_STATUS");
    status.and_then(|(_, value)| value.parse().ok()).unwrap_or(200)
}

fn sleep(ms: u64) {
    if ms > 0 {
        monotonic_clock::subscribe_duration(ms * 1_000_000).block();
    }
}

/// Loops in pure guest code between looks at the clock, so that only epochs can interrupt it.
fn spin(ms: Option<u64>) {
    let end = ms.map(|ms| monotonic_clock::now() + ms * 1_000_000);
    while end.is_none_or(|end| monotonic_clock::now() < end) {
        for n in 0..100_000_u32 {
            black_box(n);
        }
    }
}

/// Fills memory that stays allocated for as long as the instance lives. Refused memory traps.
fn grow(mib: u64) {
    for n in 0..mib {
        black_box(vec![n as u8 | 1; 1 << 20].leak());
    }
}

#[cfg(target_arch = "wasm32")]
fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn trap() -> ! {
    std::process::abort()
}

fn log(lines: u64) {
    let (mut out, mut err) = (stdout::get_stdout(), stderr::get_stderr());
    for n in 1..=lines {
        let _ = out.write_all(format!("stdout line {n}\n").as_bytes());
        let _ = err.write_all(format!("stderr line {n}\n").as_bytes());
    }
    let _ = (out.blocking_flush(), err.blocking_flush());
}

fn flood(bytes: u64) -> ! {
    let out = stdout::get_stdout();
    let end: &[u8] = if bytes > 0 { b"\n" } else { b"" };
    let line = [&vec![b'x'; bytes.clamp(1, 4000) as usize], end].concat();
    loop {
        let _ = out.blocking_write_and_flush(&line);
    }
}

/// Deeper than any stack.
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth) + 1)) + 1
}

/// One instruction fills all of it, and nothing can interrupt that.
fn fill(mib: u64) -> ! {
    let mut memory = vec![0_u8; (mib << 20) as usize];
    let mut byte = 0_u8;
    loop {
        byte = byte.wrapping_add(1);
        memory.fill(byte);
        black_box(&memory);
    }
}

fn sockets(count: u64) -> String {
    let mut kept = Vec::new();
    while (kept.len() as u64) < count {
        match create_tcp_socket(IpAddressFamily::Ipv4) {
            Ok(socket) => kept.push(socket),
            Err(error) => return format!("{} {error:?}\n", kept.len()),
        }
    }
    format!("{}\n", kept.len())
}

/// What of these headers is about trailers.
fn announced(headers: &Fields) -> Fields {
    let copy = Fields::new();
    for name in ["trailer", "te"] {
        for value in headers.get(name) {
            let _ = copy.append(name, &value);
        }
    }
    copy
}

/// Sends a body on as it comes, and then its trailers.
fn pass(body: IncomingBody, out: &mut OutputStream) -> Option<Option<Trailers>> {
    let input = body.stream().ok()?;
    loop {
        match out.blocking_splice(&input, 64 << 10) {
            Ok(_) => out.blocking_flush().ok()?,
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(_)) => return None,
        }
    }
    drop(input);
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    // Copied: those of a request are not for sending.
    Some(match trailers.get()?.ok()?.ok()? {
        Some(trailers) => Some(Fields::from_list(&trailers.entries()).ok()?),
        None => None,
    })
}

/// Reads it all; how much that was.
fn drink(request: &IncomingRequest, ms: u64) -> Option<u64> {
    let body = request.consume().ok()?;
    let input = body.stream().ok()?;
    let mut bytes = 0;
    loop {
        sleep(ms);
        match input.blocking_read(64 << 10) {
            Ok(part) => bytes += part.len() as u64,
            Err(StreamError::Closed) => return Some(bytes),
            Err(StreamError::LastOperationFailed(_)) => return None,
        }
    }
}

fn relay(request: &IncomingRequest, url: &str) -> Result<IncomingResponse, String> {
    let sent = asked(url, announced(&request.headers()))?;
    sent.set_method(&Method::Post).map_err(|()| "POST is no method")?;
    let body = sent.body().expect("taken once");
    let pending = outgoing_handler::handle(sent, None).map_err(text)?;
    let mut out = body.write().expect("taken once");
    let input = request.consume().expect("taken once");
    let trailers = pass(input, &mut out).ok_or("the body broke off")?;
    out.blocking_flush().map_err(text)?;
    drop(out);
    OutgoingBody::finish(body, trailers).map_err(text)?;
    pending.subscribe().block();
    pending.get().ok_or("no answer")?.map_err(text)?.map_err(text)
}

fn fetch(query: &str) -> (u16, String) {
    let (options, url) = query.split_once("url=").unwrap_or((query, ""));
    match try_fetch(options, url) {
        Ok((status, body)) => (200, format!("{status}\n{body}")),
        Err(error) => (502, format!("{url}: {error}\n")),
    }
}

fn limits(options: &str) -> Option<RequestOptions> {
    let limits = RequestOptions::new();
    let limit = |name| parameter(options, name).map(|ms| ms * 1_000_000);
    limits.set_connect_timeout(limit("connect")).ok()?;
    limits.set_first_byte_timeout(limit("first")).ok()?;
    limits.set_between_bytes_timeout(limit("between")).ok()?;
    Some(limits)
}

fn text(error: impl Debug) -> String {
    format!("{error:?}")
}

/// A GET of URL.
fn asked(url: &str, headers: Fields) -> Result<OutgoingRequest, String> {
    let (scheme, rest) = url.split_once("://").ok_or("the URL has no scheme")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_string()),
    };
    let request = OutgoingRequest::new(headers);
    let refused = |()| "the URL is malformed";
    request.set_scheme(Some(&scheme)).map_err(refused)?;
    request.set_authority(Some(authority)).map_err(refused)?;
    request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(refused)?;
    Ok(request)
}

fn try_fetch(options: &str, url: &str) -> Result<(u16, String), String> {
    let headers = Fields::new();
    let mut options_given = options.split('&').filter_map(|pair| pair.split_once('='));
    if let Some((_, path)) = options_given.find(|(name, _)| *name == "token") {
        let value = format!("Bearer {}", steps::files::read(path)?.trim());
        headers.append("authorization", value.as_bytes()).map_err(text)?;
    }
    let request = asked(url, headers)?;
    let pending = outgoing_handler::handle(request, limits(options)).map_err(text)?;
    pending.subscribe().block();
    let response = pending.get().ok_or("no answer")?.map_err(text)?.map_err(text)?;
    let body = response.consume().map_err(|()| "the body was taken")?;
    let mut stream = body.stream().map_err(|()| "the body was taken")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(text)?;
    Ok((response.status(), String::from_utf8_lossy(&bytes).into_owned()))
}
