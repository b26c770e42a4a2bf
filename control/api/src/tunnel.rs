//! The connection that an agent keeps open to the server, so that it can be called where nobody reaches its machine.
//!
//! The agent asks for it with GET of [`PATH`] and an upgrade to [`PROTOCOL`], as the node whose certificate it shows. From
//! then on it is the server that asks, in HTTP/2: each CONNECT is a connection to the agent's kubelet API, with the TLS that
//! connections to its port have. So a tunnel is a way and gives no rights; both sides show who they are in it, each time.

/// Where agents ask for it.
pub const PATH: &str = "/coracle/v1/tunnel";
/// What the connection is upgraded to.
pub const PROTOCOL: &str = "coracle-tunnel/1";
/// Connections that may be open through one tunnel.
pub const STREAMS: u32 = 256;
/// Bytes of one of them that may be under way to a side that does not read.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of all of them: one that is not read must not hold up the others.
pub const WINDOW: u32 = STREAMS * STREAM_WINDOW;

/// What a request to an agent for a connection to a port of one of its node's Pods is upgraded to: from then on the bytes are
/// those of that connection. Its path is `/dial/NAMESPACE/POD?port=PORT`.
pub const DIAL: &str = "coracle-dial/1";
