//! `hello-http`: a greeting, a health check, its environment.

use std::env;

use crate::server::{Reply, Request};

pub(crate) fn answer(version: &str, request: &Request) -> Option<Reply> {
    let (status, content_type, body) = match &request.path[..] {
        "/" => (200, "text/plain", greeting(version)),
        "/health" => (200, "text/plain", "ok\n".to_owned()),
        "/version" => (200, "text/plain", format!("{version}\n")),
        "/env" => (200, "application/json", environment()),
        path => (404, "text/plain", format!("no such path: {path}\n")),
    };
    let headers = [("content-type", content_type), ("x-version", version)];
    let headers = headers.map(|(name, value)| (name, value.to_owned())).to_vec();
    Some(Reply { status, headers, body })
}

fn greeting(version: &str) -> String {
    let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello from Coracle".to_owned());
    match env::var("POD_NAME").or_else(|_| env::var("HOSTNAME")) {
        Ok(pod) => format!("{greeting} ({version}, {pod})\n"),
        Err(_) => format!("{greeting} ({version})\n"),
    }
}

fn environment() -> String {
    let members: Vec<String> =
        env::vars().map(|(name, value)| format!("  {name:?}: {value:?}")).collect();
    format!("{{\n{}\n}}\n", members.join(",\n"))
}
