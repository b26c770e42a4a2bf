//! Bodies that are larger than anything on their way may hold, and clients that do not do their part.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_sandbox::{PortRoute, Routes, ServiceRoute};
use futures::stream;
use http::HeaderMap;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::*;
use super::front::say;

const PART: usize = 64 << 10;
/// Parts of a large body: 100 MiB.
const PARTS: usize = 1600;
/// Bytes by which this process, host and client in one, may grow meanwhile: the memory of a few
/// instances, and what is buffered on the way.
const GROWTH: u64 = 8 << 20;

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The largest size that was seen, and the first.
struct Growth {
    first: u64,
    most: u64,
}

impl Growth {
    fn start() -> Growth {
        let first = resident();
        Growth { first, most: first }
    }

    fn look(&mut self) {
        self.most = self.most.max(resident());
    }

    fn check(&self, what: &str) {
        let grown = self.most - self.first;
        assert!(grown < GROWTH, "{what}: grew by {grown} bytes");
    }
}

type Sending = StreamBody<
    std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send>>,
>;

/// A body of so many parts and a trailer, made as it is taken; how much was taken.
fn body(parts: usize) -> (Sending, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let count = taken.clone();
    let part = Bytes::from(vec![7_u8; PART]);
    let frames = (0..parts).map(move |_| {
        count.fetch_add(PART as u64, Relaxed);
        Frame::data(part.clone())
    });
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    let frames = frames.chain([Frame::trailers(trailers)]).map(Ok);
    (StreamBody::new(Box::pin(stream::iter(frames)) as _), taken)
}

async fn post(
    address: SocketAddr,
    http2: bool,
    path: &str,
    body: Sending,
) -> http::Response<Incoming> {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let request = http::Request::post(format!("http://test{path}"));
    let request = request.header("host", "test").header("trailer", "x-sum");
    let request = request.header("te", "trailers").body(body).unwrap();
    if http2 {
        let executor = TokioExecutor::new();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }
}

/// Reads an answer to its end: its length and its trailers.
async fn read(mut body: Incoming, growth: &mut Growth) -> (usize, Option<HeaderMap>) {
    let (mut length, mut trailers, mut seen) = (0, None, 0);
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => length += data.len(),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if length / (4 << 20) > seen {
            seen = length / (4 << 20);
            growth.look();
        }
    }
    (length, trailers)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_through_in_little_memory() {
    let host = TestHost::start().await;
    for component in ["probe-http", "async-http"] {
        let address = host.serve(component, example(component)).await;
        for http2 in [false, true] {
            // The first instance, and what is made once.
            let (small, _) = body(16);
            let answer = post(address, http2, "/echo", small).await;
            read(answer.into_body(), &mut Growth::start()).await;
            let mut growth = Growth::start();
            let (large, taken) = body(PARTS);
            let answer = post(address, http2, "/echo", large).await;
            assert_eq!(answer.status(), 200);
            let (length, trailers) = read(answer.into_body(), &mut growth).await;
            assert_eq!(length, PARTS * PART, "{component}");
            assert_eq!(taken.load(Relaxed), length as u64);
            growth.check(&format!("{component}, HTTP/2: {http2}"));
            // HTTP/1.1 sends only trailers that its head has announced, which one of the guests does not.
            if http2 || component == "probe-http" {
                assert_eq!(trailers.expect("trailers")["x-sum"], "42", "{component}");
            }
        }
    }
    host.end().await;
}

/// Over HTTP/1.1 all the way: into a guest, out of it, in the request that it makes and in the answer that it gets.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_over_http_1() {
    let (host, outside) = (TestHost::start().await, TestHost::start().await);
    let address = host.serve("probe", example("probe-http")).await;
    let route = |name: &str, backend: SocketAddr| ServiceRoute {
        name: name.into(),
        namespace: "test".into(),
        vip: Some(free_ip()),
        ports: vec![PortRoute { port: 80, backends: vec![backend], ..Default::default() }],
        ..Default::default()
    };
    let here = host.serve("here", example("probe-http")).await;
    let there = outside.serve("there", example("probe-http")).await;
    let services = vec![route("here", here), route("there", there)];
    host.client.put_routes(&Routes { services, ..Default::default() }).await.unwrap();
    let ask = async |path: &str, head: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}transfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 42\r\nx-more: 43\r\n\r\n"
        );
        say(address, request.as_bytes()).await
    };
    for path in ["/echo", "/relay?url=http://here/echo", "/relay?url=http://there/echo"] {
        let said = ask(path, "te: trailers\r\ntrailer: x-sum, x-more\r\n").await;
        assert!(
            said.starts_with("HTTP/1.1 200") && said.contains("\r\nhello\r\n"),
            "{path}: {said}"
        );
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("trailer: x-sum, x-more"), "{path}: {said}");
        let trailers = body.split_once("\r\n0\r\n").expect("a last chunk").1;
        assert!(trailers.contains("x-sum: 42\r\n"), "{path}: {said}");
        assert!(trailers.contains("x-more: 43\r\n"), "{path}: {said}");
        // Who does not take them gets none.
        let said = ask(path, "trailer: x-sum, x-more\r\n").await;
        assert!(
            said.contains("\r\nhello\r\n") && said.ends_with("\r\n0\r\n\r\n"),
            "{path}: {said}"
        );
    }
    outside.end().await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_waits_for_a_client_that_does_not_read() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    assert_eq!(get(address, "/pour?mib=1").await.1.len(), 1 << 20);
    let mut growth = Growth::start();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /pour?mib=100 HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        growth.look();
    }
    growth.check("nobody reads");
    let usage = host.client.usage().await.unwrap();
    assert_eq!(usage[0].usage.instances, 1, "it did not wait: {usage:?}");
    // It is all there for who reads late, and as much as he has asked for.
    let mut part = vec![0; PART];
    let mut length = 0;
    while length < 90 << 20 {
        length += client.read(&mut part).await.unwrap();
    }
    growth.look();
    growth.check("read late");
    // Who leaves ends the guest.
    drop(client);
    host.idle().await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_waits_for_a_guest_that_does_not_read() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    for http2 in [false, true] {
        let (small, _) = body(1);
        assert_eq!(post(address, http2, "/drink", small).await.status(), 200);
        let mut growth = Growth::start();
        let (large, taken) = body(PARTS);
        let asking = tokio::spawn(post(address, http2, "/drink?ms=100", large));
        // Some is on its way: in sockets, and in what the host takes ahead.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            growth.look();
        }
        let sent = taken.load(Relaxed);
        growth.check("nobody drinks");
        assert!(sent > 0 && sent < (PARTS * PART / 2) as u64, "it took {sent} bytes at once");
        asking.abort();
        let _ = asking.await;
        // The connection ended with its only user, and the guest with the connection.
        host.idle().await;
    }
    // All of it comes to a guest that takes its time.
    let (some, _) = body(100);
    let answer = post(address, false, "/drink?ms=5", some).await;
    let length = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(length, format!("{}\n", 100 * PART));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_its_guest() {
    let host = TestHost::start().await;
    let p2 = host.serve("probe", example("probe-http")).await;
    let p3 = host.serve("async", example("async-http")).await;
    for (address, head) in [
        // Before the answer, in the midst of it, and in the midst of the request.
        (p2, "GET /sleep?ms=200000 HTTP/1.1\r\nhost: test\r\n\r\n"),
        (p2, "GET /stream?chunks=100000&ms=10 HTTP/1.1\r\nhost: test\r\n\r\n"),
        (p2, "POST /drink HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nabc"),
        (p2, "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nabc"),
        (p3, "GET /ticks?100000 HTTP/1.1\r\nhost: test\r\n\r\n"),
        (p3, "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nabc"),
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        let start = Instant::now();
        while host.client.usage().await.unwrap().iter().all(|app| app.usage.active_requests == 0) {
            assert!(start.elapsed() < Duration::from_secs(20), "it never began: {head}");
        }
        drop(client);
        host.idle().await;
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_after_a_body_that_no_guest_read() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    for (size, next) in [(100, "/status/201"), (20_000, "/status/202")] {
        // The guest answers with a status, and does not look at the body.
        let head =
            format!("POST /status/200 HTTP/1.1\r\nhost: test\r\ncontent-length: {size}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; size]).await.unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
        let head = format!("GET {next} HTTP/1.1\r\nhost: test\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let status = &next[next.len() - 3..];
        let said = answer(&mut client).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{size}: {said}");
    }
    host.end().await;
}

/// One chunked answer of a guest's.
async fn answer(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let reading = async {
        while !text.ends_with(b"\r\n0\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(client.read(&mut byte).await.unwrap(), 1, "the connection was closed");
            text.push(byte[0]);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("no answer");
    String::from_utf8(text).unwrap()
}
