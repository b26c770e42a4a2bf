//! What happens, as lines of a stream.

use serde::{Deserialize, Serialize};

use super::ContainerStatus;

/// A container's state changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event of a host.
    pub seq: u64,
    /// The sandbox.
    pub sandbox: String,
    /// The container, as it is now.
    pub container: ContainerStatus,
}

/// Something that people should know of a container which runs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The sandbox.
    pub sandbox: String,
    /// The container.
    pub container: String,
    /// What kind.
    pub kind: NoticeKind,
    /// For people.
    pub message: String,
}

/// What a [`Notice`] tells of. A host sends one of a kind for a container at most every few seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NoticeKind {
    /// A guest trapped; its backtrace is in the container's log.
    Trap,
    /// A guest used what it was not granted.
    Denied,
    /// A limit was met: requests, time, size, sockets, log.
    Limit,
    /// Instances are not used again, though the container asks for it.
    NotReused,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// One line of `GET /v1/events`. The first is always `Start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum EventLine {
    /// Where this stream begins.
    Start {
        /// [`Info::instance`] of the host.
        instance: String,
        /// Sequence number of the last event before this stream.
        last: u64,
        /// Events after the wanted one are no longer held (or it is another host's number): list
        /// the sandboxes again. The stream goes on with what happens from now.
        gap: bool,
    },
    /// A change.
    Event(Event),
    /// Something to tell people. Not numbered, not repeated: whoever does not listen misses it.
    Notice(Notice),
}
