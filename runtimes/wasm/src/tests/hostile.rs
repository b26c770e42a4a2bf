//! Requests that are wrong on purpose, and bytes that are none: each gets a clear answer or a closed connection, none
//! reaches the guest, and a neighbour does not notice.
//!
//! `CORACLE_FUZZ_SECONDS` makes the random part longer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::*;
use super::front::say;

/// A request that would leave a line in the log, if it came through.
fn logged(head: &str) -> Vec<u8> {
    format!("GET /log?lines=1 HTTP/1.1\r\n{head}\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_clear_answers() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let long = "x".repeat(70_000);
    let many: String = (0..110).map(|n| format!("\r\nx-{n}: y")).collect();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("no host", logged("a: b"), &["400"]),
        ("two hosts", logged("host: a\r\nhost: b"), &["400"]),
        ("an empty host", logged("host:"), &["400"]),
        ("a host with a user", logged("host: u@h"), &["400"]),
        ("a host with a path", logged("host: h/p"), &["400"]),
        ("two lengths", logged("host: a\r\ncontent-length: 1\r\ncontent-length: 2"), &["400"]),
        ("a signed length", logged("host: a\r\ncontent-length: +1"), &["400"]),
        ("a negative length", logged("host: a\r\ncontent-length: -1"), &["400"]),
        ("a length of letters", logged("host: a\r\ncontent-length: 0x10"), &["400"]),
        (
            "an endless length",
            logged(&format!("host: a\r\ncontent-length: {}", "9".repeat(30))),
            &["400"],
        ),
        (
            "a length beyond all limits",
            logged(&format!("host: a\r\ncontent-length: {}", 1_u64 << 60)),
            &["413"],
        ),
        ("an unknown coding", logged("host: a\r\ntransfer-encoding: gzip"), &["400"]),
        ("chunked, but not last", logged("host: a\r\ntransfer-encoding: chunked, gzip"), &["400"]),
        ("almost chunked", logged("host: a\r\ntransfer-encoding: xchunked"), &["400"]),
        ("a folded line", logged("host: a\r\nx: y\r\n z"), &["400"]),
        ("a space before the colon", logged("host : a"), &["400"]),
        ("no colon", logged("host: a\r\nnonsense"), &["400"]),
        ("a zero byte", logged("host: a\r\nx: a\0b"), &["400"]),
        ("a carriage return", logged("host: a\r\nx: a\rb"), &["400"]),
        ("a WebSocket", logged("host: a\r\nconnection: upgrade\r\nupgrade: websocket"), &["400"]),
        ("a long line", logged(&format!("host: a\r\nx: {long}")), &["431"]),
        ("many lines", logged(&format!("host: a{many}")), &["431"]),
        (
            "a long path",
            format!("GET /log?lines=1&{long} HTTP/1.1\r\nhost: a\r\n\r\n").into(),
            &["414", "431"],
        ),
        ("a proxy's method", b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n".into(), &["400"]),
        ("an odd method", b"G(T /log?lines=1 HTTP/1.1\r\nhost: a\r\n\r\n".into(), &["400"]),
        ("an odd version", b"GET /log?lines=1 HTTP/3.7\r\nhost: a\r\n\r\n".into(), &["400", "505"]),
        ("no version", b"GET /log?lines=1\r\n\r\n".into(), &["400"]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".into(), &["400"]),
        (
            "chunks in HTTP/1.0",
            b"POST /log?lines=1 HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .into(),
            &["400"],
        ),
    ];
    for (what, bytes, expected) in cases {
        let said = say(address, &bytes).await;
        let status = said.split(' ').nth(1).unwrap_or_default();
        assert!(expected.contains(&status), "{what}: {said:?}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{what}: {said:?}");
    }
    assert!(!host.log("probe").contains("line 1"), "{}", host.log("probe"));
    assert_eq!(get(address, "/health").await.0, 200);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let hidden = "GET /log?lines=1 HTTP/1.1\r\nhost: a\r\n\r\n";
    let both = "content-length: 5\r\ntransfer-encoding: chunked";
    let turned = "transfer-encoding: chunked\r\ncontent-length: 5";
    for head in [both, turned] {
        let request = format!("POST /count HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n0\r\n\r\n{hidden}");
        let said = say(address, request.as_bytes()).await;
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{head}: {said}");
    }
    // Chunks that are none, of a guest that reads them and of one that does not.
    for chunk in
        ["zz\r\nhello\r\n", "-5\r\nhello\r\n", "5\r\nhelloworld\r\n", "ffffffffffffffffff\r\n"]
    {
        for path in ["/echo", "/count"] {
            let request = format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n{hidden}"
            );
            let said = say(address, request.as_bytes()).await;
            let answers = said.matches("HTTP/1.1 ").count();
            assert!(answers <= 1, "{path} {chunk:?}: {said}");
            // An answer that has begun when the fault is met does not come to its end, or nothing of it is sent.
            let is_refused = said.starts_with("HTTP/1.1 400") || !said.ends_with("0\r\n\r\n");
            let is_right = if path == "/echo" { is_refused } else { answers == 1 };
            assert!(is_right, "{path} {chunk:?}: {said}");
        }
    }
    assert!(!host.log("probe").contains("line 1"), "{}", host.log("probe"));
    // The authority of an absolute target is the host, whatever the header says.
    let absolute = b"GET http://real/health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert!(say(address, absolute).await.starts_with("HTTP/1.1 200"));
    host.end().await;
}

/// Numbers that are random enough, and the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.roll(most);
        (0..count).map(|_| self.roll(256) as u8).collect()
    }

    /// Something that was a request, or never was one.
    fn attack(&mut self) -> Vec<u8> {
        const SEEDS: &[&[u8]] = &[
            b"GET /count HTTP/1.1\r\nhost: a\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
            b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
            b"GET /stream?chunks=50 HTTP/1.1\r\nhost: a\r\n\r\n",
            b"HEAD /health HTTP/1.0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ];
        let mut bytes = SEEDS[self.roll(SEEDS.len())].to_vec();
        for _ in 0..self.roll(6) {
            let at = self.roll(bytes.len());
            match self.roll(5) {
                0 if !bytes.is_empty() => bytes[at] = self.roll(256) as u8,
                1 => bytes.truncate(at),
                2 => drop(bytes.splice(at..at, self.bytes(40))),
                3 => bytes.extend_from_slice(SEEDS[self.roll(SEEDS.len())]),
                _ => bytes.extend(self.bytes(400)),
            }
        }
        bytes
    }
}

/// Opens streams and resets them at once, as fast as the connection takes it.
fn rapid_reset(streams: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for n in 0..streams {
        let id = (2 * n + 1).to_be_bytes();
        // GET http://a/, from the static table; end of headers and of the stream.
        bytes.extend([0, 0, 6, 1, 5].iter().chain(&id).chain(&[0x82, 0x86, 0x84, 0x41, 1, b'a']));
        bytes.extend([0, 0, 4, 3, 0].iter().chain(&id).chain(&[0, 0, 0, 8]));
    }
    bytes
}

async fn throw(address: SocketAddr, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let _ = stream.write_all(bytes).await;
    let mut buffer = [0; 4096];
    let reading = async { while let Ok(1..) = stream.read(&mut buffer).await {} };
    let _ = tokio::time::timeout(Duration::from_millis(30), reading).await;
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_harm_nobody() {
    let seconds = std::env::var("CORACLE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let neighbour = host.serve("neighbour", example("hello-v1")).await;
    get(address, "/count").await;
    get(neighbour, "/").await;
    let before = resident();

    let attackers: Vec<_> = (1..=8_u64)
        .map(|seed| {
            tokio::spawn(async move {
                let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let mut thrown = 0;
                while Instant::now() < end {
                    let bytes = match dice.roll(20) {
                        0 => rapid_reset(2_000),
                        1 => dice.bytes(100_000),
                        _ => dice.attack(),
                    };
                    throw(address, &bytes).await;
                    thrown += 1;
                }
                thrown
            })
        })
        .collect();
    let mut answered = 0;
    while Instant::now() < end {
        let answer = tokio::time::timeout(Duration::from_secs(10), get(neighbour, "/")).await;
        assert_eq!(answer.expect("the neighbour waits").0, 200);
        answered += 1;
    }
    let mut thrown = 0;
    for attacker in attackers {
        thrown += attacker.await.unwrap();
    }
    assert!(thrown > 50 && answered > 10, "{thrown} attacks, {answered} answers");
    assert_eq!(get(address, "/health").await.0, 200);
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB more after {thrown} attacks", grown >> 20);
    // Nothing is left behind.
    host.idle().await;
    host.end().await;
}

/// Who says nothing, or says it too slowly, is let go.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_let_go() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let begun = Instant::now();
    let silent = tokio::spawn(say(address, b""));
    let slow = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for byte in b"GET /count HTTP/1.1\r\nhost: a\r\nx: ".iter().chain([b'y'; 600].iter()) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    });
    assert_eq!(silent.await.unwrap(), "");
    assert!(begun.elapsed() > Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(slow.await.unwrap() < Duration::from_secs(25));
    host.end().await;
}
