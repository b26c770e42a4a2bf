//! Sizes of a client's terminal, as it sends them beside the streams: one JSON object after the other.

use bytes::BytesMut;

use super::stream::Incoming;

/// Most bytes of a size that is not whole yet.
const MAX_SIZE: usize = 4 << 10;

/// Sizes of a terminal, as they change.
pub(crate) struct Resizes {
    incoming: Incoming,
    buffer: BytesMut,
}

/// A size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Size {
    pub(crate) width: u16,
    pub(crate) height: u16,
}

impl Resizes {
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self { incoming, buffer: BytesMut::new() }
    }

    /// The next size; none once there will be no more. One size may come in pieces, and several in one.
    pub(crate) async fn next(&mut self) -> Option<Size> {
        loop {
            let mut sizes = serde_json::Deserializer::from_slice(&self.buffer).into_iter();
            let size = sizes.next();
            let read = sizes.byte_offset();
            match size {
                Some(Ok(size)) => {
                    let _ = self.buffer.split_to(read);
                    return Some(size);
                }
                Some(Err(error)) if !error.is_eof() => return None,
                _ if self.buffer.len() > MAX_SIZE => return None,
                _ => self.buffer.extend_from_slice(&self.incoming.next().await.ok()??),
            }
        }
    }
}
