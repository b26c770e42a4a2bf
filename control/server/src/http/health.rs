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

/// A check and what is wrong, if it is.
pub(super) type Check = (&'static str, Result<(), String>);

/// What is looked at: whether the process is alive (`livez`), or whether requests will be answered.
pub(super) fn checks(app: &App, name: &str) -> Vec<Check> {
    if name == "livez" {
        return vec![("ping", Ok(()))];
    }
    let started = if app.is_ready() { Ok(()) } else { Err("the server is starting".to_owned()) };
    let cache = app.registry.cache.failure().map_or(Ok(()), Err);
    // Upstream's check, which waits for ever for a kind with an object that cannot be read. The log says which it is.
    let synced = match app.registry.unreadable_kinds() {
        kinds if kinds.is_empty() => Ok(()),
        kinds => Err(format!("{} informers not started yet: [{}]", kinds.len(), kinds.join(" "))),
    };
    let stopping =
        if *app.shutdown.borrow() { Err("the server is shutting down".to_owned()) } else { Ok(()) };
    vec![
        ("ping", Ok(())),
        ("bootstrap", started),
        ("watch-cache", cache),
        ("informer-sync", synced),
        ("shutdown", stopping),
    ]
}

/// All checks but those that are excluded.
pub(crate) fn report(app: &App, query: &Query, name: &str) -> Response {
    let mut out = String::new();
    let mut failed = false;
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    for (check, result) in checks(app, name) {
        if excluded.contains(&check) {
            excluded.retain(|it| *it != check);
            out.push_str(&format!("[+]{check} excluded: ok\n"));
            continue;
        }
        failed |= result.is_err();
        out.push_str(&match result {
            Ok(()) => format!("[+]{check} ok\n"),
            Err(why) => format!("[-]{check} failed: {why}\n"),
        });
    }
    if !excluded.is_empty() {
        let names: Vec<_> = excluded.iter().map(|it| format!("{it:?}")).collect();
        let names = names.join(",");
        out.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {names}\n"
        ));
    }
    if !failed && !query.flag("verbose") {
        return text(200, "ok");
    }
    out.push_str(&format!("{name} check {}\n", if failed { "failed" } else { "passed" }));
    text(if failed { 500 } else { 200 }, out)
}

/// One check, if there is such a one.
pub(crate) fn one(app: &App, query: &Query, name: &str, check: &str) -> Option<Response> {
    let (_, result) = checks(app, name).into_iter().find(|(known, _)| *known == check)?;
    Some(match result {
        Ok(()) if query.flag("verbose") => {
            text(200, format!("[+]{check} ok\n{name} check passed\n"))
        }
        Ok(()) => text(200, "ok"),
        Err(why) => text(500, format!("internal server error: {why}\n")),
    })
}
