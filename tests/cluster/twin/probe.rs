//! `probe-http`: misbehaves on request, as far as a container can.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::server::{Reply, Request};

static SERVED: AtomicU32 = AtomicU32::new(0);

pub(crate) fn answer(request: &Request) -> Option<Reply> {
    let served = SERVED.fetch_add(1, Relaxed) + 1;
    let number = |name| parameter(&request.query, name).unwrap_or(0);
    let pause = || sleep(Duration::from_millis(number("ms")));
    Some(match &request.path[..] {
        "/" => Reply::text(200, "probe-http: a test fixture\n"),
        "/health" => {
            let status = std::env::var("HEALTH_STATUS").ok().and_then(|s| s.parse().ok());
            Reply::text(status.unwrap_or(200), "health\n")
        }
        "/count" => Reply::text(200, format!("{served}\n")),
        "/sleep" => {
            pause();
            Reply::text(200, "slept\n")
        }
        "/busy" => {
            spin(parameter(&request.query, "ms"));
            Reply::text(200, "spun\n")
        }
        "/grow" => {
            let kept: Vec<_> = (0..number("mib")).map(|n| vec![n as u8 | 1; 1 << 20]).collect();
            black_box(&kept);
            pause();
            Reply::text(200, format!("{} MiB\n", number("mib")))
        }
        "/trap" => std::process::abort(),
        "/silent" => return None,
        "/log" => {
            for n in 1..=number("lines") {
                let _ = crate::print(&format!("stdout line {n}"));
                let _ = writeln!(std::io::stderr(), "stderr line {n}");
            }
            Reply::text(200, "logged\n")
        }
        "/flood" => {
            flood(number("bytes"), &request.stream);
            return None;
        }
        "/fetch" => fetch(&request.query),
        "/file" => match std::fs::read_to_string(request.query.trim_start_matches("path=")) {
            Ok(content) => Reply::text(200, content),
            Err(error) => Reply::text(404, error.to_string()),
        },
        path => match path.strip_prefix("/status/").map(str::parse) {
            Some(Ok(status)) => Reply::text(status, format!("{status}\n")),
            _ => Reply::text(404, format!("no such path: {path}\n")),
        },
    })
}

fn parameter(query: &str, name: &str) -> Option<u64> {
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    values.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

fn spin(ms: Option<u64>) {
    let end = ms.map(|ms| Instant::now() + Duration::from_millis(ms));
    while end.is_none_or(|end| Instant::now() < end) {
        for n in 0..100_000_u32 {
            black_box(n);
        }
    }
}

/// Prints for as long as somebody waits for an answer.
fn flood(bytes: u64, client: &TcpStream) {
    let end: &[u8] = if bytes > 0 { b"\n" } else { b"" };
    let line = [&vec![b'x'; bytes.clamp(1, 4000) as usize], end].concat();
    let _ = client.set_nonblocking(true);
    // Still there, and silent.
    while client.peek(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

fn fetch(query: &str) -> Reply {
    let url = query.split_once("url=").map_or("", |(_, url)| url);
    match try_fetch(url) {
        Ok((status, body)) => Reply::text(200, format!("{status}\n{body}")),
        Err(error) => Reply::text(502, format!("{url}: {error}\n")),
    }
}

fn try_fetch(url: &str) -> Result<(u16, String), String> {
    let rest = url.strip_prefix("http://").ok_or("no URL of plain HTTP")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let address =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let mut stream = TcpStream::connect(&address).map_err(|e| e.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no whole answer")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no status")?;
    Ok((status, body.to_owned()))
}
