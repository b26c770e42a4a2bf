//! Port-forward: connections to ports of a Pod, carried by streams.
//!
//! Over SPDY, whether on its own or inside WebSocket messages, a client opens two streams for each connection, one of which
//! is only for what goes wrong (`portforward.k8s.io`). Over plain WebSocket, the ports are given beforehand, and each has
//! one connection and two channels.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::spdy::Opened;
use super::stream::{Connection, Incoming, Outgoing};

/// How long the first stream of a pair waits for the second.
const PAIRING: Duration = Duration::from_secs(30);
/// How often it is seen whether the Pod is still there.
const LOOK: Duration = Duration::from_secs(2);
/// How long a Pod that has said everything may still be told something, by a client who can end both ways apart.
const LINGER: Duration = Duration::from_secs(10);
/// As much is read from a Pod at once.
const READ: usize = 32 << 10;
/// Most ports of one plain WebSocket.
const MAX_PORTS: usize = 64;

/// A connection to a port of a Pod.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Where ports are.
pub(crate) trait Target: Send + Sync + 'static {
    /// How errors name it.
    fn name(&self) -> String;

    /// Whether it runs.
    fn is_there(&self) -> bool;

    /// Connects to a port; the error says why that failed.
    fn dial(&self, port: u16) -> BoxFuture<'_, Result<Box<dyn Wire>, String>>;
}

/// Forwards over a SPDY connection until the client or the Pod is gone.
pub(crate) async fn over_spdy(
    connection: Connection,
    mut accepting: mpsc::Receiver<Opened>,
    target: Arc<dyn Target>,
) {
    let mut waiting: HashMap<(String, bool), (Instant, Opened)> = HashMap::new();
    let mut pairs = JoinSet::new();
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            opened = accepting.recv() => {
                let Some(opened) = opened else { break };
                let Some((request, port, is_error)) = request_of(&opened) else {
                    opened.reject().await;
                    continue;
                };
                let same = (request.clone(), is_error);
                if waiting.contains_key(&same) || opened.accept().await.is_err() {
                    opened.reject().await;
                    continue;
                }
                match waiting.remove(&(request, !is_error)) {
                    None => drop(waiting.insert(same, (Instant::now(), opened))),
                    Some((_, other)) => {
                        let (data, error) =
                            if is_error { (other, opened) } else { (opened, other) };
                        pairs.spawn(pair(data, error, port, target.clone()));
                    }
                }
            }
            Some(_) = pairs.join_next(), if !pairs.is_empty() => {}
            _ = ticks.tick() => {
                waiting.retain(|_, (since, _)| since.elapsed() < PAIRING);
                if !target.is_there() {
                    break;
                }
            }
        }
    }
    pairs.shutdown().await;
    connection.close().await;
}

/// Which connection a stream belongs to, to which port, and whether it is the one for errors.
fn request_of(opened: &Opened) -> Option<(String, u16, bool)> {
    let headers = &opened.headers;
    let is_error = match headers.get("streamtype")? {
        "error" => true,
        "data" => false,
        _ => return None,
    };
    let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let request = match headers.get("requestid").filter(|id| !id.is_empty()) {
        Some(id) => id.to_owned(),
        // Clients of old open the stream for errors first, and the other next.
        None if is_error => opened.id.to_string(),
        None => opened.id.saturating_sub(2).to_string(),
    };
    Some((request, port, is_error))
}

async fn pair(data: Opened, error: Opened, port: u16, target: Arc<dyn Target>) {
    match target.dial(port).await {
        Ok(wire) => pump(wire, data.incoming, &data.outgoing, LINGER).await,
        Err(why) => {
            let _ = error.outgoing.send(failure(port, &*target, &why)).await;
        }
    }
    data.outgoing.finish().await;
    error.outgoing.finish().await;
}

fn failure(port: u16, target: &dyn Target, why: &str) -> Bytes {
    format!("error forwarding port {port} to {}: {why}", target.name()).into()
}

/// The ports that a plain WebSocket is for, from the query of its request.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn ports(query: &[(String, String)]) -> Result<Vec<u16>, String> {
    let values = query.iter().filter(|(name, _)| name == "port").map(|(_, value)| value);
    let mut ports = Vec::new();
    for text in values.flat_map(|value| value.split(',')) {
        match text.parse() {
            Ok(0) => return Err(format!("port {text:?} must be > 0")),
            Ok(port) => ports.push(port),
            Err(error) => return Err(format!("unable to parse {text:?} as a port: {error}")),
        }
    }
    match ports.len() {
        0 => Err("query parameter \"port\" is required".to_owned()),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(format!("query parameter \"port\": at most {MAX_PORTS} ports")),
    }
}

/// Forwards one connection to each port, until all of them have ended.
pub(crate) async fn over_channels(
    connection: Connection,
    streams: Vec<(Incoming, Outgoing)>,
    ports: Vec<u16>,
    target: Arc<dyn Target>,
) {
    let mut streams = streams.into_iter();
    let mut pairs = JoinSet::new();
    for port in ports {
        let (Some((incoming, data)), Some((_, error))) = (streams.next(), streams.next()) else {
            break;
        };
        let target = target.clone();
        pairs.spawn(async move {
            // Each channel begins with the port that it is for.
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            if data.send(number.clone()).await.is_err() || error.send(number).await.is_err() {
                return;
            }
            match target.dial(port).await {
                // The client sees that the Pod has ended by the end of the connection alone.
                Ok(wire) => pump(wire, incoming, &data, Duration::ZERO).await,
                Err(why) => {
                    let _ = error.send(failure(port, &*target, &why)).await;
                }
            }
        });
    }
    let mut ticks = tokio::time::interval(LOOK);
    while !pairs.is_empty() {
        tokio::select! {
            _ = pairs.join_next() => {}
            () = connection.gone().cancelled() => break,
            _ = ticks.tick() => {
                if !target.is_there() {
                    break;
                }
            }
        }
    }
    pairs.shutdown().await;
    connection.close().await;
}

/// Copies both ways until the Pod has said everything, or the client wants no more of it.
async fn pump(wire: Box<dyn Wire>, mut incoming: Incoming, outgoing: &Outgoing, linger: Duration) {
    let (mut reader, mut writer) = tokio::io::split(wire);
    let to_pod = async {
        loop {
            match incoming.next().await {
                Ok(Some(data)) => {
                    // A Pod that reads no more may still have something to say.
                    if writer.write_all(&data).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {
                    let _ = writer.shutdown().await;
                    return;
                }
                // That the client gave up ends the copying the other way, too.
                Err(_) => return,
            }
        }
    };
    let from_pod = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    if outgoing.send(buffer.split().freeze()).await.is_err() {
                        return;
                    }
                }
            }
        }
        outgoing.finish().await;
    };
    let both = async {
        tokio::pin!(to_pod, from_pod);
        let said = tokio::select! {
            () = &mut from_pod => true,
            () = &mut to_pod => false,
        };
        if said {
            let _ = tokio::time::timeout(linger, to_pod).await;
        } else {
            from_pod.await;
        }
    };
    tokio::select! {
        () = both => {}
        () = outgoing.broken().cancelled() => {}
    }
}

#[cfg(test)]
mod tests;
