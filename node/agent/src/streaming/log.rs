//! A container's log over WebSocket, for clients that have nothing else, as browsers: each message is a piece of it, after
//! a first, empty one that says that the connection stands (upstream's `wsstream.Reader`).

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::stream::PING;
use super::upgrade;
use super::websocket::{self, closing};

/// Of these, the second has text messages.
const PROTOCOLS: &[&str] = &["binary.k8s.io", IN_TEXT, ""];
const IN_TEXT: &str = "base64.binary.k8s.io";

/// Switches to WebSocket and sends there what `lines` has; without an upgrade that is agreed on, they are not begun.
pub(crate) fn serve(
    request: Request,
    begin: impl FnOnce() -> mpsc::Receiver<Bytes> + Send + 'static,
) -> Response {
    match upgrade::agree(request.headers(), PROTOCOLS, &[]) {
        Ok((agreed, _)) if !agreed.websocket => {
            (StatusCode::BAD_REQUEST, "a log is sent over WebSocket or plain HTTP").into_response()
        }
        Ok((agreed, answer)) => {
            super::routes::switch(request, answer, move |upgraded| async move {
                send(websocket::accept(upgraded).await, agreed.protocol == IN_TEXT, begin()).await;
            })
        }
        Err(refusal) => *refusal,
    }
}

/// Until all is sent, or the client is gone.
async fn send<S>(socket: WebSocketStream<S>, in_text: bool, mut lines: mpsc::Receiver<Bytes>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let piece = |data: Bytes| match in_text {
        true => Message::text(BASE64.encode(&data)),
        false => Message::Binary(data),
    };
    let mut ticks = tokio::time::interval(PING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let mut next = piece(Bytes::new());
    loop {
        let last = next.is_close();
        if sink.send(next).await.is_err() || last {
            return;
        }
        next = loop {
            tokio::select! {
                line = lines.recv() => break line.map_or_else(|| closing(CloseCode::Normal), piece),
                // A log that is followed may say nothing for hours: that the client is there is to be seen by something.
                _ = ticks.tick() => break Message::Ping(Bytes::new()),
                // Of the client nothing is expected but its end.
                said = source.next() => match said {
                    Some(Ok(message)) if !message.is_close() => {}
                    _ => return,
                },
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    async fn sent(
        in_text: bool,
    ) -> (WebSocketStream<tokio::io::DuplexStream>, mpsc::Sender<Bytes>) {
        let (client, server) = tokio::io::duplex(64 << 10);
        let (out, lines) = mpsc::channel(2);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        tokio::spawn(send(server, in_text, lines));
        (WebSocketStream::from_raw_socket(client, Role::Client, None).await, out)
    }

    #[tokio::test]
    async fn a_log_comes_in_pieces_until_its_end() {
        for in_text in [false, true] {
            let (mut client, out) = sent(in_text).await;
            let mut pieces = Vec::new();
            for line in ["one\n", "two\n"] {
                out.send(Bytes::from_static(line.as_bytes())).await.expect("it listens");
            }
            drop(out);
            let closed = loop {
                match client.next().await.expect("an end first").expect("a message") {
                    Message::Binary(data) if !in_text => pieces.push(data),
                    Message::Text(text) if in_text => {
                        pieces.push(BASE64.decode(&text).expect("base64").into());
                    }
                    Message::Close(frame) => break frame,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(
                pieces,
                ["", "one\n", "two\n"].map(|piece| Bytes::from_static(piece.as_bytes()))
            );
            assert_eq!(closed.expect("a reason").code, CloseCode::Normal);
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_reading() {
        let (mut client, out) = sent(false).await;
        client.close(None).await.expect("closed");
        tokio::time::timeout(std::time::Duration::from_secs(5), out.closed())
            .await
            .expect("in time");
    }
}
