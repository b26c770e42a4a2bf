//! nf_tables messages over netlink: a batch is one transaction, applied whole or not at all.
//!
//! The kernel works through a batch inside `sendmsg`, so its answers are there when the call returns: no answer is
//! awaited, and a commit is synchronous. Numbers are big-endian in attributes, native in message headers
//! (linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// Create what does not exist.
pub(super) const CREATE: u16 = 0x400;
/// Create at the end of the list: a rule after the others.
pub(super) const APPEND: u16 = 0x800 | CREATE;
const NLA_F_NESTED: u16 = 0x8000;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
/// `NFNL_SUBSYS_CTNETLINK`, with what is asked of it (`enum cntl_msg_types`).
pub(super) const GET_CONNECTIONS: u16 = 1 << 8 | 1;
pub(super) const DELETE_CONNECTION: u16 = 1 << 8 | 2;
/// `NFT_MSG_GETSETELEM`.
pub(super) const GET_ELEMENTS: u16 = SUBSYSTEM << 8 | 13;
const NFPROTO_IPV4: u8 = 2;
const HEADER: usize = 16;
/// Longer than what any nested attribute but an element list holds; lists are cut below it.
pub(super) const MAX_ATTRIBUTE: usize = 60_000;

/// What a message does (`enum nf_tables_msg_types`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Verb {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    DelChain = 5,
    NewRule = 6,
    DelRule = 8,
    NewSet = 9,
    NewSetElem = 12,
    DelSetElem = 14,
}

/// A transaction that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The socket could not be opened or used.
    #[error(
        "cannot {step} the netfilter netlink socket: {source}; this needs root (CAP_NET_ADMIN) and a kernel with nf_tables"
    )]
    Socket {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A message of the batch was refused, so the whole batch was.
    #[error(
        "the kernel refused the Service rules ({operation}, message {number} of the transaction): {source}"
    )]
    Refused {
        /// The first refused message's kind.
        operation: String,
        /// Its position, from 1.
        number: u32,
        /// The kernel's error.
        source: io::Error,
    },
    /// Neither success nor an error came back.
    #[error("the kernel did not acknowledge the Service rules")]
    Unacknowledged,
}

/// Messages that take effect together.
pub(super) struct Batch {
    buffer: Vec<u8>,
    last: usize,
    count: u32,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Batch { buffer: Vec::with_capacity(4096), last: 0, count: 0 };
        batch.control(BATCH_BEGIN);
        batch
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a message; `fill` writes its attributes.
    pub(super) fn message(
        &mut self,
        verb: Verb,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.count += 1;
        let kind = SUBSYSTEM << 8 | verb as u16;
        self.last =
            header(&mut self.buffer, kind, NLM_F_REQUEST | flags, self.count, NFPROTO_IPV4, 0);
        fill(&mut Attributes { buffer: &mut self.buffer });
        finish(&mut self.buffer, self.last);
    }

    fn control(&mut self, kind: u16) {
        let start = header(&mut self.buffer, kind, NLM_F_REQUEST, 0, 0, SUBSYSTEM);
        finish(&mut self.buffer, start);
    }

    /// The bytes to send. Only the last message asks for an acknowledgement; refusals always come.
    fn finish(mut self) -> (Vec<u8>, u32) {
        let flags = u16::from_ne_bytes([self.buffer[self.last + 6], self.buffer[self.last + 7]])
            | NLM_F_ACK;
        self.buffer[self.last + 6..self.last + 8].copy_from_slice(&flags.to_ne_bytes());
        self.control(BATCH_END);
        (self.buffer, self.count)
    }
}

/// Writes a netlink header with its `nfgenmsg`, and returns where it starts.
fn header(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&[family, 0]);
    buffer.extend_from_slice(&resource.to_be_bytes());
    start
}

fn finish(buffer: &mut [u8], start: usize) {
    // Lengths below 4 GiB: a batch for every Service of a large cluster is a few MiB.
    let length = (buffer.len() - start) as u32;
    buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Writes netlink attributes, each padded to four bytes.
pub(super) struct Attributes<'a> {
    pub(super) buffer: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |this| this.buffer.extend_from_slice(value));
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn string(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |this| {
            this.buffer.extend_from_slice(value.as_bytes());
            this.buffer.push(0);
        });
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NLA_F_NESTED, fill);
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        fill(self);
        let length = self.buffer.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "attribute {kind} of {length} bytes");
        self.buffer[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.buffer[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.buffer.resize(start + length.next_multiple_of(4), 0);
    }
}

/// A netfilter netlink socket, bound for life to the namespace it was opened in.
#[derive(Debug)]
pub(super) struct NftSocket {
    fd: OwnedFd,
}

impl NftSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NftError> {
        let open = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                flags,
                SockProtocol::NetlinkNetFilter,
            )?;
            // Room for many refusals: each carries the refused message.
            setsockopt(&fd, sockopt::RcvBufForce, &(1 << 20))?;
            Ok(fd)
        };
        open()
            .map(|fd| NftSocket { fd })
            .map_err(|errno| NftError::Socket { step: "open", source: errno.into() })
    }

    /// Applies a batch. An empty one is done already.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (bytes, last) = batch.finish();
        // The kernel takes a batch as one datagram only.
        let room = (bytes.len() + 4096).max(1 << 18);
        let socket_error =
            |step| move |errno: Errno| NftError::Socket { step, source: errno.into() };
        setsockopt(&self.fd, sockopt::SndBufForce, &room).map_err(socket_error("size"))?;
        self.send(&bytes)?;
        self.answers(&bytes, last)
    }

    /// Whether a table of this name exists.
    pub(super) fn has_table(&self, name: &str) -> Result<bool, NftError> {
        let mut attributes = Vec::new();
        Attributes { buffer: &mut attributes }.string(1, name);
        match self.ask(SUBSYSTEM << 8 | Verb::GetTable as u16, &attributes) {
            Ok(()) => Ok(true),
            Err(NftError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The names of all tables.
    pub(super) fn tables(&self) -> Result<Vec<String>, NftError> {
        let mut tables = Vec::new();
        let kind = SUBSYSTEM << 8 | Verb::GetTable as u16;
        self.list(kind, &[], |body| tables.extend(table_name(body)))?;
        Ok(tables)
    }

    /// Asks for all of a kind, with these attributes; `each` is given what follows each message's headers.
    pub(super) fn list(
        &self,
        kind: u16,
        attributes: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NftError> {
        let mut request = Vec::new();
        let start = header(&mut request, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, NFPROTO_IPV4, 0);
        request.extend_from_slice(attributes);
        finish(&mut request, start);
        self.send(&request)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            // Each part of a list is there once the one before it is read.
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(NftError::Unacknowledged),
                Err(errno) => {
                    return Err(NftError::Socket { step: "read from", source: errno.into() });
                }
            };
            for (kind, _, body) in messages(&buffer[..length]) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(NftError::Unacknowledged),
                    _ => each(body.get(4..).unwrap_or_default()),
                }
            }
        }
    }

    /// Asks one thing, with these attributes.
    pub(super) fn ask(&self, kind: u16, attributes: &[u8]) -> Result<(), NftError> {
        let mut request = Vec::new();
        let start = header(&mut request, kind, NLM_F_REQUEST | NLM_F_ACK, 1, NFPROTO_IPV4, 0);
        request.extend_from_slice(attributes);
        finish(&mut request, start);
        self.send(&request)?;
        self.answers(&request, 1)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NftError> {
        let kernel = NetlinkAddr::new(0, 0);
        let sent = sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty());
        sent.map(drop).map_err(|errno| NftError::Socket { step: "write to", source: errno.into() })
    }

    /// Reads all answers: the first refusal wins, otherwise the last message must be acknowledged.
    fn answers(&self, sent: &[u8], last: u32) -> Result<(), NftError> {
        let mut buffer = vec![0; 1 << 16];
        let mut refusal: Option<NftError> = None;
        let mut acknowledged = false;
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    let overflow = NftError::Socket { step: "read from", source: errno.into() };
                    refusal.get_or_insert(overflow);
                    // After an overflow (ENOBUFS) the queued answers can still be read; anything else is final.
                    if errno == Errno::ENOBUFS { continue } else { break }
                }
            };
            for (kind, sequence, body) in messages(&buffer[..length]) {
                let Some(code) = body.first_chunk::<4>().filter(|_| kind == NLMSG_ERROR) else {
                    continue;
                };
                match i32::from_ne_bytes(*code) {
                    0 => acknowledged |= sequence == last,
                    code => {
                        refusal.get_or_insert_with(|| NftError::Refused {
                            operation: operation(sent, sequence),
                            number: sequence,
                            source: io::Error::from_raw_os_error(-code),
                        });
                    }
                }
            }
        }
        match refusal {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(NftError::Unacknowledged),
        }
    }
}

/// The name in a message about a table: its first attribute.
fn table_name(body: &[u8]) -> Option<String> {
    let (_, name) = attributes(body).next()?;
    String::from_utf8(name.strip_suffix(&[0])?.to_vec()).ok()
}

/// The attributes in a buffer: kind and value.
pub(super) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = buffer.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & !NLA_F_NESTED;
        let value = buffer.get(4..length)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The netlink messages in a buffer: kind, sequence number and what follows the header.
fn messages(mut buffer: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let head = buffer.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let message = buffer.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let sequence = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, message))
    })
}

/// What the message with this sequence number was to do.
fn operation(sent: &[u8], sequence: u32) -> String {
    let verbs = [
        Verb::NewTable,
        Verb::GetTable,
        Verb::DelTable,
        Verb::NewChain,
        Verb::DelChain,
        Verb::NewRule,
        Verb::DelRule,
        Verb::NewSet,
        Verb::NewSetElem,
        Verb::DelSetElem,
    ];
    let kind =
        messages(sent).find(|(_, number, _)| *number == sequence).map(|(kind, _, _)| kind & 0xff);
    let verb = verbs.into_iter().find(|verb| Some(*verb as u16) == kind);
    verb.map_or_else(|| "unknown".to_owned(), |verb| format!("{verb:?}"))
}
