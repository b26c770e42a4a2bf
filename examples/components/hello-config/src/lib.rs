//! An HTTP service that asks `wasi:config` how to greet, and says what it does by `wasi:logging`.
//! In a Pod the former is the container's environment, whichever ConfigMap or Secret it comes
//! from; the latter is the container's log, each line with its level.
//!
//! | path           | answer                                                              |
//! |----------------|---------------------------------------------------------------------|
//! | `/`            | the value of `greeting`                                             |
//! | `/health`      | `ok`: for readiness and liveness probes                             |
//! | `/config`      | the names that are set, one a line                                  |
//! | `/config/NAME` | a value; 404 where it is not set                                    |
//! | `/log/LEVEL`   | logs the request's query at a level, `trace` to `critical`          |
//!
//! Other than in the other examples, all bindings are made here of the world that the node offers.

wit_bindgen::generate!({
    path: "../../../wit",
    world: "coracle:guest/http-service",
    generate_all,
});

// The folder has the interfaces of WASI 0.2 and of 0.3, so those that are in both say which they are.
use exports::wasi::http0_2_12::incoming_handler::Guest;
use wasi::config::store;
use wasi::http0_2_12::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasi::logging::logging::{Level, log};

const CONTEXT: &str = "hello-config";

struct Hello;

export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (status, body) = match answer(path, query) {
            Ok(Some(body)) => (200, body),
            Ok(None) => (404, format!("nothing at {path}\n")),
            Err(error) => {
                log(Level::Error, CONTEXT, &format!("{path}: {error:?}"));
                (500, "the configuration cannot be read\n".to_string())
            }
        };
        respond(out, status, &body);
    }
}

fn answer(path: &str, query: &str) -> Result<Option<String>, store::Error> {
    let body = match path {
        "/health" => "ok\n".to_string(),
        "/" => {
            let greeting = store::get("greeting")?.unwrap_or_else(|| {
                log(Level::Warn, CONTEXT, "no greeting is set; using another");
                "Hello from Coracle".to_string()
            });
            format!("{greeting}\n")
        }
        "/config" => store::get_all()?.iter().map(|(name, _)| format!("{name}\n")).collect(),
        _ => match path.rsplit_once('/') {
            Some(("/config", name)) => match store::get(name)? {
                Some(value) => format!("{value}\n"),
                None => return Ok(None),
            },
            Some(("/log", name)) => match level(name) {
                Some(level) => {
                    log(level, CONTEXT, query);
                    "logged\n".to_string()
                }
                None => return Ok(None),
            },
            _ => return Ok(None),
        },
    };
    Ok(Some(body))
}

fn level(name: &str) -> Option<Level> {
    Some(match name {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" => Level::Error,
        "critical" => Level::Critical,
        _ => return None,
    })
}

/// Sends a whole answer. A client that has gone away is no error of ours: writing just ends.
fn respond(out: ResponseOutparam, status: u16, body: &str) {
    let headers = Fields::from_list(&[("content-type".to_string(), b"text/plain".to_vec())])
        .expect("the header is well-formed");
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a valid status");
    let outgoing = response.body().expect("taken once");
    ResponseOutparam::set(out, Ok(response));

    let stream = outgoing.write().expect("taken once");
    // The stream takes 4 KiB at once.
    let sent =
        body.as_bytes().chunks(4096).all(|part| stream.blocking_write_and_flush(part).is_ok());
    drop(stream); // A child of the body, which can only be finished without it.
    if sent {
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
