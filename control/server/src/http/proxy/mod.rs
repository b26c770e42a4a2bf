//! `nodes/proxy`: a node's kubelet API, to be read through this server (`kubectl get --raw
//! /api/v1/nodes/NAME/proxy/stats/summary`). Only GET: nothing there is to be changed.

use axum::body::Body;
use axum::response::Response;
use coracle_api::ApiError;
use http::header::CONTENT_TYPE;
use http::request::Parts;

use super::answer::Answer;
use super::logs::{self, Kubelets};
use super::method_not_allowed;
use super::request::{RequestInfo, not_found_here};
use crate::registry::Registry;

/// Whether a subresource of nodes is meant for the node.
pub(crate) fn is_proxy(info: &RequestInfo) -> bool {
    let first = info.subresource.split('/').next();
    info.group.is_empty() && info.resource == "nodes" && first == Some("proxy")
}

/// GET of a path of the node's.
pub(crate) async fn get(
    registry: &Registry,
    kubelets: &Kubelets,
    info: &RequestInfo,
    parts: &Parts,
) -> Answer {
    if info.verb != "get" {
        return Err(method_not_allowed().into());
    }
    registry.catch_up().await?;
    let path = below(&info.path).ok_or_else(not_found_here)?;
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let response = logs::ask(registry, kubelets, &info.name, &format!("{path}{query}")).await?;
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE).cloned();
    if status.is_server_error() {
        let message = format!("the agent of node \"{}\" failed: {status}", info.name);
        return Err(ApiError::internal(message).into());
    }
    let mut answer = Response::new(Body::new(response.into_body()));
    *answer.status_mut() = status;
    if let Some(kind) = kind {
        answer.headers_mut().insert(CONTENT_TYPE, kind);
    }
    Ok(answer)
}

/// The path below `/api/v1/nodes/NAME/proxy`, as the client wrote it, so that what it escaped stays so; `None` where what is
/// before it is escaped, whose end can be in the middle of what follows.
fn below(path: &str) -> Option<String> {
    let mut rest = path;
    for part in [Some("api"), Some("v1"), Some("nodes"), None, Some("proxy")] {
        rest = rest.trim_start_matches('/');
        let (first, more) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if part.is_some_and(|part| part != first) {
            return None;
        }
        rest = more;
    }
    Some(if rest.is_empty() { "/".to_owned() } else { rest.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn the_path_of_the_node_is_what_follows_the_word_in_its_place() {
        for (path, expected) in [
            ("/api/v1/nodes/n1/proxy", Some("/")),
            ("/api/v1/nodes/n1/proxy/stats/a%2Fb", Some("/stats/a%2Fb")),
            ("/api/v1/nodes/proxy0/proxy/x", Some("/x")),
            ("/api/v1/nodes/proxy/proxy/proxy/x", Some("/proxy/x")),
            ("//api/v1/nodes/n1//proxy//x", Some("//x")),
            ("/api/v1/nodes/n1/proxy%2Fx", None),
            ("/api/v1/nodes/n1/%70roxy/x", None),
        ] {
            assert_eq!(below(path).as_deref(), expected, "{path}");
        }
    }
}
