use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::websocket::{self, Form};
use super::*;

/// Gives back what it reads, says how large the terminal is, and ends as it is told.
struct Echo(Result<Option<i32>, String>);

impl RemoteCommand for Echo {
    fn what(&self) -> &'static str {
        "error executing command in container"
    }

    fn run(self: Box<Self>, io: Io) -> BoxFuture<'static, Result<Option<i32>, String>> {
        Box::pin(async move {
            if let (Some(mut sizes), Some(err)) = (io.resizes, &io.stdout) {
                let size = sizes.next().await.unwrap();
                let told = format!("{}x{}", size.width, size.height);
                err.send(told.into()).await.unwrap();
            }
            if let (Some(mut stdin), Some(stdout)) = (io.stdin, io.stdout) {
                while let Ok(Some(data)) = stdin.next().await {
                    stdout.send(data).await.unwrap();
                }
            }
            if let Some(stderr) = io.stderr {
                stderr.send(Bytes::from_static(b"done")).await.unwrap();
            }
            self.0
        })
    }
}

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

async fn connect(
    protocol: &'static str,
    wanted: Wanted,
    ending: Result<Option<i32>, String>,
) -> WebSocketStream<DuplexStream> {
    let (client, server) = tokio::io::duplex(64 << 10);
    let form = Form { base64: protocol.contains("base64"), closes: protocol.starts_with("v5.") };
    let socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let (connection, streams) = websocket::serve(socket, form, 5);
    let command = Box::new(Echo(ending));
    tokio::spawn(over_channels(connection, streams, protocol, wanted, command));
    WebSocketStream::from_raw_socket(client, Role::Client, None).await
}

/// What comes on each channel until the end, which is a proper one.
async fn all(mut client: WebSocketStream<DuplexStream>) -> [String; 5] {
    let mut channels: [Vec<u8>; 5] = Default::default();
    while let Some(message) = client.next().await {
        match message.unwrap() {
            Message::Binary(data) => channels[usize::from(data[0])].extend_from_slice(&data[1..]),
            Message::Text(text) => {
                let data = STANDARD.decode(&text[1..]).unwrap();
                channels[usize::from(text.as_bytes()[0] - b'0')].extend(data);
            }
            Message::Close(frame) => assert_eq!(u16::from(frame.unwrap().code), 1000),
            _ => {}
        }
    }
    channels.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[tokio::test]
async fn channels_carry_the_streams_and_the_end_of_a_command() {
    let mut client = connect("v5.channel.k8s.io", ALL, Ok(Some(3))).await;
    for message in [&b"\x00one "[..], b"\x00two", b"\x09of no channel", b"\xff\x00"] {
        client.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let [_, stdout, stderr, status, _] = all(client).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("one two", "done"));
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
}

#[tokio::test]
async fn in_base64_too_and_without_a_status_before_version_4() {
    let no_input = Wanted { stdin: false, ..ALL };
    let [_, _, stderr, status, _] =
        all(connect("v4.base64.channel.k8s.io", no_input, Ok(None)).await).await;
    assert_eq!(stderr, "done");
    assert_eq!(status, r#"{"metadata":{},"status":"Success"}"#);
    let [.., status, _] = all(connect("channel.k8s.io", no_input, Ok(Some(7))).await).await;
    assert_eq!(status, "command terminated with non-zero exit code: exit status 7");
    let [.., status, _] = all(connect("", no_input, Ok(Some(0))).await).await;
    assert_eq!(status, "");
    let [.., status, _] =
        all(connect("v4.channel.k8s.io", no_input, Err("no such file".into())).await).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        status["message"],
        "Internal error occurred: error executing command in container: no such file"
    );
}

#[tokio::test]
async fn sizes_of_a_terminal_come_whole_or_in_pieces() {
    let wanted = Wanted { stderr: false, tty: true, ..ALL };
    let mut client = connect("v5.channel.k8s.io", wanted, Ok(None)).await;
    for message in [&b"\x04{\"Width\":12"[..], b"\x040,\"Height\":40}", b"\xff\x00"] {
        client.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let [_, stdout, ..] = all(client).await;
    assert_eq!(stdout, "120x40");
}

#[tokio::test]
async fn a_client_that_is_gone_ends_standard_input() {
    let (client, server) = tokio::io::duplex(64 << 10);
    let socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let (connection, mut streams) =
        websocket::serve(socket, Form { base64: false, closes: false }, 5);
    drop(client);
    assert!(streams[0].0.next().await.is_err());
    connection.gone().cancelled().await;
    assert!(streams[1].1.send(Bytes::from_static(b"x")).await.is_err());
}

#[test]
fn a_query_says_which_streams_are_wanted() {
    let of = |text: &str| {
        let pairs: Vec<(String, String)> = text
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Wanted::of(&pairs)
    };
    assert_eq!(of("input=1&output=1&error=1"), Ok(ALL));
    let terminal = Wanted { stdin: false, stdout: true, stderr: false, tty: true };
    assert_eq!(of("output=1&error=1&tty=1"), Ok(terminal));
    assert!(of("error=1&tty=1&input=0").is_err());
    assert!(of("").is_err());
}
