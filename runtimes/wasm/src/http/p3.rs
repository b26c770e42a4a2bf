//! `wasi:http/handler` (WASI 0.3): an `async` function from request to response. The guest goes on after its answer's head has
//! left: it makes the body, and may do more. All of that is one future, which ends when nothing of it is left; whoever
//! polls it holds it to its time, from outside the guest's own event loop, where a guest that spins cannot prevent it.

use bytes::Bytes;
use http::Request;
use hyper::body::Body;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::Request as Resource;
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::p2::{Answered, Seat};
use super::place::Place;
use super::refusal::Refusal;
use super::running::{Guest, Outcome};
use crate::instance::State;
use crate::program::Program;

/// A fresh instance that will serve this request.
pub(super) fn guest<B>(
    place: Place,
    seat: Seat,
    request: Request<B>,
    answered: Answered,
) -> Result<Guest, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let container = place.container.clone();
    let Program::AsyncHttp(pre) = &container.compiled.program else { return Err(Refusal::Over) };
    // Its instances are not kept, so there are none to use again.
    let Seat::New(slot) = seat else { return Err(Refusal::Over) };
    let state = State::new(&container).map_err(|e| {
        container.fail(&format!("the component could not be started: {e:#}"));
        Refusal::Failed
    })?;
    let mut store = state.store(pre.engine());
    let request = addressed(request)?;
    let (request, received) = Resource::from_http(store.data_mut().http().hooks, request);
    Ok(Box::pin(async move {
        // Declared before the store, dropped after it.
        let place = place;
        let _slot = slot;
        let mut store = store;
        let Program::AsyncHttp(pre) = &place.container.compiled.program else {
            return Outcome::Returned(None);
        };
        let service = match pre.instantiate_async(&mut store).await {
            Ok(service) => service,
            Err(error) => {
                let outgrew_slot = store.data().memory.outgrew_slot;
                return Outcome::Failed { error, outgrew_slot };
            }
        };
        let serving = store.run_concurrent(async |accessor| {
            let answer = match service.handle(accessor, request).await? {
                Ok(response) => {
                    Ok(accessor.with(|mut store| response.into_http(&mut store, received))?)
                }
                Err(code) => Err(ErrorCode::InternalError(Some(format!("{code:?}")))),
            };
            // Nobody waits for it any more: the guest may still have other things to do.
            let _ = answered.send(answer);
            std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            wasmtime::error::Ok(())
        });
        match serving.await.and_then(|served| served) {
            Ok(()) => Outcome::Returned(None),
            Err(error) => Outcome::Failed { error, outgrew_slot: store.data().memory.outgrew_slot },
        }
    }))
}

/// Guests see whom a request was meant for as its authority, also where HTTP/1.1 says it in a header.
fn addressed<B>(mut request: Request<B>) -> Result<Request<B>, Refusal> {
    if request.uri().authority().is_none() {
        let host = request.headers().get(http::header::HOST).ok_or(Refusal::Host)?;
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(host.as_bytes().try_into().map_err(|_| Refusal::Host)?);
        parts.path_and_query.get_or_insert(http::uri::PathAndQuery::from_static("/"));
        *request.uri_mut() = http::Uri::from_parts(parts).map_err(|_| Refusal::Host)?;
    }
    Ok(request)
}
