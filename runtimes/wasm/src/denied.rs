//! What a guest asked for and was not granted: told once per container, in its log and to the
//! agent, with the way to grant it. The guest itself gets the interface's own error.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use coracle_sandbox::{Notice, NoticeKind};

use crate::container::Container;
use crate::logs::Stream;

/// What can be granted, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Import {
    Http,
    Sockets,
    Names,
    Clocks,
}

impl Import {
    /// The interfaces concerned, and the word that grants them.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Import::Http => ("outgoing HTTP (wasi:http)", "http"),
            Import::Sockets => ("sockets (wasi:sockets)", "sockets"),
            Import::Names => ("looking up names (wasi:sockets/ip-name-lookup)", "names"),
            Import::Clocks => ("clocks (wasi:clocks)", "clocks"),
        }
    }
}

/// What has been told.
#[derive(Default)]
pub(crate) struct Denials(AtomicU8);

impl Container {
    /// Tells people that the guest was denied something.
    pub(crate) fn denied(&self, import: Import) {
        let bit = 1 << import as u8;
        if self.denials.0.fetch_or(bit, Relaxed) & bit != 0 {
            return;
        }
        let (what, word) = import.names();
        let message = format!(
            "the component uses {what}, which it is not granted: add \"{word}\" to the annotation \
             coracle.dev/grants of the Pod or of its namespace"
        );
        self.log.write(Stream::Err, &message);
        self.node.events.notice(Notice {
            sandbox: self.sandbox.spec.id.clone(),
            container: self.spec.name.clone(),
            kind: NoticeKind::Denied,
            message,
        });
    }
}
