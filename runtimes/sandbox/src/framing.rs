//! Requests whose length is said in two ways: with a Content-Length and with a Transfer-Encoding.
//!
//! Two servers that read such a request one after the other may disagree on where it ends, and take what follows for two
//! different requests (RFC 9112, sections 6.1 and 11.2). Who says both is refused here with 400. hyper itself goes by the
//! Transfer-Encoding, takes the other header away and closes the connection after its answer, so that nobody sees it
//! afterwards. So a connection's bytes are looked at on their way to hyper, no further than is needed to know where the heads
//! of requests are.
//!
//! What a client still sends that was refused is read for a while, so that it hears why.
//!
//! Whoever serves HTTP to strangers does it through this: the Wasm host, and the proxy of Ingresses.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// An answer of no more bytes is copied together before it is written: one `send` costs less than one `writev`.
const SHORT: usize = 1024;

/// Bytes of a line that are looked at: enough for the names and values that count.
const LOOK: usize = 64;

/// How long a client that was refused may go on sending, and how much of that is read.
const LINGER: Duration = Duration::from_secs(1);
const MOST_LEFT: usize = 1 << 20;

/// Whose connection it is, as far as its bytes are concerned.
pub trait Watch: Send + Sync {
    /// Request number `request`, from 1, says its length in two ways: it is to be refused.
    fn ambiguous(&self, request: u32);
    /// Its last request was refused before it was read to its end.
    fn is_refused(&self) -> bool;
}

/// A connection whose bytes are looked at.
pub struct Framed<S, W> {
    stream: S,
    scan: Scan,
    client: Arc<W>,
    /// Since it was shut down.
    linger: Option<Pin<Box<Sleep>>>,
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin, W: Watch> Framed<S, W> {
    /// A connection from its first byte on.
    pub fn new(stream: S, client: Arc<W>) -> Self {
        Framed { stream, scan: Scan::default(), client, linger: None, left: MOST_LEFT }
    }

    /// Reads what nobody wants. A socket that is closed with something unread is reset, and the answer that is still on its way
    /// to the client is lost.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 4096];
        while self.left > 0 {
            let mut rest = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut rest) {
                Poll::Ready(Ok(())) if !rest.filled().is_empty() => {
                    self.left = self.left.saturating_sub(rest.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                // Whoever was refused may not have noticed yet.
                Poll::Pending if self.client.is_refused() => {
                    let linger = || Box::pin(tokio::time::sleep(LINGER));
                    return self.linger.get_or_insert_with(linger).as_mut().poll(cx);
                }
                Poll::Pending => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin, W: Watch> AsyncRead for Framed<S, W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if let Some(request) = this.scan.see(&buf.filled()[before..]) {
            this.client.ambiguous(request);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, W: Watch> AsyncWrite for Framed<S, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length <= SHORT {
            let mut whole = [0; SHORT];
            let mut at = 0;
            for slice in slices {
                whole[at..at + slice.len()].copy_from_slice(slice);
                at += slice.len();
            }
            return Pin::new(&mut self.stream).poll_write(cx, &whole[..length]);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.poll_rest(cx).map(Ok)
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// The line that a request begins with.
    #[default]
    Request,
    Header,
    /// So many bytes of a body.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of a chunk's last line.
    ChunkEnd,
    Trailer,
    /// Nothing more is looked at: it is no HTTP/1.1, or hyper will refuse it.
    Anything,
}

/// Where a connection is in its requests.
#[derive(Debug, Default)]
struct Scan {
    next: Next,
    line: Line,
    requests: u32,
    length: Option<u64>,
    coded: bool,
    odd: bool,
}

impl Scan {
    /// Looks at what has come; the number of a request, from 1, that says its length twice.
    fn see(&mut self, mut bytes: &[u8]) -> Option<u32> {
        while !bytes.is_empty() {
            match self.next {
                Next::Anything => return None,
                Next::Body(left) => bytes = self.skip(bytes, left, Next::Body, Next::Request),
                Next::Chunk(left) => bytes = self.skip(bytes, left, Next::Chunk, Next::ChunkEnd),
                _ => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    self.line.extend(&bytes[..end.unwrap_or(bytes.len())]);
                    let end = end?;
                    bytes = &bytes[end + 1..];
                    let refused = self.end();
                    self.line.clear();
                    if refused {
                        return Some(self.requests);
                    }
                }
            }
        }
        None
    }

    fn skip<'a>(
        &mut self,
        bytes: &'a [u8],
        left: u64,
        same: fn(u64) -> Next,
        then: Next,
    ) -> &'a [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.next = if left == 0 { then } else { same(left) };
        &bytes[here..]
    }

    /// The line is whole; true if it ends a head that is to be refused.
    fn end(&mut self) -> bool {
        let text = self.line.text();
        self.next = match self.next {
            // Empty lines may come before a request.
            Next::Request if text.is_empty() => Next::Request,
            Next::Request if text.starts_with(b"PRI ") => Next::Anything,
            Next::Request => Next::Header,
            Next::Header if text.is_empty() => return self.end_of_head(),
            Next::Header => {
                self.header();
                Next::Header
            }
            Next::ChunkSize => match self.line.size() {
                Some(0) => Next::Trailer,
                Some(size) => Next::Chunk(size),
                None => Next::Anything,
            },
            Next::ChunkEnd => Next::ChunkSize,
            Next::Trailer if text.is_empty() => Next::Request,
            other => other,
        };
        false
    }

    fn header(&mut self) {
        let text = self.line.text();
        let Some(colon) = text.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = text.split_at(colon);
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.coded = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let text = std::str::from_utf8(&value[1..]).unwrap_or_default();
            let digits = Some(text.trim()).filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
            // Nobody says it twice, or writes a number so that it cannot be read here, but for mischief.
            self.odd |= self.length.is_some() || self.line.cut;
            self.length = digits.and_then(|digits| digits.parse().ok());
            self.odd |= self.length.is_none();
        }
    }

    fn end_of_head(&mut self) -> bool {
        self.requests += 1;
        let (length, coded) = (self.length.take(), std::mem::take(&mut self.coded));
        let odd = std::mem::take(&mut self.odd);
        let refused = odd || length.is_some() && coded;
        self.next = match length.unwrap_or(0) {
            _ if refused => Next::Anything,
            _ if coded => Next::ChunkSize,
            0 => Next::Request,
            length => Next::Body(length),
        };
        refused
    }
}

/// How a line begins. Its buffer is the connection's: there is a line for every header.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    /// There was more of it.
    cut: bool,
}

impl Line {
    fn clear(&mut self) {
        self.bytes.clear();
        self.cut = false;
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = LOOK - self.bytes.len();
        self.cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(&self) -> &[u8] {
        if self.cut { &self.bytes } else { self.bytes.strip_suffix(b"\r").unwrap_or(&self.bytes) }
    }

    /// Of a chunk: what stands before extensions.
    fn size(&self) -> Option<u64> {
        let text = std::str::from_utf8(self.text()).ok()?;
        let digits = text.split([';', ' ', '\t']).next()?;
        u64::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which request is refused, however the bytes come in.
    fn check(text: &str, expected: Option<u32>) {
        for piece in [1, 7, text.len()] {
            let mut scan = Scan::default();
            let found = text.as_bytes().chunks(piece).find_map(|bytes| scan.see(bytes));
            assert_eq!(found, expected, "in pieces of {piece}: {text}");
        }
    }

    #[test]
    fn a_length_that_is_said_twice_is_seen() {
        let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let sized = "POST / HTTP/1.1\r\nContent-Length: 24\r\n\r\ncontent-length: 3\r\n\r\nxyz";
        let chunked = "POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n\
            1a;x=1\r\ncontent-length: 3\r\n\r\nxyzabc\r\n3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n";
        let both =
            "POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let other = "\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length:3\r\n\r\n";
        for before in ["", plain, sized, chunked] {
            check(&format!("{before}{plain}{plain}"), None);
            let at = 1 + u32::from(!before.is_empty());
            check(&format!("{before}{both}"), Some(at));
            check(&format!("{before}{other}{plain}"), Some(at));
        }
    }

    #[test]
    fn numbers_that_hide_are_refused_and_what_is_no_http_is_left_alone() {
        let long = "0".repeat(100);
        check(&format!("POST / HTTP/1.1\r\ncontent-length: {long}3\r\n\r\nabc"), Some(1));
        for value in ["3, 3", "+3", "3\r\nContent-Length: 3"] {
            check(&format!("POST / HTTP/1.1\r\ncontent-length: {value}\r\n\r\nabc"), Some(1));
        }
        let long = "x".repeat(1000);
        check(&format!("GET /{long} HTTP/1.1\r\n{long}: content-length: 3\r\n\r\n"), None);
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nContent-Length: x\r\n\r\n", None);
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nContent-Length: x\r\n\r\n",
            None,
        );
    }
}
