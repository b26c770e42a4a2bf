//! `wasi:http/incoming-handler` (WASI 0.2): a request and a place for its answer, as resources.

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::place::Place;
use super::refusal::Refusal;
use super::running::{Guest, Outcome};
use crate::compile::Program;
use crate::instance::State;

/// Where the guest's answer goes.
pub(super) type Answered = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// A fresh instance that will serve this request.
pub(super) fn guest<B>(
    place: Place,
    request: Request<B>,
    answered: Answered,
) -> Result<Guest, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let container = place.container.clone();
    let engine = match &container.compiled.program {
        Program::Http(pre) => pre.engine(),
        Program::Command(_) => return Err(Refusal::Over),
    };
    let failed = |e: wasmtime::Error| {
        container.fail(&format!("the component could not be started: {e:#}"));
        Refusal::Failed
    };
    let mut store = State::new(&container).map_err(failed)?.store(engine);
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request);
    let request = request.map_err(|_| Refusal::Malformed)?;
    let out = http.new_response_outparam(answered).map_err(failed)?;
    Ok(Box::pin(async move {
        // Declared before the store, dropped after it.
        let place = place;
        let mut store = store;
        let Program::Http(pre) = &place.container.compiled.program else {
            return Outcome::Returned;
        };
        let result = match pre.instantiate_async(&mut store).await {
            Ok(proxy) => {
                proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Outcome::Returned,
            Err(error) => Outcome::Failed { error, outgrew_slot: store.data().memory.outgrew_slot },
        }
    }))
}
