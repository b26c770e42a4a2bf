//! The cluster's name server: Services by their names, everything else as the machine's own resolver has it.
//!
//! Wasm hosts find Services by themselves; containers look where their `resolv.conf` says, which is here: an address of this
//! machine's that all its Pods can reach. What it knows is what the Service table is made of, so a name and the address that it
//! stands for come into force together. As in any cluster, a Pod that runs on while there is no agent finds no new names.
//!
//! [`zone`] is the pure part: the cluster's names, as of CoreDNS's `kubernetes` plugin. [`message`] is the format of RFC 1035, by hickory-proto;
//! [`upstream`] asks others.

mod message;
#[cfg(test)]
mod tests;
mod upstream;
mod zone;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::message::{Code, Record};
use self::upstream::{Upstream, receive, send};
use self::zone::{Answer, Services};
use crate::Network;

const PORT: u16 = 53;
/// The machine's resolver.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Questions that are being answered at a time; who comes when there are more asks again.
const MOST: usize = 512;
/// Aliases of aliases that are followed.
const ALIASES: usize = 8;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// A server that has its sockets.
pub struct Server {
    network: Network,
    upstream: Arc<Upstream>,
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
        let upstream = Arc::new(Upstream::new(RESOLV_CONF, PORT, network.host_address().into()));
        Ok(Self { network, upstream, datagrams, connections, room: Arc::new(Semaphore::new(MOST)) })
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
                    let (upstream, question) = (self.upstream.clone(), datagram[..length].to_vec());
                    tokio::spawn(async move {
                        let answer = answer(&network, &upstream, &question, Way::Datagram).await;
                        if let Some(answer) = answer {
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
                    let (network, upstream) = (self.network.clone(), self.upstream.clone());
                    tokio::spawn(async move {
                        let _ = converse(&network, &upstream, stream).await;
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

async fn converse(network: &Network, upstream: &Upstream, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let Ok(question) = timeout(SILENCE, receive(&mut stream)).await else { return Ok(()) };
        let Some(answer) = answer(network, upstream, &question?, Way::Connection).await else {
            return Ok(());
        };
        timeout(SILENCE, send(&mut stream, &answer)).await??;
    }
}

/// Nothing to what is no question.
async fn answer(
    services: &impl Services,
    upstream: &Upstream,
    question: &[u8],
    way: Way,
) -> Option<Vec<u8>> {
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
                return upstream.ask(question, way).await.or_else(failure);
            }
            Answer::Elsewhere => {
                let answer = upstream.ask(&asked.to_message()?, way).await;
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
