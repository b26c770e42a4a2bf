//! SPDY/3.1, as a server of streams that the client opens.
//!
//! What kubectl spoke alone until 1.30 and still falls back to; since 1.31 it also travels inside WebSocket messages. Only
//! what Kubernetes' clients use is here: streams with headers, opened by the client, data both ways, ends and resets, pings.

mod dictionary;
mod frame;
mod headers;

use std::collections::HashMap;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub(crate) use self::headers::Headers;
use super::stream::{Broken, Connection, Incoming, Inlet, Item, Out, Outgoing, PING, Shared};
use frame::{Frame, Reader};
use headers::{Decoder, Encoder};

/// Most streams of a connection at a time. `kubectl port-forward` opens two for each connection that it forwards.
const MAX_STREAMS: usize = 1000;
/// Streams that wait to be looked at.
const OPENED: usize = 32;
/// As much is put together before it is written.
const WRITE: usize = 64 << 10;

/// A stream that the client opened. It sends nothing before the stream is accepted.
pub(crate) struct Opened {
    /// Its number: odd, and greater than that of any stream before.
    pub(crate) id: u32,
    /// What it says of itself.
    pub(crate) headers: Headers,
    /// What the client sends.
    pub(crate) incoming: Incoming,
    /// Where to send to it.
    pub(crate) outgoing: Outgoing,
}

impl Opened {
    /// Takes the stream.
    pub(crate) async fn accept(&self) -> Result<(), Broken> {
        self.outgoing.accept().await
    }

    /// Refuses the stream.
    pub(crate) async fn reject(self) {
        self.outgoing.reject().await;
    }
}

/// Serves SPDY on a connection; gives the streams that the client opens, as it opens them.
pub(crate) fn serve<R, W>(reader: R, writer: W) -> (Connection, mpsc::Receiver<Opened>)
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (shared, queue) = Shared::new();
    let (opened, accepting) = mpsc::channel(OPENED);
    tokio::spawn(write(writer, queue, shared.clone()));
    let table = Table {
        shared: shared.clone(),
        opened,
        decoder: Decoder::new(),
        streams: HashMap::new(),
        last: 0,
    };
    let reading = shared.clone();
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = table.read(reader) => outcome,
            () = reading.gone.cancelled() => Ok(()),
        };
        reading.ended(outcome).await;
    });
    (Connection::new(shared), accepting)
}

/// The streams that the client may still send on.
struct Table {
    shared: Shared,
    opened: mpsc::Sender<Opened>,
    decoder: Decoder,
    streams: HashMap<u32, (Inlet, CancellationToken)>,
    last: u32,
}

impl Table {
    /// Until the client says no more.
    async fn read(mut self, mut reader: impl AsyncRead + Unpin) -> Result<(), Broken> {
        let mut buffer = BytesMut::new();
        let mut frames = Reader::default();
        loop {
            while let Some(frame) = frames.next(&mut buffer)? {
                self.take(frame).await?;
            }
            buffer.reserve(frame::MAX_PIECE);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Broken> {
        if !matches!(frame, Frame::Ping(_)) {
            self.shared.touch();
        }
        match frame {
            Frame::SynStream { stream, fin, block } => {
                let headers = self.decoder.decode(&block)?;
                self.open(stream, fin, headers).await?;
            }
            Frame::Headers { stream, fin, block } => {
                self.decoder.decode(&block)?;
                if fin {
                    self.finish(stream);
                }
            }
            Frame::Data { stream, .. } if stream > self.last => {
                return Err(Broken::Protocol("data on a stream that was never opened"));
            }
            Frame::Data { stream, fin, data } => {
                // Of a stream that is not known any more: on its way when the stream ended.
                if let Some((inlet, _)) = self.streams.get(&stream) {
                    self.shared.deliver(inlet, data).await?;
                }
                if fin {
                    self.finish(stream);
                }
            }
            Frame::Reset { stream } => {
                if let Some((inlet, broken)) = self.streams.remove(&stream) {
                    let _ = inlet.send(Item::Reset);
                    broken.cancel();
                }
            }
            Frame::Ping(id) if id % 2 == 1 => self.put(Out::Pong(id)).await?,
            Frame::Ping(_) | Frame::GoAway | Frame::Ignored => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, fin: bool, headers: Headers) -> Result<(), Broken> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Broken::Protocol("streams are not numbered as a client's"));
        }
        self.last = stream;
        if self.streams.len() >= MAX_STREAMS {
            // Nobody reads what is sent on these any more.
            self.streams.retain(|_, (inlet, _)| !inlet.is_closed());
        }
        if self.streams.len() >= MAX_STREAMS {
            return self.put(Out::Reject(stream)).await;
        }
        let (inlet, incoming) = Incoming::new();
        let broken = self.shared.gone.child_token();
        let outgoing = Outgoing::new(stream, self.shared.out.clone(), broken.clone());
        self.streams.insert(stream, (inlet, broken));
        if fin {
            self.finish(stream);
        }
        let opened = Opened { id: stream, headers, incoming, outgoing };
        self.opened.send(opened).await.map_err(|_| Broken::Gone)
    }

    /// The client sends no more on a stream; it may still be sent to, and still reset it.
    fn finish(&mut self, stream: u32) {
        if let Some((inlet, _)) = self.streams.get(&stream) {
            let _ = inlet.send(Item::Finished);
        }
    }

    async fn put(&self, out: Out) -> Result<(), Broken> {
        self.shared.out.send(out).await.map_err(|_| Broken::Gone)
    }
}

/// Writes until there is nothing more to write.
async fn write(writer: impl AsyncWrite + Unpin, queue: mpsc::Receiver<Out>, shared: Shared) {
    tokio::select! {
        outcome = write_all(writer, queue, &shared) => {
            shared.written.cancel();
            if outcome.is_err() {
                shared.gone.cancel();
            }
        }
        () = shared.gone.cancelled() => {}
    }
}

async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Out>,
    shared: &Shared,
) -> Result<(), Broken> {
    let mut encoder = Encoder::new();
    let mut buffer = BytesMut::new();
    let (mut pings, mut last) = (0, 0);
    let mut ticks = tokio::time::interval(PING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let mut open = true;
    while open {
        tokio::select! {
            out = queue.recv() => {
                let mut next = out;
                while let Some(out) = next {
                    shared.touch();
                    if let Out::Accept(stream) = out {
                        last = stream.max(last);
                    }
                    open &= encode(&mut buffer, &mut encoder, out, last);
                    next = if open && buffer.len() < WRITE { queue.try_recv().ok() } else { None };
                }
            }
            _ = ticks.tick() => {
                if shared.is_idle() {
                    return Err(Broken::Gone);
                }
                // A server's pings have even numbers.
                pings += 2;
                frame::ping(&mut buffer, pings);
            }
        }
        writer.write_all(&buffer).await.map_err(|_| Broken::Gone)?;
        writer.flush().await.map_err(|_| Broken::Gone)?;
        buffer.clear();
    }
    writer.shutdown().await.map_err(|_| Broken::Gone)
}

/// Whether more may follow.
fn encode(buffer: &mut BytesMut, encoder: &mut Encoder, out: Out, last: u32) -> bool {
    match out {
        Out::Accept(stream) => frame::reply(buffer, stream, &encoder.encode(&[])),
        Out::Data { data, .. } if data.is_empty() => {}
        Out::Data { stream, data } => {
            frame::data(buffer, stream, false, data.len());
            buffer.extend_from_slice(&data);
        }
        Out::Finish(stream) => frame::data(buffer, stream, true, 0),
        Out::Reject(stream) => frame::reset(buffer, stream),
        Out::Pong(id) => frame::ping(buffer, id),
        Out::Close => {
            frame::go_away(buffer, last, false);
            return false;
        }
        Out::Fail => {
            frame::go_away(buffer, last, true);
            return false;
        }
    }
    true
}

#[cfg(test)]
pub(crate) mod tests;
