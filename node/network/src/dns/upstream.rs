//! Names that are not the cluster's: asked of the machine's name servers, and kept for a while.
//!
//! What is kept is bounded in number, size and time. Names that do not exist are kept as well (RFC 2308): searching Pods' suffixes asks
//! for many of them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::Way;
use super::message;

/// How long one of the machine's name servers may take; a resolver asks again after five seconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of the machine's name servers, as many as resolvers ask.
const SERVERS: usize = 3;
/// Answers that are kept, the longest of them, and how long at most: as CoreDNS usually has it.
const KEPT: usize = 512;
const LONGEST: usize = 1500;
const AT_MOST: Duration = Duration::from_secs(30);

/// The machine's name servers.
pub(super) struct Upstream {
    /// A `resolv.conf`.
    pub(super) config: PathBuf,
    /// Where they listen.
    pub(super) port: u16,
    /// Who asks: a machine may have been told to ask its own cluster, which would ask it in turn.
    pub(super) own: IpAddr,
    kept: Mutex<HashMap<Vec<u8>, Kept>>,
}

struct Kept {
    answer: Vec<u8>,
    since: Instant,
    until: Instant,
}

impl Upstream {
    pub(super) fn new(config: impl Into<PathBuf>, port: u16, own: IpAddr) -> Self {
        Self { config: config.into(), port, own, kept: Mutex::default() }
    }

    /// What they say; nothing if none of them answers.
    pub(super) async fn ask(&self, question: &[u8], way: Way) -> Option<Vec<u8>> {
        if let Some(known) = self.known(question) {
            return Some(known);
        }
        let config = tokio::fs::read_to_string(&self.config).await.unwrap_or_default();
        for server in servers(&config).into_iter().filter(|server| *server != self.own) {
            let asked = ask(SocketAddr::new(server, self.port), question, way);
            if let Ok(Ok(answer)) = timeout(PATIENCE, asked).await {
                self.keep(question, &answer);
                return Some(answer);
            }
        }
        None
    }

    /// The whole question but for its number is what is known by.
    fn known(&self, question: &[u8]) -> Option<Vec<u8>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let known = kept.get(question.get(2..)?).filter(|known| now < known.until)?;
        message::aged(&known.answer, question, now.duration_since(known.since))
    }

    fn keep(&self, question: &[u8], answer: &[u8]) {
        let (Some(key), Some(time)) = (question.get(2..), message::lifetime(answer)) else {
            return;
        };
        if answer.len() > LONGEST || time.is_zero() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if kept.len() >= KEPT {
            kept.retain(|_, known| now < known.until);
        }
        if kept.len() >= KEPT {
            // Whoever asks again has it again.
            kept.clear();
        }
        let until = now + time.min(AT_MOST);
        kept.insert(key.to_vec(), Kept { answer: answer.to_vec(), since: now, until });
    }
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

/// A message as it comes over a connection.
pub(super) async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Sends a message over a connection.
pub(super) async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// `nameserver` lines of a `resolv.conf`.
pub(super) fn servers(config: &str) -> Vec<IpAddr> {
    let lines = config.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    });
    lines.take(SERVERS).collect()
}
