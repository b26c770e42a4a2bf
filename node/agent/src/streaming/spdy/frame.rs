//! Frames of SPDY/3.1 on the wire: reading them out of a buffer, and writing those that a server sends.
//!
//! Kubernetes' clients speak the dialect of moby's spdystream: no flow control (they neither send `WINDOW_UPDATE` nor wait
//! for it), no push, no settings. Frames of these kinds are checked and passed over.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Broken;

/// Most bytes of a frame that is not data. Header blocks of Kubernetes' clients have about a hundred.
pub(super) const MAX_CONTROL: usize = 64 << 10;
/// Data frames are handed on in pieces of this size at most, however long they are.
pub(super) const MAX_PIECE: usize = 32 << 10;

const VERSION: u16 = 3;
const HEADER: usize = 8;
/// Flag of the last frame that a side sends on a stream.
const FIN: u8 = 1;

/// What a client sends, as far as a server has to act on it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream opens; the header block is still compressed.
    SynStream {
        /// Its number.
        stream: u32,
        /// Nothing more will come on it.
        fin: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// Headers that belong to a stream already opened. They mean nothing here, but the next block is compressed with
    /// reference to them.
    Headers {
        /// Which stream.
        stream: u32,
        /// Nothing more will come on it.
        fin: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// A piece of a data frame.
    Data {
        /// Which stream.
        stream: u32,
        /// Nothing more will come on it.
        fin: bool,
        /// At most [`MAX_PIECE`] bytes.
        data: Bytes,
    },
    /// A stream is given up.
    Reset {
        /// Which.
        stream: u32,
    },
    /// To be sent back if its number is odd, which is a client's.
    Ping(u32),
    /// The client opens no more streams.
    GoAway,
    /// Nothing to act on.
    Ignored,
}

/// Finds frames in what arrives.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// A data frame whose bytes are still coming: stream, whether it ends the stream, and how many bytes are missing.
    within: Option<(u32, bool, usize)>,
}

impl Reader {
    /// The next frame, once enough of it is in the buffer.
    ///
    /// # Errors
    /// When the bytes are no SPDY/3.1: the connection is of no more use.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Broken> {
        if let Some((stream, fin, left)) = self.within {
            return Ok(self.piece(stream, fin, left, buffer));
        }
        let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let mut header = &header[..];
        let first = header.get_u32();
        let flags = header.get_u8();
        let length = header.get_uint(3) as usize;
        if first & 0x8000_0000 == 0 {
            buffer.advance(HEADER);
            let fin = flags & FIN != 0;
            if first == 0 {
                return Err(Broken::Protocol("data on stream 0"));
            }
            if length == 0 {
                return Ok(Some(Frame::Data { stream: first, fin, data: Bytes::new() }));
            }
            self.within = Some((first, fin, length));
            return Ok(self.piece(first, fin, length, buffer));
        }
        if (first >> 16) as u16 & 0x7fff != VERSION {
            return Err(Broken::Protocol("not version 3 of SPDY"));
        }
        if length > MAX_CONTROL {
            return Err(Broken::Protocol("a control frame of more than 64 KiB"));
        }
        if buffer.len() < HEADER + length {
            buffer.reserve(HEADER + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEADER);
        let body = buffer.split_to(length).freeze();
        control(first as u16, flags, body).map(Some)
    }

    /// As much of a data frame as there is.
    fn piece(
        &mut self,
        stream: u32,
        fin: bool,
        left: usize,
        buffer: &mut BytesMut,
    ) -> Option<Frame> {
        let take = left.min(buffer.len()).min(MAX_PIECE);
        if take == 0 {
            return None;
        }
        let data = buffer.split_to(take).freeze();
        let left = left - take;
        self.within = (left > 0).then_some((stream, fin, left));
        Some(Frame::Data { stream, fin: fin && left == 0, data })
    }
}

fn control(kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, Broken> {
    let fin = flags & FIN != 0;
    let mut number = |what| {
        let number = body.try_get_u32().map_err(|_| Broken::Protocol(what))?;
        Ok(number & 0x7fff_ffff)
    };
    Ok(match kind {
        1 => {
            let stream = number("SYN_STREAM is too short")?;
            // The stream that it is associated with, its priority and its slot: of no use here.
            if body.len() < 6 {
                return Err(Broken::Protocol("SYN_STREAM is too short"));
            }
            body.advance(6);
            Frame::SynStream { stream, fin, block: body }
        }
        // SYN_REPLY: this server opens no streams that could be replied to. Its block is compressed like any other.
        2 | 8 => {
            let stream = number("a header frame is too short")?;
            Frame::Headers { stream, fin, block: body }
        }
        3 => Frame::Reset { stream: number("RST_STREAM is too short")? },
        6 => {
            let id = body.try_get_u32().map_err(|_| Broken::Protocol("PING is too short"))?;
            Frame::Ping(id)
        }
        7 => Frame::GoAway,
        // SETTINGS and WINDOW_UPDATE; kinds that are not known are to be passed over.
        _ => Frame::Ignored,
    })
}

fn head(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u8(flags);
    out.put_uint(length as u64, 3);
}

/// Writes `SYN_REPLY`.
pub(super) fn reply(out: &mut BytesMut, stream: u32, block: &[u8]) {
    head(out, 2, 0, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(block);
}

/// Writes a data frame's head; that many bytes are to follow, less than 16 MiB.
pub(super) fn data(out: &mut BytesMut, stream: u32, fin: bool, length: usize) {
    debug_assert!(length < 1 << 24, "a data frame's length has three bytes");
    out.put_u32(stream);
    out.put_u8(if fin { FIN } else { 0 });
    out.put_uint(length as u64, 3);
}

/// Writes `RST_STREAM` for a stream that is not taken.
pub(super) fn reset(out: &mut BytesMut, stream: u32) {
    const REFUSED_STREAM: u32 = 3;
    head(out, 3, 0, 8);
    out.put_u32(stream);
    out.put_u32(REFUSED_STREAM);
}

/// Writes `PING`.
pub(super) fn ping(out: &mut BytesMut, id: u32) {
    head(out, 6, 0, 4);
    out.put_u32(id);
}

/// Writes `GOAWAY`: the last stream that was served, and whether the client broke the protocol.
pub(super) fn go_away(out: &mut BytesMut, last: u32, protocol_error: bool) {
    head(out, 7, 0, 8);
    out.put_u32(last);
    out.put_u32(u32::from(protocol_error));
}
