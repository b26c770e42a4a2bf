//! The two directions of a stream, and the connection that carries it, whichever protocol that speaks.
//!
//! Each connection has one task that reads and one that writes. What arrives waits in its stream's queue, charged to a
//! budget of the whole connection: when that is used up, the connection is read no further until somebody takes what is
//! there, as TCP does it. Neither protocol has flow control per stream that clients would heed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most bytes that wait to be taken from all streams of a connection.
const BUDGET: u32 = 4 << 20;
/// What each waiting piece costs beside its bytes: many small ones are not to cost more than a few big ones.
const PIECE: usize = 256;
/// Pieces that wait to be written.
const QUEUE: usize = 32;
/// Most bytes of a piece that waits to be written.
const MAX_OUT: usize = 32 << 10;
/// How often a connection is shown to be alive to whatever lies between it and its client, who may be gone, too.
pub(super) const PING: Duration = Duration::from_secs(30);
/// After so long without anything but pings a connection is closed, as the kubelet does it.
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// How long a client may take to close a connection over which everything has been said.
const LINGER: Duration = Duration::from_secs(10);

/// Why a stream, or its connection, is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// The client gave the stream up.
    #[error("the stream was reset")]
    Reset,
    /// The client, or the way to it, is gone.
    #[error("the connection is gone")]
    Gone,
    /// The client does not speak the protocol.
    #[error("the client broke the protocol: {0}")]
    Protocol(&'static str),
}

/// What a client sends on a stream.
pub(crate) struct Incoming {
    items: mpsc::UnboundedReceiver<Item>,
    over: Option<Result<(), Broken>>,
}

/// Where a connection puts what arrives on a stream.
pub(super) type Inlet = mpsc::UnboundedSender<Item>;

pub(super) enum Item {
    Data(Bytes, OwnedSemaphorePermit),
    Finished,
    Reset,
}

impl Incoming {
    pub(super) fn new() -> (Inlet, Self) {
        let (inlet, items) = mpsc::unbounded_channel();
        (inlet, Self { items, over: None })
    }

    /// The next piece; none once the client has sent everything.
    ///
    /// # Errors
    /// When there may have been more, which will not come.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(over) = self.over {
            return over.map(|()| None);
        }
        let over = match self.items.recv().await {
            Some(Item::Data(data, _charge)) => return Ok(Some(data)),
            Some(Item::Finished) => Ok(()),
            Some(Item::Reset) => Err(Broken::Reset),
            None => Err(Broken::Gone),
        };
        self.over = Some(over);
        over.map(|()| None)
    }
}

/// Where to send to a client on a stream; clones send on the same one.
#[derive(Clone)]
pub(crate) struct Outgoing {
    stream: u32,
    out: mpsc::Sender<Out>,
    broken: CancellationToken,
}

/// What is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Out {
    /// The stream was taken.
    Accept(u32),
    /// At most [`MAX_OUT`] bytes.
    Data { stream: u32, data: Bytes },
    /// Nothing more will come on the stream.
    Finish(u32),
    /// The stream is not wanted.
    Reject(u32),
    /// The answer to a ping.
    Pong(u32),
    /// Everything has been said.
    Close,
    /// The client cannot be understood.
    Fail,
}

impl Outgoing {
    pub(super) fn new(stream: u32, out: mpsc::Sender<Out>, broken: CancellationToken) -> Self {
        Self { stream, out, broken }
    }

    /// Sends; waits while the client does not keep up.
    ///
    /// # Errors
    /// When the client takes no more.
    pub(crate) async fn send(&self, mut data: Bytes) -> Result<(), Broken> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_OUT));
            self.put(Out::Data { stream: self.stream, data: piece }).await?;
        }
        Ok(())
    }

    /// Sends an empty piece, which tells WebSocket clients that the stream is there.
    pub(crate) async fn announce(&self) -> Result<(), Broken> {
        self.put(Out::Data { stream: self.stream, data: Bytes::new() }).await
    }

    /// Nothing more will be sent. That the client is gone does not matter any more.
    pub(crate) async fn finish(&self) {
        let _ = self.put(Out::Finish(self.stream)).await;
    }

    pub(super) async fn accept(&self) -> Result<(), Broken> {
        self.put(Out::Accept(self.stream)).await
    }

    pub(super) async fn reject(&self) {
        let _ = self.put(Out::Reject(self.stream)).await;
    }

    /// Cancelled once the client takes no more.
    pub(crate) fn broken(&self) -> &CancellationToken {
        &self.broken
    }

    async fn put(&self, out: Out) -> Result<(), Broken> {
        tokio::select! {
            biased;
            () = self.broken.cancelled() => Err(Broken::Gone),
            sent = self.out.send(out) => sent.map_err(|_| Broken::Gone),
        }
    }
}

/// A connection whose streams are in use. Dropping it breaks all of them.
pub(crate) struct Connection {
    shared: Shared,
}

/// What a connection's two tasks and its streams have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) out: mpsc::Sender<Out>,
    /// Nothing more is read, nor written.
    pub(super) gone: CancellationToken,
    /// Everything that will be written is.
    pub(super) written: CancellationToken,
    budget: Arc<Semaphore>,
    start: Instant,
    /// Seconds after the start when something was last sent or received.
    last: Arc<AtomicU64>,
}

impl Shared {
    pub(super) fn new() -> (Self, mpsc::Receiver<Out>) {
        let (out, queue) = mpsc::channel(QUEUE);
        let shared = Self {
            out,
            gone: CancellationToken::new(),
            written: CancellationToken::new(),
            budget: Arc::new(Semaphore::new(BUDGET as usize)),
            start: Instant::now(),
            last: Arc::default(),
        };
        (shared, queue)
    }

    /// Puts a piece in a stream's queue, once there is room for it. Nothing happens to a piece that nobody wants.
    pub(super) async fn deliver(&self, inlet: &Inlet, data: Bytes) -> Result<(), Broken> {
        if data.is_empty() || inlet.is_closed() {
            return Ok(());
        }
        let cost = u32::try_from(data.len() + PIECE).unwrap_or(BUDGET).min(BUDGET);
        let charge = tokio::select! {
            charge = self.budget.clone().acquire_many_owned(cost) => charge,
            // Those who wait for this piece may wait for more of the connection than of the stream.
            () = self.gone.cancelled() => return Err(Broken::Gone),
        };
        let charge = charge.map_err(|_| Broken::Gone)?;
        let _ = inlet.send(Item::Data(data, charge));
        Ok(())
    }

    /// Something was sent or received that is no ping.
    pub(super) fn touch(&self) {
        self.last.store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// Whether nothing has happened for so long that the connection is to be closed.
    pub(super) fn is_idle(&self) -> bool {
        let last = Duration::from_secs(self.last.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last) > IDLE
    }

    /// The reader's end: with an error where the client was not understood, which it is told.
    pub(super) async fn ended(&self, outcome: Result<(), Broken>) {
        if let Err(Broken::Protocol(why)) = outcome {
            tracing::debug!(why, "a client's stream connection is closed");
            const TELL: Duration = Duration::from_secs(1);
            let tell = async {
                let _ = self.out.send(Out::Fail).await;
                self.written.cancelled().await;
            };
            let _ = tokio::time::timeout(TELL, tell).await;
        }
        self.gone.cancel();
    }
}

impl Connection {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    /// Cancelled once the client is gone.
    pub(crate) fn gone(&self) -> &CancellationToken {
        &self.shared.gone
    }

    /// Ends the connection when everything that was sent is on its way. A client that has not read it yet gets time to.
    pub(crate) async fn close(self) {
        let shared = &self.shared;
        tokio::select! {
            () = shared.gone.cancelled() => return,
            sent = shared.out.send(Out::Close) => {
                if sent.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            () = shared.gone.cancelled() => return,
            () = shared.written.cancelled() => {}
        }
        // Were the socket closed while something of the client's lies unread in it, what it has not read itself would
        // be lost.
        let _ = tokio::time::timeout(LINGER, shared.gone.cancelled()).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.gone.cancel();
    }
}
