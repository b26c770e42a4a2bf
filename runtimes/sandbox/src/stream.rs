//! Streams to and from a container's processes, over a connection that was upgraded from HTTP.
//!
//! A frame is one byte of kind, four bytes of length (big endian) and that many bytes, at most [`MAX_FRAME`]. Both sides
//! speak through a [`Session`]; queues are bounded, so that a reader who does not read holds up the writer.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use crate::types::Problem;

/// The protocol's name in the `Upgrade` header: frames.
pub const STREAMS: &str = "coracle-streams";
/// The same for plain bytes.
pub const BYTES: &str = "coracle-bytes";

/// Most bytes of a frame that are sent or believed.
pub const MAX_FRAME: usize = 64 << 10;
/// Frames that wait in a queue.
const QUEUE: usize = 8;

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// More of standard input.
    Stdin(Bytes),
    /// Standard input ends.
    StdinEnd,
    /// The terminal has another size.
    Resize(Size),
}

/// What a host sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// More of standard output.
    Stdout(Bytes),
    /// More of standard error.
    Stderr(Bytes),
    /// The process ended with this code; nothing follows.
    Exit(i32),
    /// The host cannot go on; nothing follows.
    Failed(Problem),
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// A client's end of a session. Dropping `input` says that the client is gone.
#[derive(Debug)]
pub struct Session {
    /// To the process.
    pub input: mpsc::Sender<Input>,
    /// From the process, to [`Output::Exit`] or [`Output::Failed`].
    pub output: mpsc::Receiver<Output>,
}

/// A host's end of a session.
#[derive(Debug)]
pub struct Serving {
    /// From the client; ends when it is gone.
    pub input: mpsc::Receiver<Input>,
    /// To the client.
    pub output: mpsc::Sender<Output>,
}

impl Session {
    /// Both ends.
    pub fn pair() -> (Session, Serving) {
        let (input, from_client) = mpsc::channel(QUEUE);
        let (to_client, output) = mpsc::channel(QUEUE);
        (Session { input, output }, Serving { input: from_client, output: to_client })
    }
}

/// A connection of any kind.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A connection that carries plain bytes, as port forwarding does.
pub type ByteStream = Box<dyn Connection>;

/// Carries a host's session over a connection, until the process or the client ended.
pub(crate) async fn serve(connection: impl Connection, session: Session) {
    let (read, mut write) = tokio::io::split(connection);
    let Session { input, mut output } = session;
    let incoming = async move {
        let mut read = BufReader::new(read);
        while let Ok(Some((kind, body))) = receive(&mut read).await {
            let Some(frame) = Input::of(kind, body) else { return };
            if input.send(frame).await.is_err() {
                // The process takes no more input; the client is listened to for its end alone.
                let mut rest = [0; 512];
                while read.read(&mut rest).await.is_ok_and(|count| count > 0) {}
                return;
            }
        }
    };
    let outgoing = async {
        while let Some(frame) = output.recv().await {
            let last = matches!(frame, Output::Exit(_) | Output::Failed(_));
            let (kind, body) = frame.parts();
            if send(&mut write, kind, &body).await.is_err() || last {
                break;
            }
        }
        let _ = write.shutdown().await;
    };
    tokio::select! {
        () = incoming => {}
        () = outgoing => {}
    }
}

/// Carries a client's session over a connection.
pub(crate) fn call(connection: impl Connection + 'static) -> Session {
    let (session, serving) = Session::pair();
    let Serving { mut input, output } = serving;
    let (read, mut write) = tokio::io::split(connection);
    let outgoing = async move {
        while let Some(frame) = input.recv().await {
            let (kind, body) = frame.parts();
            if send(&mut write, kind, &body).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let incoming = async move {
        let mut read = BufReader::new(read);
        while let Ok(Some((kind, body))) = receive(&mut read).await {
            let Some(frame) = Output::of(kind, body) else { return };
            if output.send(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(async move {
        let outgoing = tokio::spawn(outgoing);
        incoming.await;
        outgoing.abort();
    });
    session
}

impl Input {
    fn parts(self) -> (u8, Bytes) {
        match self {
            Input::Stdin(bytes) => (b'i', bytes),
            Input::StdinEnd => (b'e', Bytes::new()),
            Input::Resize(Size { columns, rows }) => {
                let body = [columns.to_be_bytes(), rows.to_be_bytes()].concat();
                (b'r', body.into())
            }
        }
    }

    fn of(kind: u8, body: Bytes) -> Option<Input> {
        match (kind, &body[..]) {
            (b'i', _) => Some(Input::Stdin(body)),
            (b'e', []) => Some(Input::StdinEnd),
            (b'r', &[a, b, c, d]) => {
                let [columns, rows] = [[a, b], [c, d]].map(u16::from_be_bytes);
                Some(Input::Resize(Size { columns, rows }))
            }
            _ => None,
        }
    }
}

impl Output {
    fn parts(self) -> (u8, Bytes) {
        match self {
            Output::Stdout(bytes) => (b'o', bytes),
            Output::Stderr(bytes) => (b'E', bytes),
            Output::Exit(code) => (b'x', code.to_be_bytes().to_vec().into()),
            Output::Failed(problem) => {
                (b'f', serde_json::to_vec(&problem).unwrap_or_default().into())
            }
        }
    }

    fn of(kind: u8, body: Bytes) -> Option<Output> {
        match kind {
            b'o' => Some(Output::Stdout(body)),
            b'E' => Some(Output::Stderr(body)),
            b'x' => Some(Output::Exit(i32::from_be_bytes(body[..].try_into().ok()?))),
            b'f' => Some(Output::Failed(serde_json::from_slice(&body).ok()?)),
            _ => None,
        }
    }
}

async fn send(write: &mut (impl AsyncWrite + Unpin), kind: u8, body: &[u8]) -> io::Result<()> {
    // A body that is too long comes in parts; only those of streams are ever so long.
    let mut parts = body.chunks(MAX_FRAME);
    let mut part = parts.next().unwrap_or_default();
    loop {
        let mut frame = Vec::with_capacity(5 + part.len());
        frame.push(kind);
        frame.extend_from_slice(&(part.len() as u32).to_be_bytes());
        frame.extend_from_slice(part);
        write.write_all(&frame).await?;
        match parts.next() {
            Some(next) => part = next,
            None => return write.flush().await,
        }
    }
}

/// The next frame; none at the end of the connection.
async fn receive(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(u8, Bytes)>> {
    let mut head = [0; 5];
    match read.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    };
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body).await?;
    Ok(Some((kind, body.into())))
}

#[cfg(test)]
mod tests;
