use std::sync::atomic::{AtomicBool, Ordering};

use futures::{SinkExt as _, StreamExt as _};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::websocket::{self, Form};
use super::*;

/// A Pod that gives everything back, with an exclamation mark at the end, on port 80, and has no other.
#[derive(Default)]
struct Echo {
    is_gone: AtomicBool,
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
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(pod);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.write_all(b"!").await;
                let _ = writer.shutdown().await;
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
