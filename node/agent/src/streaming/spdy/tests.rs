use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::dictionary::DICTIONARY;
use super::frame::{Frame, MAX_CONTROL, MAX_PIECE, Reader};
use super::headers::{Decoder, Encoder};
use super::*;

/// The first thing that kubectl 1.29 sends for `port-forward pod/p :8080` once somebody connects: the stream for errors.
const KUBECTL: &str = "800300010000003e0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614\
                       cb45e01c60616061c0c0c0c0590489c64c50f2663400000000ffff";

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Everything in some bytes that arrive in pieces of `step`.
fn frames(bytes: &[u8], step: usize) -> Result<Vec<Frame>, Broken> {
    let (mut reader, mut buffer, mut out) = (Reader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = reader.next(&mut buffer)? {
            out.push(frame);
        }
    }
    Ok(out)
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u8(flags);
    out.put_uint(body.len() as u64, 3);
    out.put_slice(body);
    out.to_vec()
}

fn syn_stream(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    control(1, flags, &[&stream.to_be_bytes()[..], &[0; 6], block].concat())
}

fn data(stream: u32, fin: bool, bytes: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::data(&mut out, stream, fin, bytes.len());
    out.extend_from_slice(bytes);
    out.to_vec()
}

/// The client's end of a connection.
pub(crate) struct Client {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    next: u32,
    buffer: BytesMut,
    reader: Reader,
}

impl Client {
    pub(crate) fn connect() -> (Client, Connection, mpsc::Receiver<Opened>) {
        let (io, server) = tokio::io::duplex(16 << 10);
        let (reader, writer) = tokio::io::split(server);
        let (connection, accepting) = serve(reader, writer);
        let client = Client {
            io,
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            next: 1,
            buffer: BytesMut::new(),
            reader: Reader::default(),
        };
        (client, connection, accepting)
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let (stream, block) = (self.next, self.encoder.encode(headers));
        self.next += 2;
        self.send(&syn_stream(stream, 0, &block)).await;
        stream
    }

    /// The next frame; none at the end.
    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.reader.next(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let read = self.io.read_buf(&mut self.buffer);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await.unwrap();
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn replied(&mut self, to: u32) {
        match self.frame().await {
            Some(Frame::Headers { stream, block, .. }) => {
                assert_eq!(stream, to);
                assert_eq!(self.decoder.decode(&block).unwrap(), Headers::default());
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn data(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        self.send(&data(stream, fin, bytes)).await;
    }

    /// What comes on a stream until it ends; what comes on others is passed over.
    pub(crate) async fn until_end(&mut self, wanted: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.frame().await {
                Some(Frame::Data { stream, fin, data }) if stream == wanted => {
                    all.extend_from_slice(&data);
                    if fin {
                        return all;
                    }
                }
                Some(Frame::Data { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn refused(&mut self, wanted: u32) {
        loop {
            match self.frame().await {
                Some(Frame::Reset { stream }) if stream == wanted => return,
                Some(Frame::Data { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_kubectl_sends_is_understood() {
    let bytes = hex(KUBECTL);
    for step in [1, 7, bytes.len()] {
        let mut frames = frames(&bytes, step).unwrap();
        let Some(Frame::SynStream { stream: 1, fin: false, block }) = frames.pop() else {
            panic!("{frames:?}")
        };
        let headers = Decoder::new().decode(&block).unwrap();
        assert_eq!(headers.get("streamtype"), Some("error"));
        assert_eq!(headers.get("port"), Some("8080"));
        assert_eq!(headers.get("requestid"), Some("0"));
        assert_eq!(headers.get("nothing"), None);
    }
}

#[test]
fn header_blocks_refer_to_earlier_ones() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let mut sizes = Vec::new();
    for number in 0..100 {
        let number = number.to_string();
        let block = encoder.encode(&[("streamtype", "data"), ("requestid", &number)]);
        sizes.push(block.len());
        let headers = decoder.decode(&block).unwrap();
        assert_eq!(headers.get("streamtype"), Some("data"));
        assert_eq!(headers.get("requestid"), Some(number.as_str()));
    }
    assert!(sizes[1] < sizes[0], "{sizes:?}");
    // The dictionary is the protocol's, not just the same on both of our sides.
    let mut deflate = Compress::new(Compression::fast(), true);
    assert_eq!(deflate.set_dictionary(DICTIONARY).unwrap(), 0xe3c6_a7c2);
}

#[test]
fn malformed_frames_are_refused() {
    let refused = |bytes: &[u8], why: &'static str| {
        assert_eq!(frames(bytes, 3), Err(Broken::Protocol(why)), "{bytes:?}");
    };
    refused(b"\x80GET / HTTP/1.1\r\n\r\n", "not version 3 of SPDY");
    refused(&[0x80, 2, 0, 6, 0, 0, 0, 0], "not version 3 of SPDY");
    refused(&data(0, false, b"x"), "data on stream 0");
    refused(&control(1, 0, &[0; 9]), "SYN_STREAM is too short");
    refused(&control(2, 0, &[0; 3]), "a header frame is too short");
    refused(&control(3, 0, &[]), "RST_STREAM is too short");
    refused(&control(6, 0, &[1]), "PING is too short");
    let mut long = control(1, 0, &[0; 16]);
    long[5..8].copy_from_slice(&((MAX_CONTROL + 1) as u32).to_be_bytes()[1..]);
    refused(&long, "a control frame of more than 64 KiB");
    // Kinds that are not known are passed over, with whatever they carry.
    let bytes = [control(99, 0xff, &[1; 100]), control(4, 0, &[0; 4]), control(9, 0, &[0; 8])];
    let ignored = frames(&bytes.concat(), 1).unwrap();
    assert_eq!(ignored, [Frame::Ignored, Frame::Ignored, Frame::Ignored]);
}

#[test]
fn long_data_comes_in_pieces() {
    let bytes = vec![7; 3 * MAX_PIECE + 1];
    let found = frames(&data(5, true, &bytes), usize::MAX).unwrap();
    let mut sizes = Vec::new();
    for frame in found {
        let Frame::Data { stream: 5, fin, data } = frame else { panic!("{frame:?}") };
        sizes.push((data.len(), fin));
    }
    let whole = (MAX_PIECE, false);
    assert_eq!(sizes, [whole, whole, whole, (1, true)]);
}

/// A header block that is small on the wire and large in memory.
fn bomb(plain: &[u8]) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::best(), true);
    let mut out = Vec::with_capacity(1 << 20);
    deflate.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
    out
}

#[test]
fn header_blocks_have_limits() {
    let refused = |block: &[u8], why: &'static str| {
        assert_eq!(Decoder::new().decode(block), Err(Broken::Protocol(why)));
    };
    let zeros = bomb(&vec![0; 8 << 20]);
    assert!(zeros.len() < 32 << 10, "{}", zeros.len());
    refused(&zeros, "a header block of more than 16 KiB");
    refused(&bomb(&u32::MAX.to_be_bytes()), "more than 64 headers");
    refused(&bomb(&65u32.to_be_bytes()), "more than 64 headers");
    refused(&bomb(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), "a header block is too short");
    refused(&bomb(&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]), "a header block is too short");
    refused(&[], "a header block is too short");
    refused(b"\x78\xbb and so on", "another dictionary of headers");
    refused(b"\x78\x9c and so on", "a header block is not compressed rightly");
    let mut ended = Vec::with_capacity(100);
    let mut deflate = Compress::new(Compression::best(), true);
    deflate.compress_vec(&[0; 4], &mut ended, FlushCompress::Finish).unwrap();
    refused(&ended, "the compression of headers ended");
}

#[tokio::test]
async fn streams_carry_data_both_ways_and_end_by_halves() {
    let (mut client, connection, mut accepting) = Client::connect();
    let stream = client.open(&[("streamtype", "data")]).await;
    let mut opened = accepting.recv().await.unwrap();
    assert_eq!((opened.id, opened.headers.get("streamtype")), (stream, Some("data")));
    opened.accept().await.unwrap();
    client.replied(stream).await;

    client.send(&data(stream, false, b"ping")).await;
    assert_eq!(opened.incoming.next().await, Ok(Some(Bytes::from_static(b"ping"))));
    client.send(&data(stream, true, b"last")).await;
    assert_eq!(opened.incoming.next().await, Ok(Some(Bytes::from_static(b"last"))));
    for _ in 0..2 {
        assert_eq!(opened.incoming.next().await, Ok(None));
    }
    // The other half is still open.
    opened.outgoing.send(Bytes::from_static(b"pong")).await.unwrap();
    opened.outgoing.finish().await;
    let piece = |fin, data| Some(Frame::Data { stream, fin, data: Bytes::from_static(data) });
    assert_eq!(client.frame().await, piece(false, b"pong"));
    assert_eq!(client.frame().await, piece(true, b""));

    // A client's pings come back, a server's do not.
    client.send(&[control(6, 0, &[0, 0, 0, 8]), control(6, 0, &[0, 0, 0, 9])].concat()).await;
    assert_eq!(client.frame().await, Some(Frame::Ping(9)));
    let closing = tokio::spawn(connection.close());
    assert_eq!(client.frame().await, Some(Frame::GoAway));
    assert_eq!(client.frame().await, None);
    assert!(!closing.is_finished(), "the client may still read");
    drop(client);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_reset_ends_one_stream_and_a_lost_client_all() {
    let (mut client, connection, mut accepting) = Client::connect();
    let first = client.open(&[]).await;
    client.open(&[]).await;
    let mut one = accepting.recv().await.unwrap();
    let mut other = accepting.recv().await.unwrap();
    client.send(&data(first, false, b"before")).await;
    client.send(&control(3, 0, &[0, 0, 0, first as u8, 0, 0, 0, 5])).await;
    assert_eq!(one.incoming.next().await, Ok(Some(Bytes::from_static(b"before"))));
    assert_eq!(one.incoming.next().await, Err(Broken::Reset));
    assert!(one.outgoing.send(Bytes::from_static(b"x")).await.is_err());
    assert!(!other.outgoing.broken().is_cancelled());
    drop(client);
    assert_eq!(other.incoming.next().await, Err(Broken::Gone));
    connection.gone().cancelled().await;
    assert!(other.outgoing.send(Bytes::from_static(b"x")).await.is_err());
    assert!(accepting.recv().await.is_none());
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_so() {
    let even = syn_stream(2, 0, &Encoder::new().encode(&[]));
    let mut encoder = Encoder::new();
    let twice = [encoder.encode(&[]), encoder.encode(&[])];
    let twice = twice.map(|block| syn_stream(7, 0, &block)).concat();
    for bytes in [b"GET / HTTP/1.1\r\n".to_vec(), even, twice, syn_stream(1, 0, b"junk junk")] {
        let (mut client, connection, mut accepting) = Client::connect();
        tokio::spawn(async move { while accepting.recv().await.is_some() {} });
        client.send(&bytes).await;
        assert_eq!(client.frame().await, Some(Frame::GoAway), "{bytes:?}");
        assert_eq!(client.frame().await, None);
        connection.gone().cancelled().await;
    }
}

#[tokio::test]
async fn a_flood_of_streams_is_refused_beyond_the_limit() {
    let (mut client, _connection, mut accepting) = Client::connect();
    let kept = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(opened) = accepting.recv().await {
            kept.push(opened);
        }
        kept.len()
    });
    for _ in 0..MAX_STREAMS {
        client.open(&[]).await;
    }
    let refused = client.open(&[]).await;
    assert_eq!(client.frame().await, Some(Frame::Reset { stream: refused }));
    drop(client);
    assert_eq!(kept.await.unwrap(), MAX_STREAMS);
}

#[tokio::test]
async fn a_client_waits_until_what_it_sent_is_taken() {
    let (mut client, _connection, mut accepting) = Client::connect();
    let stream = client.open(&[]).await;
    let mut opened = accepting.recv().await.unwrap();
    let chunk = data(stream, false, &[1; 16 << 10]);
    let mut sent = 0;
    // Nobody takes anything: the connection stands still before it costs much memory.
    while let Ok(done) =
        tokio::time::timeout(Duration::from_millis(500), client.io.write_all(&chunk)).await
    {
        done.unwrap();
        sent += chunk.len();
        assert!(sent < 8 << 20, "{sent} bytes were taken from the client");
    }
    assert!(sent > 1 << 20, "only {sent} bytes were taken from the client");
    // Then it goes on. (What timed out above was sent in part, within a data frame.)
    let mut taken = 0;
    while taken < 2 << 20 {
        taken += opened.incoming.next().await.unwrap().unwrap().len();
    }
    // Many small pieces cost more than their bytes.
    drop(opened);
}

/// Whatever arrives, the server neither panics nor hangs, and what it sends is valid.
#[tokio::test]
async fn nonsense_does_no_harm() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut encoder = Encoder::new();
        let mut bytes = Vec::new();
        let mut next = 1;
        for _ in 0..random.random_range(1..40) {
            let stream = random.random_range(0..12);
            let length = random.random_range(0..300);
            let body: Vec<u8> = (0..length).map(|_| random.random()).collect();
            bytes.extend(match random.random_range(0..8) {
                0..=2 => {
                    next += 2;
                    syn_stream(next, random.random_range(0..2), &encoder.encode(&[("port", "80")]))
                }
                3 | 4 => data(stream + 1, random.random(), &body),
                5 => control(3, 0, &[&[0, 0, 0, stream as u8][..], &body].concat()),
                6 => control(random.random_range(3..12), random.random(), &body),
                _ => control(6, 0, &[&[0, 0, 0, stream as u8][..], &body].concat()),
            });
        }
        // Half of them are wrong somewhere.
        if seed % 2 == 1 {
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
        }
        let (mut client, connection, mut accepting) = Client::connect();
        let server = tokio::spawn(async move {
            while let Some(mut opened) = accepting.recv().await {
                if opened.accept().await.is_err() {
                    return;
                }
                tokio::spawn(async move {
                    while let Ok(Some(data)) = opened.incoming.next().await {
                        if opened.outgoing.send(data).await.is_err() {
                            return;
                        }
                    }
                    opened.outgoing.finish().await;
                });
            }
        });
        let (mut reader, mut writer) = tokio::io::split(client.io);
        let sending = tokio::spawn(async move {
            // The server may close before it has read everything.
            let _ = writer.write_all(&bytes).await;
            let _ = writer.shutdown().await;
        });
        let mut answer = Vec::new();
        let reading = reader.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap().unwrap();
        client.buffer.extend_from_slice(&answer);
        while client.reader.next(&mut client.buffer).unwrap().is_some() {}
        sending.await.unwrap();
        connection.gone().cancelled().await;
        server.await.unwrap();
    }
}
