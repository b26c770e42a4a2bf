//! The API as Pods reach it, by the Service `kubernetes`.
//!
//! Where Pods have a network of their own, this machine's loopback address is not theirs: the server then listens at the
//! machine's address towards them too (their gateway), unless it listens everywhere already. That address belongs to a link of
//! this machine's, but machines that route to it could call it: so only Pods, and this machine itself, are answered.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::config::StartError;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Where Pods call.
pub(crate) struct Pods {
    listener: TcpListener,
    range: Range,
}

/// Addresses of Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    base: u32,
    mask: u32,
}

impl Range {
    fn new((address, prefix): (Ipv4Addr, u8)) -> Range {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        Range { base: u32::from(address) & mask, mask }
    }

    /// Whether a Pod, or this machine, calls from there.
    fn admits(self, peer: IpAddr) -> bool {
        match peer {
            IpAddr::V4(peer) if u32::from(peer) & self.mask == self.base => true,
            // Only an address of this machine's can be bound.
            peer => UdpSocket::bind((peer, 0)).is_ok(),
        }
    }
}

impl Pods {
    /// Listens at the gateway for the server that listens at `main`; None if that one is reached there.
    pub(crate) fn listen(
        gateway: Ipv4Addr,
        range: (Ipv4Addr, u8),
        main: SocketAddr,
    ) -> Result<Option<Pods>, StartError> {
        if !main.ip().is_loopback() {
            return Ok(None);
        }
        let range = Range::new(range);
        let address = SocketAddr::from((gateway, main.port()));
        let listen = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            // The agent makes the link that has the address, and starts later.
            setsockopt(&socket, sockopt::IpFreebind, &true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let listener = listen().map_err(|source| StartError::Listen { address, source })?;
        Ok(Some(Pods { listener, range }))
    }
}

/// The next connection of a Pod; never, if there is nowhere to call.
pub(crate) async fn accept(pods: Option<&Pods>) -> std::io::Result<(TcpStream, SocketAddr)> {
    let Some(pods) = pods else { return std::future::pending().await };
    loop {
        let (stream, peer) = pods.listener.accept().await?;
        if pods.range.admits(peer.ip()) {
            return Ok((stream, peer));
        }
        tracing::debug!(%peer, "a call from elsewhere to the API's address for Pods is not answered");
    }
}

/// Where the Service `kubernetes` leads: an address that Pods can call. `known` is how they reach this machine, if it does not
/// say so by where it listens.
pub(crate) fn advertised(main: SocketAddr, known: Option<Ipv4Addr>) -> SocketAddr {
    match (main.ip(), known) {
        (ip, Some(known)) if ip.is_loopback() || ip.is_unspecified() => {
            SocketAddr::from((known, main.port()))
        }
        (ip, None) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], main.port())),
        _ => main,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_this_machine_are_answered() {
        let range = Range::new((Ipv4Addr::new(10, 7, 0, 0), 16));
        for (peer, admitted) in [
            ("10.7.0.9", true),
            ("10.7.255.1", true),
            ("127.0.0.1", true),
            ("10.8.0.9", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(range.admits(peer.parse().expect("an address")), admitted, "{peer}");
        }
    }

    #[test]
    fn the_service_leads_where_pods_can_call() {
        let gateway = Some(Ipv4Addr::new(10, 7, 0, 1));
        for (main, gateway, expected) in [
            ("127.0.0.1:6443", None, "127.0.0.1:6443"),
            ("127.0.0.1:6443", gateway, "10.7.0.1:6443"),
            ("0.0.0.0:6443", None, "127.0.0.1:6443"),
            ("0.0.0.0:6443", gateway, "10.7.0.1:6443"),
            ("192.0.2.7:6443", gateway, "192.0.2.7:6443"),
        ] {
            let main = main.parse().expect("an address");
            assert_eq!(advertised(main, gateway).to_string(), expected, "{main}");
        }
    }

    #[tokio::test]
    async fn pods_call_their_gateway() {
        // Stands for a link that is not there yet.
        let gateway = Ipv4Addr::new(198, 51, 100, 1);
        let main = SocketAddr::from(([127, 0, 0, 1], 0));
        let range = (Ipv4Addr::new(198, 51, 100, 0), 24);
        let pods = Pods::listen(gateway, range, main).expect("it listens");
        let address = pods.expect("at an address of its own").listener.local_addr();
        assert_eq!(address.expect("an address").ip(), gateway);
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let pods = Pods::listen(gateway, range, everywhere).expect("it listens");
        assert!(pods.is_none(), "it listens there already");
    }
}
