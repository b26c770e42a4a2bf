//! `/livez`, `/readyz`, `/healthz` and `/version`.

use axum::response::Response;
use serde_json::json;

use super::App;
use super::answer::{json_response, text};
use super::request::Query;

/// The Kubernetes version whose API this is.
const MINOR: &str = "36";

/// The server's version, as Kubernetes clients read it.
pub(crate) fn release() -> String {
    format!("v1.{MINOR}.0+coracle{}", env!("CARGO_PKG_VERSION"))
}

/// `/version`.
pub(crate) fn version() -> Response {
    json_response(
        200,
        &json!({
            "major": "1",
            "minor": MINOR,
            "gitVersion": release(),
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
        }),
    )
}

/// The process is alive.
pub(crate) fn live(query: &Query) -> Response {
    report("livez", &[("ping", Ok(()))], query)
}

/// Requests will be answered.
pub(crate) fn ready(app: &App, query: &Query, name: &str) -> Response {
    let started = if app.is_ready() { Ok(()) } else { Err("the server is starting".to_owned()) };
    let cache = app.registry.cache.failure().map_or(Ok(()), Err);
    // Upstream's check, which waits for ever for a kind with an object that cannot be read. The log says which it is.
    let synced = match app.registry.unreadable_kinds() {
        kinds if kinds.is_empty() => Ok(()),
        kinds => Err(format!("{} informers not started yet: [{}]", kinds.len(), kinds.join(" "))),
    };
    let stopping =
        if *app.shutdown.borrow() { Err("the server is shutting down".to_owned()) } else { Ok(()) };
    let checks = [
        ("ping", Ok(())),
        ("bootstrap", started),
        ("watch-cache", cache),
        ("informer-sync", synced),
        ("shutdown", stopping),
    ];
    report(name, &checks, query)
}

fn report(name: &str, checks: &[(&str, Result<(), String>)], query: &Query) -> Response {
    let failed = checks.iter().any(|(_, result)| result.is_err());
    if !failed && !query.flag("verbose") {
        return text(200, "ok");
    }
    let mut out = String::new();
    for (check, result) in checks {
        out.push_str(&match result {
            Ok(()) => format!("[+]{check} ok\n"),
            Err(why) => format!("[-]{check} failed: {why}\n"),
        });
    }
    out.push_str(&format!("{name} check {}\n", if failed { "failed" } else { "passed" }));
    text(if failed { 500 } else { 200 }, out)
}
