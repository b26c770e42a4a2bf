//! Descriptors, as the event loop waits for them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::unix::AsyncFd;

/// Has the event loop watch a descriptor that its owner keeps until the watching ends.
pub(crate) fn watch<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsFd` promises that the descriptor stays open and the same for as long as its owner lives, and the owner goes
    // into what is returned.
    unsafe { AsyncFd::register(owner) }.map_err(io::Error::from)
}
