//! `kubectl exec`, `attach` and `port-forward`, as the kubelet API serves them.
//!
//! The API server passes the bytes of such a connection on as they are; here is where its protocols end. [`upgrade`] agrees
//! on one with the client; [`spdy`] and [`websocket`] carry streams, which look the same on top ([`stream`]);
//! [`remote_command`] and [`port_forward`] say what the streams are for. [`routes`] is where requests arrive, and [`wasm`]
//! what Wasm containers have to offer. [`log`] is for logs that are read over WebSocket.

mod log;
mod port_forward;
mod processes;
mod remote_command;
mod routes;
mod spdy;
mod stream;
mod terminal;
mod upgrade;
mod wasm;
mod websocket;

pub(crate) use log::serve as log_over_websocket;
pub(crate) use routes::router;
