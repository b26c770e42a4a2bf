//! A server: a thread per connection, and an end without haste.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::{sleep, spawn};
use std::time::Duration;

use crate::signals;

/// A component is served on the ports that its Pod declares, whichever they are. A program has to know its own: all that the
/// suite's manifests name, as far as nobody else in the Pod has them.
const PORTS: [u16; 4] = [80, 3000, 7007, 8080];
/// How long to go on when told to end: whoever was sent here before is still answered.
const LAST_ORDERS: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
/// Of a body.
const LARGEST: usize = 16 << 20;

/// A request, its body read.
pub(crate) struct Request {
    /// Without its query.
    pub(crate) path: String,
    pub(crate) query: String,
    /// Of its connection, to see whether somebody still waits for an answer.
    pub(crate) stream: TcpStream,
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: vec![("content-type", "text/plain".to_owned())], body: body.into() }
    }
}

/// Serves HTTP until told to end. No answer: the connection is closed without one.
pub(crate) fn http(
    answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> Result<(), String> {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    serve(move |stream| {
        let _ = converse(stream, &answer, &counted);
    })?;
    while requests.load(SeqCst) > 0 {
        sleep(PAUSE);
    }
    Ok(())
}

/// Has `talk` on every connection until told to end, and for a moment longer.
pub(crate) fn serve(talk: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<(), String> {
    signals::end_later();
    let talk = Arc::new(talk);
    let listeners: Vec<TcpListener> =
        PORTS.iter().filter_map(|port| TcpListener::bind(("0.0.0.0", *port)).ok()).collect();
    if listeners.is_empty() {
        return Err(format!("none of the ports {PORTS:?} is free"));
    }
    for listener in listeners {
        let talk = talk.clone();
        spawn(move || {
            for stream in listener.incoming().flatten() {
                let talk = talk.clone();
                spawn(move || talk(stream));
            }
        });
    }
    while !signals::is_ending() {
        sleep(PAUSE);
    }
    sleep(LAST_ORDERS);
    Ok(())
}

fn converse(
    stream: TcpStream,
    answer: &impl Fn(&Request) -> Option<Reply>,
    requests: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    loop {
        head.clear();
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        requests.fetch_add(1, SeqCst);
        let done = exchange(&head, &mut input, &stream, &mut out, answer);
        requests.fetch_sub(1, SeqCst);
        if !done? {
            return Ok(());
        }
    }
}

/// Answers one request; whether the connection is kept.
fn exchange(
    head: &[String],
    input: &mut BufReader<TcpStream>,
    stream: &TcpStream,
    out: &mut TcpStream,
    answer: &impl Fn(&Request) -> Option<Reply>,
) -> std::io::Result<bool> {
    let target = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let headers = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    let headers: HashMap<String, &str> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim())).collect();
    if headers.get("transfer-encoding") == Some(&"chunked") {
        return echo(input, out).map(|()| true);
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    std::io::copy(&mut input.take(LARGEST.min(length) as u64), &mut std::io::sink())?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request =
        Request { path: path.to_owned(), query: query.to_owned(), stream: stream.try_clone()? };
    let Some(reply) = answer(&request) else { return Ok(false) };
    // Who is told so looks for another server for what it asks next.
    let closes = signals::is_ending() || headers.get("connection") == Some(&"close");
    let mut text =
        format!("HTTP/1.1 {} -\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += if closes { "connection: close\r\n\r\n" } else { "\r\n" };
    out.write_all(&[text.as_bytes(), reply.body.as_bytes()].concat())?;
    Ok(!closes)
}

/// Sends a body in chunks back as it comes: only `/echo` is called with one.
fn echo(input: &mut BufReader<TcpStream>, out: &mut TcpStream) -> std::io::Result<()> {
    out.write_all(b"HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\n")?;
    loop {
        let mut head = String::new();
        input.read_line(&mut head)?;
        let length = u64::from_str_radix(head.trim_end(), 16).map_err(std::io::Error::other)?;
        out.write_all(head.as_bytes())?;
        // With the end of its line.
        std::io::copy(&mut input.take(length + 2), out)?;
        if length == 0 {
            return Ok(());
        }
    }
}
