//! One Pod on this node: what it wants ([`spec`]), where it is in its life ([`lifecycle`], pure), what the API is
//! told ([`status`], pure), and who acts ([`worker`]).

mod admit;
pub mod adopt;
pub mod annotations;
pub mod env;
pub mod hooks;
mod kept;
pub mod lifecycle;
pub mod names;
pub mod oci;
pub mod ports;
pub mod probes;
pub mod resize;
pub mod resources;
pub mod spec;
pub mod status;
pub mod termination;
pub mod volumes;
pub mod worker;
