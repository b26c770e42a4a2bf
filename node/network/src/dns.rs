//! The cluster's name server: Services by their names, everything else as the machine's own resolver has it.
//!
//! Wasm hosts find Services by themselves; containers look where their `resolv.conf` says, which is here: an address of this
//! machine's that all its Pods can reach. What it knows is what the Service table is made of, so a name and the address that it
//! stands for come into force together. As in any cluster, a Pod that runs on while there is no agent finds no new names.
//!
//! [`zone`] is the pure part: the cluster's names, as of CoreDNS's `kubernetes` plugin. [`message`] is the format of RFC 1035, by hickory-proto.

mod message;
#[cfg(test)]
mod tests;
mod zone;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::message::{Code, Record};
use self::zone::{Answer, Services};
use crate::Network;

const PORT: u16 = 53;
/// The machine's resolver.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long one of the machine's name servers may take; a resolver asks again after five seconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of the machine's name servers, as many as resolvers ask.
const SERVERS: usize = 3;
/// Questions that are being answered at a time; who comes when there are more asks again.
const MOST: usize = 512;
/// Aliases of aliases that are followed.
const ALIASES: usize = 8;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// A server that has its sockets.
pub struct Server {
    network: Network,
    datagrams: Arc<UdpSocket>,
    connections: TcpListener,
    room: Arc<Semaphore>,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// When somebody else on this machine has it.
    pub async fn bind(network: Network) -> io::Result<Self> {
        let address = (network.host_address(), PORT);
        let datagrams = Arc::new(UdpSocket::bind(address).await?);
        let connections = TcpListener::bind(address).await?;
        Ok(Self { network, datagrams, connections, room: Arc::new(Semaphore::new(MOST)) })
    }

    /// Answers this node's Pods, for ever.
    pub async fn run(self) {
        let mut datagram = vec![0; 64 << 10];
        loop {
            tokio::select! {
                came = self.datagrams.recv_from(&mut datagram) => {
                    // What could not be delivered is told here, too.
                    let Ok((length, from)) = came else { continue };
                    let Some(room) = self.admit(from) else { continue };
                    let (network, socket) = (self.network.clone(), self.datagrams.clone());
                    let question = datagram[..length].to_vec();
                    tokio::spawn(async move {
                        if let Some(answer) = answer(&network, &question, Way::Datagram).await {
                            let _ = socket.send_to(&answer, from).await;
                        }
                        drop(room);
                    });
                }
                came = self.connections.accept() => {
                    let Ok((stream, from)) = came else {
                        // Too many open files, as a rule.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    let Some(room) = self.admit(from) else { continue };
                    let network = self.network.clone();
                    tokio::spawn(async move {
                        let _ = converse(&network, stream).await;
                        drop(room);
                    });
                }
            }
        }
    }

    /// Room for one more, if it is from here: nobody else is served.
    fn admit(&self, from: SocketAddr) -> Option<OwnedSemaphorePermit> {
        let IpAddr::V4(from) = from.ip() else { return None };
        self.network.is_of_this_node(from).then(|| self.room.clone().try_acquire_owned().ok())?
    }
}

/// How a question came, and is passed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Datagram,
    Connection,
}

async fn converse(network: &Network, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let Ok(question) = timeout(SILENCE, receive(&mut stream)).await else { return Ok(()) };
        let Some(answer) = answer(network, &question?, Way::Connection).await else {
            return Ok(());
        };
        timeout(SILENCE, send(&mut stream, &answer)).await??;
    }
}

async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// Nothing to what is no question.
async fn answer(services: &impl Services, question: &[u8], way: Way) -> Option<Vec<u8>> {
    let query = match message::parse(question) {
        Ok(query) => query,
        Err(refusal) => return refusal,
    };
    let most = if way == Way::Datagram { query.datagram() } else { usize::from(u16::MAX) };
    let failure = || message::reply(&query, Code::ServFail, &[], most).ok();
    // Resolvers of Pods expect an alias together with what it stands for.
    let (mut aliases, mut asked) = (Vec::new(), query.clone());
    loop {
        let (code, records, whole) = match zone::answer(&asked, services) {
            Answer::Known(code, records) => (code, records, true),
            Answer::Alias(name) => {
                let next = asked.about(&name).filter(|_| aliases.len() < ALIASES);
                let Some(next) = next else { return failure() };
                aliases.push(Record::Alias(name));
                asked = next;
                if query.is_of_alias() { (Code::NoError, Vec::new(), true) } else { continue }
            }
            Answer::Elsewhere if aliases.is_empty() => {
                return elsewhere(question, way).await.or_else(failure);
            }
            Answer::Elsewhere => {
                let answer = elsewhere(&asked.to_message()?, way).await;
                match answer.as_deref().and_then(message::parts) {
                    Some(parts) => parts,
                    None => return failure(),
                }
            }
        };
        let records = [aliases, records].concat();
        // What is not whole is asked for again, over a connection.
        return message::reply(&query, code, &records, if whole { most } else { 0 }).ok();
    }
}

/// What the machine's name servers say.
async fn elsewhere(question: &[u8], way: Way) -> Option<Vec<u8>> {
    let config = tokio::fs::read_to_string(RESOLV_CONF).await.unwrap_or_default();
    for server in servers(&config) {
        let asked = timeout(PATIENCE, ask(SocketAddr::new(server, PORT), question, way)).await;
        if let Ok(Ok(answer)) = asked {
            return Some(answer);
        }
    }
    None
}

async fn ask(server: SocketAddr, question: &[u8], way: Way) -> io::Result<Vec<u8>> {
    if way == Way::Connection {
        let mut stream = TcpStream::connect(server).await?;
        send(&mut stream, question).await?;
        return receive(&mut stream).await;
    }
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { [0u16; 8].into() };
    // A port of its own for each question: nobody but the server knows where the answer is expected.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; 64 << 10];
    loop {
        let length = socket.recv(&mut answer).await?;
        if message::is_answer(&answer[..length], question) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

/// `nameserver` lines of a `resolv.conf`.
fn servers(config: &str) -> Vec<IpAddr> {
    let lines = config.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    });
    lines.take(SERVERS).collect()
}
