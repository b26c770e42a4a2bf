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
use super::request::RequestInfo;
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
    // As the client wrote it, so that what it escaped stays so.
    let path = info.path.split_once("/proxy").map_or("", |(_, path)| path);
    let path = if path.is_empty() { "/" } else { path };
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
