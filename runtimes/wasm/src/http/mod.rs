//! Components that export `wasi:http/incoming-handler`: a fresh instance for every request.
//!
//! A request's guest is polled by its own connection's task, first until the answer's head is
//! there, then by the answer's body: no task, channel or timer is made for a guest that answers at
//! once. What a guest still does after its answer has left goes on in a task of its own.
//!
//! **Limits.** A container runs at most [`MOST_ACTIVE`] requests at once; [`MOST_WAITING`] more
//! wait; beyond that, or if the host has no free slot in time, clients get 503 and Retry-After. A
//! trap is a 500 that says nothing of its reasons, which are in the container's log. A request that
//! exceeds the memory limit is a 500, and the container exits with 137, OOMKilled.
//!
//! **Stopping drops nothing.** From the stop on, the container *drains*: it serves new and old
//! connections as before, but every HTTP/1.1 answer says `Connection: close` and every HTTP/2
//! connection gets a GOAWAY, so that clients go where the Service sends them by now. Once no
//! request has come for [`QUIET`] and none is being served, it closes its listeners and idle
//! connections and exits with 0, Completed. When the grace period is over it does so regardless:
//! with 0 if no request is being served, else with 137 and those requests are lost. A grace of 0
//! kills at once.

mod answer;
mod drain;
mod p2;
mod place;
mod refusal;
mod running;
mod serve;
mod traffic;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use wasmtime_wasi_http::Error;

use crate::container::Container;

pub(crate) use answer::Answer;
pub(crate) use serve::serve_connection;
pub(crate) use traffic::Traffic;

/// Answers a request, from a connection or from a guest of this host.
pub(crate) async fn handle<B>(container: &Arc<Container>, request: Request<B>) -> Response<Answer>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    match answer::answer(container, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(),
    }
}
