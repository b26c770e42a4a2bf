//! Guests of WASI 0.3; they were built against 0.3.2, newer than what the host names.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use coracle_sandbox::*;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn services_answer_and_keep_their_limits() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("async", example("async-http"), |app| app.http.timeout_seconds = Some(2))
        .await;
    assert_eq!(get(address, "/").await, (200, "Hello from WASI 0.3 (async)\n".into()));
    assert_eq!(get(address, "/ticks?3").await, (200, "tick 1\ntick 2\ntick 3\n".into()));
    assert_eq!(get(address, "/nowhere").await.0, 404);
    let (status, body) = get(address, "/trap").await;
    assert_eq!((status, body.as_str()), (500, "the component failed\n"));
    assert!(host.log("async").contains("wasm backtrace"), "{}", host.log("async"));
    assert_eq!(get(address, "/busy").await.0, 504, "a guest that spins outlived its time");
    let other = host.serve("other", example("hello-v1")).await;
    let (status, body) = get(address, &format!("/fetch?{other}/")).await;
    assert!(status == 200 && body.contains("other"), "{body}");
    host.end().await;
}

/// Much more than any buffer on the way, over HTTP/2, with trailers at the end.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_with_trailers() {
    let host = TestHost::start().await;
    let address = host.serve("async", example("async-http")).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let chunk = Bytes::from(vec![7_u8; 64 << 10]);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    let frames = (0..256).map(move |_| Frame::data(chunk.clone()));
    let frames = frames.chain([Frame::trailers(trailers)]).map(Ok::<_, std::convert::Infallible>);
    let body = StreamBody::new(futures::stream::iter(frames));
    let request = http::Request::post("http://test/echo").body(body).unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    let (mut length, mut told) = (0, None);
    while let Some(frame) = response.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => length += data.len(),
            Err(frame) => told = frame.into_trailers().ok(),
        }
    }
    assert_eq!(length, 16 << 20);
    assert_eq!(told.unwrap()["x-sum"], "42");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_and_serve() {
    let host = TestHost::start().await;
    let start = async |name: &str, args: &[&str]| {
        let sandbox = host.sandbox(name).await;
        let mut app = host.app(&sandbox, example("async-command"));
        app.args = ["async"].iter().chain(args).map(|arg| arg.to_string()).collect();
        app.ports = Vec::new();
        host.client.start_container(&sandbox.id, &app).await.unwrap();
        SocketAddr::new(sandbox.ips[0], 7777)
    };
    start("hello", &["you"]).await;
    assert_eq!(host.exit("hello").await.0, 0, "{}", host.log("hello"));
    let log = host.log("hello");
    assert!(log.contains(r#"stdout F Hello from WASI 0.3 on hello: ["you"]"#), "{log}");
    start("failing", &["fail"]).await;
    assert_eq!(host.exit("failing").await.0, 1);

    let at = start("server", &["tcp-echo", "7777"]).await;
    for _ in 0..1000 {
        if host.log("server").contains("listening") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // All at once: none waits for another's end.
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(at).await.unwrap());
    }
    for client in clients.iter_mut().rev() {
        client.write_all(b"ahoy").await.unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ahoy");
    }
    host.client.stop_container("id-server", "app", Stop { grace_seconds: 0 }).await.unwrap();
    assert_eq!(host.exit("server").await.0, 137);
    host.end().await;
}
