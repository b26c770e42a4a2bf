//! What strangers may not do.

use std::time::Duration;

use bytes::Bytes;
use coracle_ingress::Limits;
use coracle_ingress::config::Protocol;
use coracle_ingress::settings::Settings;
use futures::StreamExt as _;
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::backends::Endpoint;
use super::fixture::{Proxy, ask, get, leads, leads_to, say};

async fn served() -> (Proxy, Endpoint) {
    let (proxy, endpoint) = (Proxy::start().await, Endpoint::start().await);
    proxy.serve(&leads_to("a", &[endpoint.address], Protocol::Http1)).await;
    (proxy, endpoint)
}

#[tokio::test]
async fn nothing_is_smuggled() {
    let (proxy, endpoint) = served().await;
    let hidden = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(300 << 10));
    let name = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "z".repeat(300 << 10));
    let post =
        |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n{body}");
    let chunked = "transfer-encoding: chunked\r\n";
    let cases = [
        (post(&format!("content-length: 5\r\n{chunked}"), &format!("0\r\n\r\n{hidden}")), 400),
        (post(&format!("{chunked}content-length: 5\r\n"), &format!("0\r\n\r\n{hidden}")), 400),
        (post("content-length: 3\r\ncontent-length: 3\r\n", &format!("abc{hidden}")), 400),
        (post("content-length: 3\r\ncontent-length: 40\r\n", &format!("abc{hidden}")), 400),
        (post("content-length: 3, 3\r\n", &format!("abc{hidden}")), 400),
        (post("content-length: +3\r\n", &format!("abc{hidden}")), 400),
        (post("content-length: -1\r\n", hidden), 400),
        (post("transfer-encoding: gzip, chunked\r\n", &format!("0\r\n\r\n{hidden}")), 400),
        (
            post(
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
                &format!("0\r\n\r\n{hidden}"),
            ),
            400,
        ),
        (post("transfer-encoding: identity\r\n", hidden), 400),
        (post("transfer-encoding : chunked\r\n", &format!("0\r\n\r\n{hidden}")), 400),
        (post("x: y\r\n content-length: 5\r\n", hidden), 400),
        (post("x: y\rz\r\n", hidden), 400),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n{hidden}"), 400),
        (format!("GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n{hidden}"), 400),
        (format!("GET / HTTP/1.1\r\nhost: a/hidden\r\n\r\n{hidden}"), 400),
        (format!("GET / HTTP/1.1\r\n\r\n{hidden}"), 400),
        (format!("CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n{hidden}"), 400),
        (format!("GET / HTTP/3.0\r\nhost: a\r\n\r\n{hidden}"), 400),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{long}\r\n"), 431),
        (name, 414),
        ("\x16\x03\x01\x02\x00".to_owned() + hidden, 400),
    ];
    for (bytes, status) in cases {
        let said = say(proxy.http, bytes.as_bytes()).await;
        let shown = &bytes[..bytes.len().min(120)];
        let statuses: Vec<&str> = said.lines().filter(|l| l.starts_with("HTTP/1.1 ")).collect();
        assert_eq!(statuses.len(), 1, "{shown:?}: {said}");
        let allowed = match status {
            // Which of them is found first depends on how the bytes arrive.
            414 | 431 => ["HTTP/1.1 414", "HTTP/1.1 431"],
            _ => ["HTTP/1.1 400", "HTTP/1.1 400"],
        };
        assert!(
            allowed.iter().any(|allowed| statuses[0].starts_with(allowed)),
            "{shown:?}: {said}"
        );
    }
    let targets = endpoint.heard.targets.lock().expect("no panic").clone();
    assert!(!targets.iter().any(|target| target == "/hidden"), "{targets:?}");
    // Extensions of chunks are no endpoint's business.
    let said = say(proxy.http, format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{chunked}\r\n3;x=\"y\"\r\nabc\r\n0\r\n\r\n").as_bytes()).await;
    assert!(
        said.starts_with("HTTP/1.1 200") && said.contains("\nabc") && !said.contains(";x="),
        "{said}"
    );
    assert_eq!(ask(proxy.http, get("a", "/")).await.status(), 200);
    proxy.end().await;
}

#[tokio::test]
async fn bodies_are_no_larger_than_they_may_be() {
    let (proxy, endpoint) = (Proxy::start().await, Endpoint::start().await);
    let settings = Settings { body_size: 1000, ..Settings::default() };
    proxy.serve(&leads("a", &[endpoint.address], Protocol::Http1, settings)).await;
    for (length, status) in [(1000, 200), (1001, 413), (1 << 20, 413)] {
        let body = Bytes::from(vec![b'x'; length]);
        let post = http::Request::post("/").header("host", "a").body(body).expect("a request");
        assert_eq!(ask(proxy.http, post).await.status(), status, "{length}");
        let chunk = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
        let head =
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let said = say(proxy.http, format!("{head}{chunk}").as_bytes()).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{length} in chunks: {said}");
    }
    proxy.end().await;
}

#[tokio::test]
async fn slow_clients_are_not_waited_for() {
    let short = Duration::from_millis(300);
    let proxy = Proxy::with(Limits { first: short, head: short }).await;
    // Each of these would go on for ever.
    for bytes in [&b""[..], b"PRI * HT", b"GET / HTTP/1.1\r\nhost: a\r\nx: "] {
        say(proxy.http, bytes).await;
        say(proxy.https, bytes).await;
    }
    // A header a moment, too.
    let mut stream = TcpStream::connect(proxy.http).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("written");
    while stream.write_all(b"x: y\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.end().await;
}

/// Frames of HTTP/2, by hand.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET http://a/never`.
const HEADERS: &[u8] = &[0x82, 0x86, 0x04, 6, b'/', b'n', b'e', b'v', b'e', b'r', 0x41, 1, b'a'];

/// Sends frames until the connection is closed.
async fn flood(proxy: &Proxy, mut next: impl FnMut(u32) -> Vec<u8>) {
    let stream = TcpStream::connect(proxy.http).await.expect("connected");
    let (mut from, mut to) = stream.into_split();
    let read = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all).await;
    });
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    to.write_all(&bytes).await.expect("written");
    for number in 0..200_000 {
        if to.write_all(&next(number)).await.is_err() {
            return;
        }
    }
    let closed = tokio::time::timeout(Duration::from_secs(30), read).await;
    assert!(closed.is_ok(), "the connection was not closed");
}

#[tokio::test]
async fn floods_of_frames_end_their_connection() {
    let (proxy, endpoint) = served().await;
    // Streams that are reset as soon as they are opened.
    flood(&proxy, |n| {
        let stream = 2 * n + 1;
        let mut bytes = frame(1, 5, stream, HEADERS);
        bytes.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
        bytes
    })
    .await;
    // Headers without an end.
    flood(&proxy, |n| match n {
        0 => frame(1, 1, 1, HEADERS),
        _ => frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y'].repeat(100)),
    })
    .await;
    // Frames that are against the rules: on a stream that nobody opened.
    flood(&proxy, |n| frame(0, 0, 2 * n + 1, b"x")).await;
    assert!(endpoint.requests() < 50_000, "{} streams came through", endpoint.requests());
    assert_eq!(ask(proxy.http, get("a", "/")).await.status(), 200);
    proxy.end().await;
}

/// Requests with something wrong in them, a thousand connections of them: nobody is asked more than was answered, which is
/// what a hidden request would come to, and the proxy serves on.
#[tokio::test]
async fn whatever_comes_is_bounded() {
    let short = Duration::from_millis(500);
    let proxy = Proxy::with(Limits { first: short, head: short }).await;
    let endpoint = Endpoint::start().await;
    let settings = Settings { send_timeout: 1, ..Settings::default() };
    proxy.serve(&leads("a", &[endpoint.address], Protocol::Http1, settings)).await;
    let address = proxy.http;
    let rounds = (0..1000).map(|_| {
        let (tag, bytes) = crooked();
        async move {
            let said = say(address, &bytes).await;
            (tag, bytes, said)
        }
    });
    let mut rounds = futures::stream::iter(rounds).buffer_unordered(50);
    while let Some((tag, bytes, said)) = rounds.next().await {
        // The endpoint tells requests' first lines back, which do not begin so.
        let answers = said.matches("HTTP/1.1 ").count() - said.matches("HTTP/1.1 100").count();
        let targets = endpoint.heard.targets.lock().expect("no panic");
        let asked = targets.iter().filter(|target| target.contains(&tag)).count();
        let is_http2 = bytes.starts_with(b"PRI * HTTP/2.0");
        let shown = String::from_utf8_lossy(&bytes);
        assert!(is_http2 || asked <= answers, "{asked} > {answers}: {shown:?}\n{said}");
    }
    drop(rounds);
    assert_eq!(ask(proxy.http, get("a", "/")).await.status(), 200);
    proxy.end().await;
}

/// A few requests with something wrong in them, and what all their targets have in them.
fn crooked() -> (String, Vec<u8>) {
    let mut random = rand::rng();
    let tag: String = (0..8).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
    let hidden = format!("GET /{tag}h HTTP/1.1\r\nhost: a\r\n\r\n");
    let good = [
        format!("GET /{tag} HTTP/1.1\r\nhost: a\r\n\r\n"),
        format!(
            "POST /{tag} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{hidden}",
            hidden.len()
        ),
        format!(
            "POST /{tag} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{:x};x=y\r\n{hidden}\r\n0\r\nx: y\r\n\r\n",
            hidden.len()
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned(),
    ];
    let pieces = (0..3).map(|_| good[random.random_range(0..good.len())].as_bytes());
    let mut bytes = pieces.collect::<Vec<_>>().concat();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] = random.random(),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, b"\r\n :,;0\t"[random.random_range(0..8)]),
            _ => {
                let end = random.random_range(at..bytes.len());
                let piece = bytes[at..=end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    (tag, bytes)
}
