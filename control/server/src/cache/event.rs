//! A change on its way to watchers, with the bytes that it has become.
//!
//! Thousands of agents watch the same Nodes and EndpointSlices in the same form. Whoever of them comes first writes the event,
//! the others send the same bytes. They last as long as the event is on its way: what the hub keeps for later is the change.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use coracle_api::Change;

use super::lock;

/// A form in which an event is alike for all who want it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// The object as it is stored.
    Json,
    /// The object in protobuf.
    Protobuf,
    /// Its metadata; of `v1`, else `v1beta1`.
    MetadataJson { v1: bool },
    /// Its metadata in protobuf.
    MetadataProtobuf { v1: bool },
}

/// A change, as watchers get it.
pub(crate) struct Event {
    change: Arc<Change>,
    /// A handful at most: by the form and what the event is called.
    written: Mutex<Vec<(Wire, &'static str, Bytes)>>,
}

impl Event {
    pub(crate) fn of(change: Arc<Change>) -> Arc<Self> {
        Arc::new(Self { change, written: Mutex::default() })
    }

    /// The event in a form, under a name (`ADDED`); `write` is called by the first who asks for it.
    pub(crate) fn written(
        &self,
        wire: Wire,
        name: &'static str,
        write: impl FnOnce() -> Bytes,
    ) -> Bytes {
        // Held meanwhile, so that nobody else begins the same work.
        let mut written = lock(&self.written);
        let known = written.iter().find(|(form, called, _)| (*form, *called) == (wire, name));
        if let Some((.., bytes)) = known {
            return bytes.clone();
        }
        let bytes = write();
        written.push((wire, name, bytes.clone()));
        bytes
    }
}

impl Deref for Event {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_each_name_is_written_once() {
        let event = Event::of(Arc::new(Change { revision: 7, old: None, new: None }));
        let written = |wire, name, bytes: &'static str| {
            event.written(wire, name, || Bytes::from_static(bytes.as_bytes()))
        };
        assert_eq!(written(Wire::Json, "ADDED", "first"), "first");
        assert_eq!(written(Wire::Json, "ADDED", "again"), "first");
        // What is new to one watcher is changed for another.
        assert_eq!(written(Wire::Json, "MODIFIED", "changed"), "changed");
        assert_eq!(written(Wire::Protobuf, "ADDED", "short"), "short");
        assert_eq!(written(Wire::MetadataJson { v1: true }, "ADDED", "less"), "less");
        assert_eq!(written(Wire::MetadataJson { v1: false }, "ADDED", "old"), "old");
        assert_eq!(written(Wire::Json, "ADDED", "again"), "first");
    }
}
