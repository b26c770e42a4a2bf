//! An HTTP service of WASI 0.3: one `async` function from request to response.
//!
//! ```text
//! GET  /              a greeting
//! POST /echo          the request's body as it comes, and its trailers after it
//! GET  /ticks?N       N lines, one every 10 ms
//! GET  /fetch?HOST/…  the answer of another server
//! GET  /trap          traps
//! GET  /busy          computes for ever
//! ```

use wasip3::cli::environment;
use wasip3::clocks::monotonic_clock;
use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::wit_bindgen::{StreamReader, spawn_local};
use wasip3::{wit_future, wit_stream};

struct Service;

wasip3::http::service::export!(Service);

impl Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" | "/health" => Ok(text(greeting())),
            "/echo" => Ok(echo(request)),
            "/ticks" => Ok(ticks(query.parse().unwrap_or(3))),
            "/fetch" => fetch(query).await,
            "/trap" => panic!("as asked for"),
            "/busy" => loop {
                std::hint::black_box(0);
            },
            _ => {
                let response = text(format!("nothing at {path}\n"));
                let _ = response.set_status_code(404);
                Ok(response)
            }
        }
    }
}

fn greeting() -> String {
    let name = environment::get_environment().into_iter().find(|(name, _)| name == "HOSTNAME");
    let name = name.map_or_else(|| "somewhere".into(), |(_, value)| value);
    format!("Hello from WASI 0.3 ({name})\n")
}

fn text(body: String) -> Response {
    let (mut sender, body_reader) = wit_stream::new();
    spawn_local(async move {
        sender.write_all(body.into_bytes()).await;
    });
    streamed(body_reader)
}

/// What is read from there as it comes; no trailers.
fn streamed(body: StreamReader<u8>) -> Response {
    let headers = Fields::new();
    let _ = headers.append("content-type", b"text/plain");
    let (_, trailers) = wit_future::new(|| Ok(None));
    Response::new(headers, Some(body), trailers).0
}

fn echo(request: Request) -> Response {
    let (_, read) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, read);
    Response::new(Fields::new(), Some(body), trailers).0
}

fn ticks(count: u32) -> Response {
    let (mut sender, body) = wit_stream::new();
    spawn_local(async move {
        for n in 1..=count {
            monotonic_clock::wait_for(10_000_000).await;
            if !sender.write_all(format!("tick {n}\n").into_bytes()).await.is_empty() {
                return;
            }
        }
    });
    streamed(body)
}

async fn fetch(target: &str) -> Result<Response, ErrorCode> {
    let (host, path) = target.split_once('/').unwrap_or((target, ""));
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, trailers, None);
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_scheme(Some(&Scheme::Http)).map_err(invalid)?;
    request.set_authority(Some(host)).map_err(invalid)?;
    request.set_path_with_query(Some(&format!("/{path}"))).map_err(invalid)?;
    let answer = match client::send(request).await {
        Ok(answer) => answer,
        Err(code) => return Ok(text(format!("failed: {code:?}\n"))),
    };
    let (_, read) = wit_future::new(|| Ok(()));
    let (body, _) = Response::consume_body(answer, read);
    Ok(streamed(body))
}
