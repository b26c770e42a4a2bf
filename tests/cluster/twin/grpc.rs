//! `probe-grpc`: answers `grpc.health.v1.Health/Check`, with as much of HTTP/2 as that takes. A service called `down` is not
//! serving; all others are.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// What a client opens a connection with.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// As much as a frame may have where nothing else was agreed upon.
const LARGEST: usize = 16 << 10;

pub(crate) fn talk(mut stream: TcpStream) {
    // A client that has gone is no error of ours.
    let _ = converse(&mut stream);
}

fn converse(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; PREFACE])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        if payload.len() > LARGEST {
            return Ok(());
        }
        stream.read_exact(&mut payload)?;
        let id = u32::from_be_bytes(id);
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            DATA => {
                let body = bodies.entry(id).or_default();
                body.extend(payload);
                if flags & END_STREAM != 0 {
                    let body = bodies.remove(&id).unwrap_or_default();
                    stream.write_all(&answer(id, &body))?;
                }
            }
            // What it asks for is not looked at: there is only one thing.
            _ => {}
        }
    }
}

/// To a message with its frame of gRPC's.
fn answer(id: u32, body: &[u8]) -> Vec<u8> {
    // Field 1, a string: its tag, its length, its bytes.
    let service = body.get(7..).unwrap_or_default();
    let status = if service == b"down" { 2 } else { 1 };
    let ok = [&[0x88], &header("content-type", "application/grpc")[..]].concat();
    let parts = [
        frame(HEADERS, END_HEADERS, id, &ok),
        frame(DATA, 0, id, &[0, 0, 0, 0, 2, 8, status]),
        frame(HEADERS, END_HEADERS | END_STREAM, id, &header("grpc-status", "0")),
    ];
    parts.concat()
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// A header as HPACK has it without tables: a literal with a new name.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}
