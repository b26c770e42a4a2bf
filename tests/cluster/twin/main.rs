//! The example components again, as one ordinary program: the name that it is called by says which it is. An image with
//! nothing but this program under a component's name does in a container what the component does in a Wasm host, so that one
//! test body may be held against either.
//!
//! It needs no crate but the standard library, so that it is compiled and linked statically with one call.
//!
//! Where a container differs from a component by nature, so does this: it listens on ports of its own, a trap or too much
//! memory end all of it, and it is told to end by a signal.

mod command;
mod grpc;
mod hello;
mod net;
mod probe;
mod server;
mod signals;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.first().map(String::as_str).unwrap_or_default();
    let name = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let done = match name {
        "hello-command" | "probe-files" => command::run(&arguments),
        "probe-net" => net::run(&arguments),
        "probe-http" => server::http(probe::answer),
        "probe-grpc" => server::serve(grpc::talk),
        "hello-v1" => server::http(|request| hello::answer("v1", request)),
        "hello-v2" => server::http(|request| hello::answer("v2", request)),
        _ => Err(format!("no guest is called {name:?}")),
    };
    let Err(message) = done else { return ExitCode::SUCCESS };
    let _ = writeln!(std::io::stderr(), "{name}: {message}");
    ExitCode::FAILURE
}

/// Prints a line; it has left when this returns.
fn print(line: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout();
    stdout.write_all(format!("{line}\n").as_bytes()).map_err(|e| format!("stdout: {e}"))?;
    stdout.flush().map_err(|e| format!("stdout: {e}"))
}
