//! WebSocket, in the two ways in which Kubernetes uses it: messages that begin with the number of their channel, and
//! messages that are pieces of a SPDY connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::StreamReader;

use super::stream::{Broken, Connection, Incoming, Inlet, Item, Out, Outgoing, PING, Shared};

/// Longest message that is believed, as upstream.
const MAX_MESSAGE: usize = 32 << 20;
/// Channel on which version 5 says that another one ends.
const CLOSE: u8 = 255;

/// A WebSocket whose handshake is over.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The server's side of a connection that was switched to WebSocket.
pub(crate) async fn accept(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// How channels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// In text messages: a digit for the channel, then base64.
    pub(crate) base64: bool,
    /// The client may say that a channel ends.
    pub(crate) closes: bool,
}

/// Serves that many channels, numbered from 0.
pub(crate) fn serve<S>(
    socket: WebSocketStream<S>,
    form: Form,
    channels: u8,
) -> (Connection, Vec<(Incoming, Outgoing)>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shared, queue) = Shared::new();
    let (sink, source) = socket.split();
    let mut inlets = Vec::new();
    let mut streams = Vec::new();
    for channel in 0..channels {
        let (inlet, incoming) = Incoming::new();
        let broken = shared.gone.child_token();
        let outgoing = Outgoing::new(u32::from(channel), shared.out.clone(), broken);
        inlets.push(Some(inlet));
        streams.push((incoming, outgoing));
    }
    tokio::spawn(write(sink, form, queue, shared.clone()));
    let reading = shared.clone();
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = read(source, form, inlets, &reading) => outcome,
            () = reading.gone.cancelled() => Ok(()),
        };
        reading.ended(outcome).await;
    });
    (Connection::new(shared), streams)
}

async fn read<S>(
    mut source: SplitStream<WebSocketStream<S>>,
    form: Form,
    mut inlets: Vec<Option<Inlet>>,
    shared: &Shared,
) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let message = match source.next().await {
            None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_))) => {
                return Ok(());
            }
            Some(Err(Error::Capacity(_))) => {
                return Err(Broken::Protocol("a message of more than 32 MiB"));
            }
            Some(Err(_)) => return Err(Broken::Protocol("no valid WebSocket")),
            Some(Ok(message)) => message,
        };
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            // Pings are answered by the library.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            Message::Close(_) => return Ok(()),
        };
        shared.touch();
        if data.is_empty() {
            continue;
        }
        let channel = match (data.split_to(1)[0], form.base64) {
            (channel, false) => channel,
            (digit, true) => digit.wrapping_sub(b'0'),
        };
        if form.base64 {
            let plain = BASE64.decode(&data);
            data = plain.map_err(|_| Broken::Protocol("no valid base64"))?.into();
        }
        if form.closes && channel == CLOSE {
            if let Some(closed) = data.first().and_then(|c| inlets.get_mut(usize::from(*c)))
                && let Some(inlet) = closed.take()
            {
                let _ = inlet.send(Item::Finished);
            }
            continue;
        }
        // What comes on other channels is passed over, as upstream.
        if let Some(Some(inlet)) = inlets.get(usize::from(channel)) {
            shared.deliver(inlet, data).await?;
        }
    }
}

async fn write<S>(
    sink: SplitSink<WebSocketStream<S>, Message>,
    form: Form,
    queue: mpsc::Receiver<Out>,
    shared: Shared,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        outcome = write_all(sink, form, queue, &shared) => {
            shared.written.cancel();
            if outcome.is_err() {
                shared.gone.cancel();
            }
        }
        () = shared.gone.cancelled() => {}
    }
}

async fn write_all<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    form: Form,
    mut queue: mpsc::Receiver<Out>,
    shared: &Shared,
) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ticks = tokio::time::interval(PING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    loop {
        let message = tokio::select! {
            out = queue.recv() => {
                shared.touch();
                match out {
                    Some(Out::Data { stream, data }) => piece(form, stream, &data),
                    // What has no message of its own: that a channel ends is seen by the end of all.
                    Some(Out::Accept(_) | Out::Finish(_) | Out::Reject(_) | Out::Pong(_)) => continue,
                    Some(Out::Close) | None => closing(CloseCode::Normal),
                    Some(Out::Fail) => closing(CloseCode::Protocol),
                }
            }
            _ = ticks.tick() => {
                if shared.is_idle() {
                    return Err(Broken::Gone);
                }
                Message::Ping(Bytes::new())
            }
        };
        let last = message.is_close();
        sink.send(message).await.map_err(|_| Broken::Gone)?;
        if last {
            return Ok(());
        }
    }
}

fn piece(form: Form, channel: u32, data: &[u8]) -> Message {
    // Of channels there are at most 256, and ten in base64.
    let channel = channel as u8;
    if form.base64 {
        let mut text = String::from(char::from(b'0' + channel));
        BASE64.encode_string(data, &mut text);
        return Message::text(text);
    }
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel);
    message.put_slice(data);
    Message::Binary(message.freeze())
}

pub(super) fn closing(code: CloseCode) -> Message {
    Message::Close(Some(CloseFrame { code, reason: "".into() }))
}

/// A WebSocket as a connection of bytes, whose messages are whatever arrives at once.
pub(crate) fn tunnel<S>(
    socket: WebSocketStream<S>,
) -> (impl AsyncRead + Send + Unpin, impl AsyncWrite + Send + Unpin)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, source) = socket.split();
    let bytes = source.filter_map(async |message| match message {
        Ok(Message::Binary(data)) => Some(Ok(data)),
        Ok(Message::Text(_)) => Some(Err(io::Error::other("text where bytes were to come"))),
        Ok(_) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    });
    (StreamReader::new(Box::pin(bytes)), Messages { sink, said_goodbye: false })
}

/// Writes bytes as messages.
struct Messages<S> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    said_goodbye: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Messages<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut sink = Pin::new(&mut self.sink);
        ready!(sink.as_mut().poll_ready(context)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        sink.start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink).poll_flush(context).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.said_goodbye {
            let mut sink = Pin::new(&mut self.sink);
            ready!(sink.as_mut().poll_ready(context)).map_err(io::Error::other)?;
            sink.start_send(closing(CloseCode::Normal)).map_err(io::Error::other)?;
            self.said_goodbye = true;
        }
        self.poll_flush(context)
    }
}
