use std::sync::Arc;

use bytes::Bytes;
use coracle_ingress::config::Protocol;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::backends::Endpoint;
use super::fixture::{Proxy, leads_to};

/// What gRPC needs: HTTP/2 on both sides, both bodies open at once, and trailers.
#[tokio::test]
async fn streams_flow_both_ways_and_end_in_trailers() {
    for protocol in [Protocol::H2c, Protocol::Http1, Protocol::H2, Protocol::Https] {
        let is_h2 = matches!(protocol, Protocol::H2c | Protocol::H2);
        let endpoint = match protocol {
            Protocol::H2 | Protocol::Https => Endpoint::secure().await,
            _ => Endpoint::start().await,
        };
        let proxy = Proxy::start().await;
        proxy.serve(&leads_to("a", &[endpoint.address], protocol)).await;
        let stream = TcpStream::connect(proxy.http).await.expect("connected");
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let (mut up, body) =
            futures::channel::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
        let request = http::Request::post("http://a/echo")
            .header("te", "trailers")
            .body(StreamBody::new(body))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        for number in 0..5 {
            let piece = Bytes::from(format!("piece {number}"));
            up.send(Ok(Frame::data(piece.clone()))).await.expect("sent");
            let frame = body.frame().await.expect("a frame").expect("no error");
            assert_eq!(frame.into_data().expect("data"), piece);
        }
        drop(up);
        // HTTP/1.1's servers send none to who does not say that trailers are wanted.
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            trailers = frame.expect("no error").into_trailers().ok();
        }
        assert_eq!(trailers.is_some_and(|all| all["x-sum"] == "1"), is_h2);
        let heard = sender.send_request(
            http::Request::get("http://a/")
                .body(StreamBody::new(futures::channel::mpsc::channel(1).1))
                .expect("a request"),
        );
        let heard =
            heard.await.expect("an answer").into_body().collect().await.expect("a body").to_bytes();
        let heard = String::from_utf8_lossy(&heard).into_owned();
        let version = if is_h2 { "HTTP/2.0" } else { "HTTP/1.1" };
        assert!(heard.lines().next().is_some_and(|line| line.ends_with(version)), "{heard}");
        drop((sender, body));
        let _ = connection.await;
        proxy.end().await;
    }
}

#[tokio::test]
async fn a_websocket_is_passed_through() {
    passes_a_websocket(Endpoint::start().await, Protocol::Http1).await;
    passes_a_websocket(Endpoint::secure().await, Protocol::Https).await;
}

async fn passes_a_websocket(endpoint: Endpoint, protocol: Protocol) {
    let proxy = Proxy::start().await;
    proxy.serve(&leads_to("a", &[endpoint.address], protocol)).await;
    let mut stream = TcpStream::connect(proxy.http).await.expect("connected");
    let ask = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a byte"));
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    for number in 0..10 {
        let piece = format!("piece {number}");
        stream.write_all(piece.as_bytes()).await.expect("written");
        let mut back = vec![0; piece.len()];
        stream.read_exact(&mut back).await.expect("read");
        assert_eq!(back, piece.as_bytes());
    }
    stream.shutdown().await.expect("shut down");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("read");
    assert!(rest.is_empty());
    proxy.end().await;
}

/// Many streams on one connection to many connections of HTTP/1.1.
#[tokio::test]
async fn one_connection_has_many_requests_at_once() {
    let (proxy, endpoint) = (Proxy::start().await, Endpoint::start().await);
    proxy.serve(&leads_to("a", &[endpoint.address], Protocol::Http1)).await;
    let stream = TcpStream::connect(proxy.http).await.expect("connected");
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    let sender = Arc::new(sender);
    let all = (0..100).map(|_| {
        let mut sender = (*sender).clone();
        async move {
            let request =
                http::Request::get("http://a/slow").body(http_body_util::Empty::<Bytes>::new());
            sender.send_request(request.expect("a request")).await.expect("an answer").status()
        }
    });
    let statuses: Vec<_> = futures::stream::iter(all).buffer_unordered(100).collect().await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(endpoint.requests(), 100);
    drop(sender);
    proxy.end().await;
}
