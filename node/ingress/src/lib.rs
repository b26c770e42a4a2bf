//! Ingress: requests from outside to Services, by host and path.
//!
//! **A process of its own.** The proxy is `coracle host ingress`, which the agent starts for the first Ingress and ends with
//! the last. It outlives the agent as Pods' hosts do, so that killing or upgrading the agent costs no request; it holds
//! certificates' keys and reads strangers' bytes, so it is confined as the Wasm host is and has neither files nor rights; and
//! a node without an Ingress spends no memory on it.
//!
//! In the order of an applied Ingress: the agent feeds Ingresses to the [`table`], which is pure, and gives the proxy what
//! follows from it, the [`config`], over a unix socket ([`control`]). The proxy keeps that as its [`state`]. A connection is
//! [accepted](accept), given to a worker (a thread with a runtime of its own, so that nothing is shared on a request's way),
//! [served](serve) within limits, and each of its requests [forwarded](forward) on one of the worker's [kept](upstream)
//! connections to a Pod's own address: no Service address, no second choice of an endpoint, is between them. Where that Pod is
//! one of this machine's Wasm host, the connection begins [inside](inside) the Pods' namespace: nor is there a link between them.

pub mod config;
pub mod settings;
pub mod table;

mod state;
mod tls;

mod accept;
mod serve;

mod body;
mod forward;
mod headers;
mod inside;
mod log;
mod metrics;
mod patience;
mod upstream;

pub mod control;

pub use control::{Limits, Options, run};
pub use tls::check as check_certificate;
