//! `wasi:http/incoming-handler` (WASI 0.2): a request and a place for its answer, as resources.

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::place::{Place, Slot};
use super::refusal::Refusal;
use super::reuse::Warm;
use super::running::{Guest, Outcome};
use crate::instance::State;
use crate::program::Program;

/// Where the guest's answer goes.
pub(super) type Answered = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// What a request is served with.
pub(super) enum Seat {
    /// A new instance, in this slot.
    New(Slot),
    /// One that served before.
    Warm(Box<Warm>),
}

/// An instance that will serve this request.
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
    let Program::Http(pre) = &container.compiled.program else { return Err(Refusal::Over) };
    let failed = |e: wasmtime::Error| {
        container.fail(&format!("the component could not be started: {e:#}"));
        Refusal::Failed
    };
    let (mut store, slot, proxy, served, held_first) = match seat {
        Seat::New(slot) => {
            let store = State::new(&container).map_err(failed)?.store(pre.engine());
            (store, slot, None, 0, 0)
        }
        Seat::Warm(warm) => {
            let Warm { mut store, proxy, slot, served, held_first, .. } = *warm;
            store.data_mut().begin_again();
            store.set_epoch_deadline(1);
            (store, slot, Some(proxy), served, held_first)
        }
    };
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request);
    let request = request.map_err(|_| Refusal::Host)?;
    let out = http.new_response_outparam(answered).map_err(failed)?;
    Ok(Box::pin(async move {
        // Declared before the store, dropped after it.
        let place = place;
        let slot = slot;
        let mut store = store;
        let Program::Http(pre) = &place.container.compiled.program else {
            return Outcome::Returned(None);
        };
        let proxy = match proxy {
            Some(proxy) => Ok(proxy),
            None => pre.instantiate_async(&mut store).await,
        };
        let result = match proxy {
            Ok(proxy) => {
                let handler = proxy.wasi_http_incoming_handler();
                handler.call_handle(&mut store, request, out).await.map(|()| proxy)
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(proxy) if place.container.reuse.is_some() => {
                let held = store.data().memory.held();
                let held_first = if served == 0 { held } else { held_first };
                let warm = Warm::new(store, proxy, slot, served.saturating_add(1), held_first);
                Outcome::Returned(Some(Box::new(warm)))
            }
            Ok(_) => Outcome::Returned(None),
            Err(error) => Outcome::Failed { error, outgrew_slot: store.data().memory.outgrew_slot },
        }
    }))
}
