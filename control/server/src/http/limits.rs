//! How long a request may take, and what flow control counts it as.

use std::future::Future;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use coracle_api::{ApiError, go_duration};

use super::answer::Failure;
use super::request::RequestInfo;
use crate::cache::Cache;

/// The time that a request has, and the most that it may ask for with `?timeout=`, as upstream.
const LONGEST: Duration = Duration::from_secs(60);

/// What goes on for as long as the client wants (upstream's `LongRunningFunc`); `watch` aside, flow control leaves it alone.
pub(super) fn is_long_running(info: &RequestInfo) -> bool {
    let (subresource, _) = info.subresource.split_once('/').unwrap_or((&info.subresource, ""));
    info.verb == "watch"
        || !info.is_resource
        || matches!(subresource, "attach" | "exec" | "log" | "portforward" | "proxy")
}

/// Whether flow control has a say: not about images, whose transfers take their time.
pub(super) fn is_counted(info: &RequestInfo) -> bool {
    let images = info.path == "/v2" || info.path.starts_with("/v2/");
    info.verb == "watch" || !is_long_running(info) || (!info.is_resource && !images)
}

/// Objects that a list is about to read.
pub(super) fn objects(info: &RequestInfo, cache: &Cache) -> u64 {
    if info.verb != "list" || info.selected_name().is_some() {
        return 0;
    }
    let Ok(kind) = info.kind() else { return 0 };
    let count = cache.read().count(kind) as u64;
    let query = &info.query;
    let selects = query.get("labelSelector").or(query.get("fieldSelector")).is_some();
    match query.number("limit") {
        Ok(Some(limit)) if limit > 0 && !selects => count.min(limit.unsigned_abs()),
        _ => count,
    }
}

/// The answer, or 504 once its time is over: a body that comes too slowly is in it.
pub(super) async fn in_time(
    info: &RequestInfo,
    answer: impl Future<Output = Response>,
) -> Response {
    if is_long_running(info) {
        return answer.await;
    }
    let asked = match info.query.get("timeout").map(go_duration::parse) {
        None => None,
        Some(Some(nanos @ 0..)) => Some(Duration::from_nanos(nanos as u64)),
        Some(_) => return invalid(),
    };
    let time = asked.filter(|time| !time.is_zero()).unwrap_or(LONGEST).min(LONGEST);
    tokio::time::timeout(time, answer).await.unwrap_or_else(|_| {
        let why = "Timeout: request did not complete within the allotted timeout";
        Failure(ApiError::new(504, "Timeout", why)).into_response()
    })
}

fn invalid() -> Response {
    Failure(ApiError::bad_request("invalid timeout specified in the request URL")).into_response()
}
