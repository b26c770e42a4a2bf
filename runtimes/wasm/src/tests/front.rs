//! The HTTP front: limits, and guests that do not answer as they should.

use std::net::SocketAddr;
use std::time::Duration;

use coracle_sandbox::*;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::crafted::crafted;
use super::fixture::*;

/// What a server says to these bytes until it closes the connection.
pub(super) async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close before it has heard all.
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    let reading = async {
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            said.extend_from_slice(&buffer[..n]);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it was never closed");
    String::from_utf8_lossy(&said).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

/// The next notice of a host.
async fn notice(host: &TestHost, kind: NoticeKind, work: impl Future<Output = ()>) -> String {
    let mut events = host.client.events(u64::MAX);
    while !matches!(events.next().await, Some(HostEvent::Connected { .. })) {}
    work.await;
    let waiting = async {
        while let Some(event) = events.next().await {
            if let HostEvent::Notice(notice) = event
                && notice.kind == kind
            {
                assert_eq!(notice.container, "app");
                return notice.message;
            }
        }
        panic!("the events ended");
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("no notice")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_held_to_their_size() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("probe", example("probe-http"), |app| {
            app.http.max_request_bytes = Some(1000);
            app.http.max_response_bytes = Some(1000);
        })
        .await;
    let post = |length: usize| {
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), &vec![b'x'; length]].concat()
    };
    assert_eq!(status(&say(address, &post(1000)).await), "200");
    assert_eq!(status(&say(address, &post(1001)).await), "413");
    // Announced, and asked before it is sent: it is not asked for.
    let asked =
        b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2000\r\n\r\n";
    let said = say(address, asked).await;
    assert_eq!(status(&said), "413", "{said}");

    // In pieces, of a guest that has not answered yet and of one that has.
    let mut piece = b"320\r\n".to_vec();
    piece.extend([b'x'; 0x320]);
    piece.extend(b"\r\n");
    for (path, expected) in [("/echo", "broken"), ("/count", "200")] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        let request = [head.as_bytes(), &piece, &piece, b"0\r\n\r\n"].concat();
        let said = say(
            address,
            &[&request[..], b"GET /smuggled HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"]
                .concat(),
        )
        .await;
        if expected == "broken" {
            assert!(status(&said) == "413" || !said.ends_with("0\r\n\r\n"), "{said}");
            assert!(!said.contains("smuggled"), "{said}");
        } else {
            assert_eq!(status(&said), "200", "{said}");
        }
    }

    let told = notice(&host, NoticeKind::Limit, async {
        let mut connection = Connection::open(address).await;
        let answer = connection.get("/stream?chunks=200").await;
        assert!(answer.is_err(), "{answer:?}");
    });
    let told = told.await;
    assert!(told.contains("1000 bytes") && told.contains("max-response-body"), "{told}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_limited_to_the_last_byte() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("probe", example("probe-http"), |app| app.http.timeout_seconds = Some(1))
        .await;
    let told = notice(&host, NoticeKind::Limit, async {
        assert_eq!(get(address, "/sleep?ms=60000").await.0, 504);
    });
    assert!(told.await.contains("request-timeout"));
    assert_eq!(get(address, "/busy").await.0, 504);
    let begun = std::time::Instant::now();
    let mut connection = Connection::open(address).await;
    assert!(connection.get("/stream?chunks=1000&ms=50").await.is_err());
    // A client that does not read: more than sockets and buffers hold.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n")
        .await
        .unwrap();
    let piece = vec![b'x'; 1 << 16];
    while stream.write_all(&piece).await.is_ok() {}
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(get(address, "/health").await.0, 200);
    host.idle().await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_queue_up_to_a_bound() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("probe", example("probe-http"), |app| {
            app.http.max_active = Some(2);
            app.http.max_waiting = Some(2);
        })
        .await;
    let told = notice(&host, NoticeKind::Limit, async {
        let all = (0..6).map(|_| tokio::spawn(get(address, "/sleep?ms=700")));
        let all: Vec<_> = futures::future::join_all(all).await;
        let refused = all.iter().filter(|answer| answer.as_ref().unwrap().0 == 503).count();
        let served = all.iter().filter(|answer| answer.as_ref().unwrap().0 == 200).count();
        assert_eq!((served, refused), (4, 2));
    });
    assert!(told.await.contains("max-concurrent-requests"));
    let usage = host.idle().await[0].usage;
    assert_eq!((usage.requests, usage.refused_requests, usage.failed_requests), (6, 2, 0));
    assert!(usage.request_microseconds > 4 * 700_000, "{usage:?}");
    host.end().await;
}

/// A guest that traps in its answer used to leave the client with an end that looked like one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_trap_cuts_off_looks_cut_off() {
    let host = TestHost::start().await;
    let begin = "(call $begin (local.get $out)) (local.set $stream) (local.set $body)";
    let say_it = "(call $say (local.get $stream))";
    let traps = format!("{begin} {say_it} (call $nap (i64.const 50)) unreachable");
    let address = host.serve("traps", crafted(&host, "traps", &traps)).await;
    let told = notice(&host, NoticeKind::Trap, async {
        let said = say(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(said.contains("part\n") && !said.ends_with("0\r\n\r\n"), "{said}");
        for _ in 0..3 {
            say(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        }
    });
    let told = told.await;
    assert!(told.contains("unreachable") && !told.contains("backtrace:"), "{told}");
    assert!(host.log("traps").contains("wasm backtrace"), "{}", host.log("traps"));
    let usage = host.client.usage().await.unwrap()[0].usage;
    assert_eq!((usage.traps, usage.failed_requests), (4, 4));

    // Nothing was said yet: it need not begin.
    let early = format!("{begin} unreachable");
    let address = host.serve("early", crafted(&host, "early", &early)).await;
    assert_eq!(get(address, "/").await.0, 500);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_harm_nobody() {
    let host = TestHost::start().await;
    let begin = "(call $begin (local.get $out)) (local.set $stream) (local.set $body)";
    let twice = format!("{begin} (call $answer (local.get $out) (call $response (call $fields)))");
    let address = host.serve("twice", crafted(&host, "twice", &twice)).await;
    // A guest whose time slice ends between its two answers has begun to answer: that is broken off.
    let said = say(address, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(status(&said) == "500" || !said.ends_with("0\r\n\r\n"), "{said}");

    let silent = host.serve("silent", crafted(&host, "silent", "")).await;
    assert_eq!(get(silent, "/").await.0, 500);

    let unfinished = format!(
        "{begin} (call $say (local.get $stream)) (call $drop-stream (local.get $stream))
         (call $drop-body (local.get $body))"
    );
    let address = host.serve("unfinished", crafted(&host, "unfinished", &unfinished)).await;
    let said = say(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!said.ends_with("0\r\n\r\n"), "{said}");

    let never = |app: &mut ContainerSpec| app.http.timeout_seconds = Some(1);
    let forever = "(loop $again (call $nap (i64.const 1000)) (br $again))";
    let address = host.serve_with("never", crafted(&host, "never", forever), never).await;
    assert_eq!(get(address, "/").await.0, 504);

    // It says all, and closes late: the client waits for the end, not longer.
    let late = format!(
        "{begin} (call $say (local.get $stream)) (call $drop-stream (local.get $stream))
         (call $nap (i64.const 300)) (call $finish (local.get $body) (i32.const 0) (i32.const 0)
         (i32.const 112)) (call $nap (i64.const 60000))"
    );
    let address = host.serve("late", crafted(&host, "late", &late)).await;
    let answer = tokio::time::timeout(Duration::from_secs(10), get(address, "/")).await.unwrap();
    assert_eq!(answer, (200, "part\n".into()));
    host.end().await;
}

/// What two servers could read differently gets one answer, and nothing behind it is read at all.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let long = "x".repeat(20 << 10);
    let chunked = "transfer-encoding: chunked\r\n";
    for (headers, body, expected) in [
        (format!("content-length: 5\r\n{chunked}"), "0\r\n\r\n", "400"),
        (format!("{chunked}Content-Length: 5\r\n"), "0\r\n\r\n", "400"),
        (format!("{chunked}content-length: x\r\n"), "0\r\n\r\n", "400"),
        ("content-length: 5\r\ncontent-length: 6\r\n".to_owned(), "hello", "400"),
        // RFC 9112 (6.3) leaves it open; hyper would make one of them.
        ("content-length: 5\r\ncontent-length: 5\r\n".to_owned(), "hello", "400"),
        ("content-length: 5, 6\r\n".to_owned(), "hello", "400"),
        ("content-length: +5\r\n".to_owned(), "hello", "400"),
        ("content-length: -5\r\n".to_owned(), "hello", "400"),
        ("content-length: 5\r\n folded: 1\r\n".to_owned(), "hello", "400"),
        ("content-length : 5\r\n".to_owned(), "hello", "400"),
        ("x: a\rb\r\ncontent-length: 5\r\n".to_owned(), "hello", "400"),
        ("x: a\0b\r\ncontent-length: 5\r\n".to_owned(), "hello", "400"),
        ("transfer-encoding: gzip\r\n".to_owned(), "0\r\n\r\n", "400"),
        ("transfer-encoding: chunked, gzip\r\n".to_owned(), "0\r\n\r\n", "400"),
        ("transfer-encoding: gzip, chunked\r\n".to_owned(), "0\r\n\r\n", "501"),
        (format!("{chunked}{chunked}"), "0\r\n\r\n", "501"),
        // The guest may have begun to answer: then the answer is broken off.
        (chunked.to_owned(), &*format!("5;{long}\r\nhello\r\n0\r\n\r\n"), "broken"),
        (chunked.to_owned(), "5\nhello\n0\n\n", "broken"),
        (chunked.to_owned(), "-5\r\nhello\r\n0\r\n\r\n", "broken"),
        (chunked.to_owned(), "10000000000000005\r\nhello\r\n0\r\n\r\n", "broken"),
    ] {
        // Behind a request that is fine, on the same connection.
        let before = "GET /count HTTP/1.1\r\nhost: a\r\n\r\n";
        let behind = "GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let request = format!("POST /echo HTTP/1.1\r\nhost: a\r\n{headers}\r\n{body}{behind}");
        for (text, first) in [(&request, expected), (&format!("{before}{request}"), "200")] {
            let said = say(address, text.as_bytes()).await;
            assert!(!said.contains("health\n"), "{headers}{said}");
            if expected == "broken" {
                // Without a whole answer: refused, cut off, or not even begun.
                let answers: Vec<_> =
                    said.split("HTTP/1.1 ").skip(if first == "200" { 2 } else { 1 }).collect();
                let whole =
                    |answer: &&str| !answer.starts_with("400") && answer.ends_with("0\r\n\r\n");
                assert!(!answers.iter().any(whole), "{said}");
                continue;
            }
            assert_eq!(status(&said), first, "{headers}{said}");
            assert!(said.contains(&format!("HTTP/1.1 {expected}")), "{headers}{said}");
        }
    }
    // And what is fine is.
    for (headers, body) in [
        ("content-length: 5\r\n", "hello"),
        ("transfer-encoding: Chunked\r\n", "5;x=1\r\nhello\r\n0\r\nx: 1\r\n\r\n"),
    ] {
        let close = "connection: close\r\n";
        let request = format!("POST /echo HTTP/1.1\r\nhost: a\r\n{close}{headers}\r\n{body}");
        let said = say(address, request.as_bytes()).await;
        assert!(status(&said) == "200" && said.contains("hello"), "{headers}{said}");
    }
    host.end().await;
}

/// Guests that spin used to keep all threads for so long that a connection's timer was seen before its answer's; and
/// whoever waited for CPU that was overdrawn waited beyond the end of the request.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_too_long_is_told_so() {
    let host = TestHost::start().await;
    for (name, limit) in [("free", None), ("limited", Some(100)), ("tight", Some(10))] {
        let address = host
            .serve_with(name, example("probe-http"), |app| {
                app.http.timeout_seconds = Some(1);
                app.cpu_limit = limit;
            })
            .await;
        for path in ["/busy", "/fill?mib=32", "/busy"] {
            let asked = (0..12).map(|_| async move {
                Connection::open(address).await.get(path).await.map(|(status, ..)| status)
            });
            for answer in futures::future::join_all(asked).await {
                let fine = matches!(answer, Ok(503 | 504));
                assert!(fine, "{name}{path}: {answer:?}");
            }
        }
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_bodies() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    for (request, expected) in [
        ("HEAD /stream?chunks=5 HTTP/1.1", "200"),
        ("GET /status/204 HTTP/1.1", "204"),
        ("GET /status/304 HTTP/1.1", "304"),
    ] {
        let bytes = format!("{request}\r\nhost: a\r\nconnection: close\r\n\r\n");
        let said = say(address, bytes.as_bytes()).await;
        assert_eq!(status(&said), expected);
        assert!(said.ends_with("\r\n\r\n"), "{said}");
    }
    // HTTP/1.0 need not name a host.
    let said = say(address, b"GET /health HTTP/1.0\r\n\r\n").await;
    assert!(said.contains("200 OK") && said.ends_with("health\n"), "{said}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_tells_no_secrets() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("probe", example("probe-http"), |app| {
            app.http.access_log = true;
            app.http.timeout_seconds = Some(1);
        })
        .await;
    get(address, "/count?token=secret").await;
    get(address, "/sleep?ms=5000").await;
    let log = host.log("probe");
    assert!(!log.contains("secret"), "{log}");
    let lines: Vec<serde_json::Value> =
        log.lines().filter_map(|line| line.split_once(" stdout F ")?.1.parse().ok()).collect();
    assert_eq!(lines.len(), 2, "{log}");
    let first = &lines[0];
    assert_eq!((&first["path"], &first["status"]), (&"/count".into(), &200.into()));
    assert_eq!((&first["method"], &first["bytes_out"]), (&"GET".into(), &2.into()));
    assert_eq!(first["protocol"], "HTTP/1.1");
    assert!(first["peer"].as_str().unwrap().starts_with("127."), "{first}");
    assert_eq!((&lines[1]["status"], &lines[1]["reason"]), (&504.into(), &"timeout".into()));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_those_that_did_something() {
    let host = TestHost::start().await;
    let busy = host.serve("busy", example("probe-http")).await;
    host.serve("idle", example("probe-http")).await;
    get(busy, "/count").await;
    get(busy, "/trap").await;
    let text = host.client.metrics().await.unwrap();
    let labels = r#"{namespace="test",pod="busy",container="app""#;
    for expected in [
        format!("coracle_wasm_container_requests_total{labels}}} 2\n"),
        format!("coracle_wasm_container_traps_total{labels}}} 1\n"),
        format!("coracle_wasm_container_answers_total{labels},code=\"5xx\"}} 1\n"),
        format!("coracle_wasm_container_request_duration_seconds_count{labels}}} 2\n"),
        "coracle_wasm_sandboxes 2\n".to_owned(),
        "coracle_wasm_pool_slots_used{class=\"small\"} 0\n".to_owned(),
    ] {
        assert!(text.contains(&expected), "no {expected} in\n{text}");
    }
    assert!(!text.contains("pod=\"idle\""), "{text}");
    assert!(!text.contains("process_open_fds 0\n"), "{text}");
    host.end().await;
}
