//! What goes over the wire. Every field that can have a sensible default has one, so that an older
//! agent and a newer host (or the reverse) understand each other. Timestamps are RFC 3339.

mod host;
mod sandbox;

mod container;
mod oci;

mod status;

mod events;
mod exec;
mod problem;
mod routes;

pub use container::*;
pub use events::*;
pub use exec::*;
pub use host::*;
pub use oci::*;
pub use problem::*;
pub use routes::*;
pub use sandbox::*;
pub use status::*;
