//! The sandbox protocol: how the agent talks to the processes in which workloads live.
//!
//! Plain HTTP/1.1 and JSON over a unix socket (mode 0600), so that `curl --unix-socket` can debug
//! it. A sandbox is what one Pod is to a runtime: addresses, limits, a folder for logs, and
//! containers. Nothing here knows Kubernetes, and nothing required here is peculiar to one
//! runtime: the Wasm host serves many sandboxes on one socket, a container shim serves one.
//!
//! - [`types`]: what goes over the wire;
//! - [`beneath`]: how both ends open what a mount names;
//! - [`runtime`]: the [`Runtime`] trait, implemented by each host;
//! - [`server`]: puts a `Runtime` on a socket;
//! - [`client`]: the agent's handle, which outlives restarts of the host;
//! - [`stream`]: streams of processes, on connections that were upgraded;
//! - [`framing`]: refusing HTTP requests on whose end two servers could disagree;
//! - [`rights`]: giving up capabilities; [`users`]: making user namespaces;
//! - [`events`] and [`logs`]: what every host does in the same way.

pub mod types;

pub mod beneath;

pub mod framing;

pub mod rights;
pub mod users;

pub mod runtime;

pub mod server;

pub mod client;

pub mod stream;

pub mod events;
pub mod logs;

pub use client::{Client, ClientError, HostEvent};
pub use events::Events;
pub use runtime::{EventStream, Runtime};
pub use server::{bind, listen, serve};
pub use types::*;

/// Version of the protocol spoken by this crate, as told by [`Info::api`].
pub const API_VERSION: u32 = 1;
