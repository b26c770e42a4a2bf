//! An HTTP service as a Wasm component: a greeting, a health check, and its configuration.
//!
//! There is no server in here, and no port: the component exports `wasi:http/incoming-handler`,
//! and the node serves it on the ports that its Pod declares. Configuration comes from
//! environment variables, as in any Pod.
//!
//! | path       | answer                                                      |
//! |------------|-------------------------------------------------------------|
//! | `/`        | `$GREETING`, the version, and the Pod's name where it is set |
//! | `/health`  | `ok`: for readiness and liveness probes                     |
//! | `/version` | the version, which every answer carries as `x-version` too  |
//! | `/env`     | the environment, as JSON                                    |

use std::io::Write;

use wasip2::cli::environment::get_environment;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

/// Baked in at build time, `HELLO_VERSION=v2 cargo build …`, so that a rolling update shows.
const VERSION: &str = match option_env!("HELLO_VERSION") {
    Some(version) => version,
    None => "dev",
};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let (status, content_type, body) = match path {
            "/" => (200, "text/plain", greeting()),
            "/health" => (200, "text/plain", "ok\n".to_string()),
            "/version" => (200, "text/plain", format!("{VERSION}\n")),
            "/env" => (200, "application/json", environment_json()),
            _ => (404, "text/plain", format!("no such path: {path}\n")),
        };
        respond(out, status, content_type, &body);
    }
}

fn greeting() -> String {
    // Asked for once: each call copies all of it into this component.
    let environment = get_environment();
    let variable = |name: &str| {
        let found = environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let greeting = variable("GREETING").unwrap_or("Hello from Coracle");
    match variable("POD_NAME").or_else(|| variable("HOSTNAME")) {
        Some(pod) => format!("{greeting} ({VERSION}, {pod})\n"),
        None => format!("{greeting} ({VERSION})\n"),
    }
}

fn environment_json() -> String {
    let members: Vec<String> = get_environment()
        .iter()
        .map(|(name, value)| format!("  {}: {}", json_string(name), json_string(value)))
        .collect();
    format!("{{\n{}\n}}\n", members.join(",\n"))
}

fn json_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Sends a whole answer. A client that has gone away is no error of ours: writing just ends.
fn respond(out: ResponseOutparam, status: u16, content_type: &str, body: &str) {
    let header = |name: &str, value: &str| (name.to_string(), value.as_bytes().to_vec());
    let headers = Fields::from_list(&[
        header("content-type", content_type),
        header("content-length", &body.len().to_string()),
        header("x-version", VERSION),
    ])
    .expect("the headers are well-formed");
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a valid status");
    let outgoing = response.body().expect("taken once");
    ResponseOutparam::set(out, Ok(response));

    let mut stream = outgoing.write().expect("taken once");
    let sent = stream.write_all(body.as_bytes()).is_ok() && stream.blocking_flush().is_ok();
    drop(stream); // A child of the body, which can only be finished without it.
    if sent {
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
