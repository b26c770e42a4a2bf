//! Connections of datagrams that lead where nobody answers any more.
//!
//! The kernel translates a connection as its first packet was. A TCP client whose backend is gone is told so and calls anew;
//! one that sends datagrams from one port goes on for ever, and each of them keeps the old way open (kube-proxy's
//! `CleanStaleEntries`).

use std::net::{Ipv4Addr, SocketAddrV4};

use super::wire::{
    Attributes, DELETE_CONNECTION, GET_CONNECTIONS, NftError, NftSocket, attributes,
};

const UDP: u8 = 17;
// `enum ctattr_type`, `ctattr_tuple`, `ctattr_ip` and `ctattr_l4proto`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;
const PROTO_NUM: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// What a Service's port leads to now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stale {
    /// What is called; none for a NodePort, which every address has.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) port: u16,
    /// Connections to others are to end.
    pub(super) backends: Vec<SocketAddrV4>,
}

/// One direction of a connection.
struct Tuple {
    protocol: u8,
    source: SocketAddrV4,
    destination: SocketAddrV4,
}

impl Tuple {
    fn parse(body: &[u8]) -> Option<Self> {
        let find = |body, kind| attributes(body).find(|(k, _)| *k == kind).map(|(_, value)| value);
        let (ip, proto) = (find(body, TUPLE_IP)?, find(body, TUPLE_PROTO)?);
        let address = |kind| Some(Ipv4Addr::from(*find(ip, kind)?.first_chunk::<4>()?));
        let port = |kind| Some(u16::from_be_bytes(*find(proto, kind)?.first_chunk::<2>()?));
        Some(Self {
            protocol: *find(proto, PROTO_NUM)?.first()?,
            source: SocketAddrV4::new(address(SOURCE)?, port(SOURCE_PORT)?),
            destination: SocketAddrV4::new(address(DESTINATION)?, port(DESTINATION_PORT)?),
        })
    }
}

impl Stale {
    /// Whether a connection that began so and is answered so leads elsewhere. What calls a backend directly does not.
    fn has(&self, began: &Tuple, answers: &Tuple) -> bool {
        let called = began.destination;
        began.protocol == UDP
            && called.port() == self.port
            && match self.address {
                Some(address) => *called.ip() == address,
                // Another machine's port of that number is not ours.
                None => answers.source != called,
            }
            && !self.backends.contains(&answers.source)
    }
}

/// Ends connections that lead elsewhere than they should.
pub(super) fn clean(socket: &NftSocket, stale: &[Stale]) -> Result<(), NftError> {
    if stale.is_empty() {
        return Ok(());
    }
    let mut found: Vec<Vec<u8>> = Vec::new();
    socket.list(GET_CONNECTIONS, &[], |body| {
        let tuple = |kind| attributes(body).find(|(k, _)| *k == kind).map(|(_, value)| value);
        let (Some(orig), Some(reply)) = (tuple(TUPLE_ORIG), tuple(TUPLE_REPLY)) else { return };
        let (Some(began), Some(answers)) = (Tuple::parse(orig), Tuple::parse(reply)) else {
            return;
        };
        if stale.iter().any(|stale| stale.has(&began, &answers)) {
            found.push(orig.to_vec());
        }
    })?;
    for orig in found {
        let mut attribute = Vec::new();
        Attributes { buffer: &mut attribute }
            .nest(TUPLE_ORIG, |out| out.buffer.extend_from_slice(&orig));
        match socket.ask(DELETE_CONNECTION, &attribute) {
            // It ended by itself meanwhile.
            Err(NftError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}
