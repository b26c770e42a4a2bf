use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::{SinkExt as _, StreamExt as _};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::spdy::tests::Client;
use super::super::websocket::{self, Form};
use super::*;

/// A Pod that gives everything back, with an exclamation mark at the end, on port 80, and has no other.
#[derive(Default)]
struct Echo {
    is_gone: AtomicBool,
    /// How many connections it has.
    open: Arc<AtomicUsize>,
}

impl Target for Echo {
    fn name(&self) -> String {
        "pod echo, uid 1".to_owned()
    }

    fn is_there(&self) -> bool {
        !self.is_gone.load(Ordering::SeqCst)
    }

    fn dial(&self, port: u16) -> BoxFuture<'_, Result<Box<dyn Wire>, String>> {
        Box::pin(async move {
            if port != 80 {
                return Err("connection refused".to_owned());
            }
            let (ours, pod) = tokio::io::duplex(1024);
            let open = self.open.clone();
            open.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(pod);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.write_all(b"!").await;
                let _ = writer.shutdown().await;
                open.fetch_sub(1, Ordering::SeqCst);
            });
            Ok(Box::new(ours) as Box<dyn Wire>)
        })
    }
}

async fn connect(target: Arc<Echo>, ports: Vec<u16>) -> WebSocketStream<DuplexStream> {
    let (client, server) = tokio::io::duplex(64 << 10);
    let socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let form = Form { base64: false, closes: true };
    let (connection, streams) = websocket::serve(socket, form, 2 * ports.len() as u8);
    tokio::spawn(over_channels(connection, streams, ports, target));
    WebSocketStream::from_raw_socket(client, Role::Client, None).await
}

#[tokio::test]
async fn each_port_has_a_channel_and_one_for_errors() {
    let mut client = connect(Arc::default(), vec![80, 81]).await;
    for message in [&b"\x00to the Pod"[..], b"\xff\x00"] {
        client.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = client.next().await {
        if let Message::Binary(data) = message {
            channels[usize::from(data[0])].extend_from_slice(&data[1..]);
        }
    }
    let refused = b"\x51\x00error forwarding port 81 to pod echo, uid 1: connection refused";
    assert_eq!(channels[0], b"\x50\x00to the Pod!");
    assert_eq!(channels[1], b"\x50\x00");
    assert_eq!(channels[2], b"\x51\x00");
    assert_eq!(channels[3], refused);
}

#[tokio::test]
async fn a_forward_ends_with_its_pod() {
    let target = Arc::new(Echo::default());
    let mut client = connect(target.clone(), vec![80]).await;
    client.send(Message::binary(b"\x00x".to_vec())).await.unwrap();
    let mut seen = 0;
    while let Some(Ok(message)) = client.next().await {
        seen += message.len();
        if seen >= 8 {
            target.is_gone.store(true, Ordering::SeqCst);
        }
        if message.is_close() {
            return;
        }
    }
    panic!("the connection broke off");
}

#[test]
fn ports_are_numbers_above_zero() {
    let of = |values: &[&str]| {
        let query: Vec<_> = values.iter().map(|v| ("port".to_owned(), (*v).to_owned())).collect();
        ports(&query)
    };
    assert_eq!(of(&["80", "443,8080"]), Ok(vec![80, 443, 8080]));
    for wrong in [&[][..], &["0"], &["65536"], &["-1"], &["x"], &[""], &["80,"]] {
        assert!(of(wrong).is_err(), "{wrong:?}");
    }
    assert!(of(&[&vec!["80"; 65].join(",")]).is_err());
}

/// A client over SPDY, and the Pod that it forwards to.
fn over() -> (Client, Arc<Echo>) {
    let (client, connection, accepting) = Client::connect();
    let target = Arc::new(Echo::default());
    tokio::spawn(over_spdy(connection, accepting, target.clone()));
    (client, target)
}

async fn eventually(open: &AtomicUsize, wanted: usize) {
    let reached = async {
        while open.load(Ordering::SeqCst) != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    assert!(reached.is_ok(), "{} connections instead of {wanted}", open.load(Ordering::SeqCst));
}

#[tokio::test]
async fn two_streams_make_a_connection() {
    for named in [true, false] {
        let (mut client, target) = over();
        let (requests, port) = (["7", "8"], ("port", "80"));
        let mut streams = Vec::new();
        for request in requests {
            for kind in ["error", "data"] {
                let headers = [("streamtype", kind), port, ("requestid", request)];
                // Clients of old do not number their requests.
                let stream = client.open(&headers[..if named { 3 } else { 2 }]).await;
                client.replied(stream).await;
                streams.push(stream);
            }
        }
        eventually(&target.open, 2).await;
        for data in [streams[1], streams[3]] {
            client.data(data, true, b"hello").await;
            assert_eq!(client.until_end(data).await, b"hello!");
        }
        eventually(&target.open, 0).await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_no_connection() {
    let (mut client, target) = over();
    for number in 0..20 {
        let request = number.to_string();
        for kind in ["error", "data"] {
            let headers = [("streamtype", kind), ("port", "80"), ("requestid", &request)];
            let stream = client.open(&headers).await;
            client.replied(stream).await;
        }
    }
    eventually(&target.open, 20).await;
    drop(client);
    eventually(&target.open, 0).await;
}

#[tokio::test]
async fn what_a_refused_port_says_comes_on_the_stream_for_errors() {
    let (mut client, _target) = over();
    let error = client.open(&[("streamtype", "error"), ("port", "81"), ("requestid", "0")]).await;
    client.replied(error).await;
    let data = client.open(&[("streamtype", "data"), ("port", "81"), ("requestid", "0")]).await;
    client.replied(data).await;
    let said = client.until_end(error).await;
    let refused = "error forwarding port 81 to pod echo, uid 1: connection refused";
    assert_eq!(String::from_utf8(said).unwrap(), refused);
    // What belongs to no connection is refused, and nothing else suffers.
    for headers in [
        &[("streamtype", "stdin"), ("port", "80")][..],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "data")],
        &[("port", "80")],
        &[],
    ] {
        let stream = client.open(headers).await;
        client.refused(stream).await;
    }
    let again = [("streamtype", "error"), ("port", "80"), ("requestid", "1")];
    let stream = client.open(&again).await;
    client.replied(stream).await;
    let twice = client.open(&again).await;
    client.refused(twice).await;
}
