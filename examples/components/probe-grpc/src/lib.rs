//! A fixture for tests: answers `grpc.health.v1.Health/Check` by hand, message and trailers, so that
//! a gRPC probe has something to ask. A service called `down` is not serving; all others are.

use std::io::{Read, Write};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let question = message(&request).unwrap_or_default();
        // Field 1, a string: its tag, its length, its bytes.
        let service = question.get(2..).unwrap_or_default();
        let status = if service == b"down" { 2 } else { 1 };
        match &path[..] {
            "/grpc.health.v1.Health/Check" => respond(out, &[0, 0, 0, 0, 2, 8, status], "0"),
            _ => respond(out, &[], "12"),
        }
    }
}

/// The one message of a request, without its frame.
fn message(request: &IncomingRequest) -> Option<Vec<u8>> {
    let body = request.consume().ok()?;
    let mut stream = body.stream().ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    Some(bytes.split_off(bytes.len().min(5)))
}

fn respond(out: ResponseOutparam, message: &[u8], status: &str) {
    let fields = |name: &str, value: &str| {
        Fields::from_list(&[(name.to_string(), value.as_bytes().to_vec())]).ok()
    };
    let headers = fields("content-type", "application/grpc").expect("a valid header");
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("taken once");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("taken once");
    let written = stream.write_all(message).is_ok() && stream.blocking_flush().is_ok();
    drop(stream); // A child of the body, which can only be finished without it.
    if written {
        let _ = OutgoingBody::finish(body, fields("grpc-status", status));
    }
}
