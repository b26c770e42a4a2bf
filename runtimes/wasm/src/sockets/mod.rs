//! `wasi:sockets`: TCP and UDP, as a Pod has them.
//!
//! A Pod has its addresses and no others. Programs are written for machines, though: they listen on
//! every address (0.0.0.0), and call their sidecars at localhost. So addresses are translated on
//! their way from the guest to the system, by the rules in [`place`].
//!
//! TCP is implemented here rather than taken from wasmtime-wasi: what a Pod needs (another address
//! than the guest named, the port of a wildcard listener shared, Services called by ClusterIP, an
//! end to what is written when its guest is killed) cannot be put on those sockets from outside.
//! UDP is wasmtime-wasi's, with addresses translated in front of it.
//!
//! In reading order: [`place`], [`tcp`], then what each version of WASI calls it: [`tcp_p2`],
//! [`udp`], [`lookup`], [`p3`].

mod lookup;
mod p3;
mod place;
mod tcp;
mod tcp_p2;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::{self, network};
use wasmtime_wasi::p2::{IoError, Network, SocketError};
use wasmtime_wasi::sockets::{ErrorCode, WasiSocketsView};

pub(crate) use p3::add_p3;
pub(crate) use place::Servers;
use place::{Place, Transport};
pub(crate) use udp::Known;

use crate::container::Container;
use crate::denied::Import;
use crate::handles::Handle;
use crate::instance::State;

/// Puts the sockets of WASI 0.2 in the place of wasmtime-wasi's.
pub(crate) fn add_p2(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    sockets::tcp::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    sockets::tcp_create_socket::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    sockets::udp::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    sockets::udp_create_socket::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    sockets::ip_name_lookup::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

/// Connects as a socket of the container would, and counts as one as long as the handle is kept: for the requests that the
/// host makes for it.
pub(crate) async fn connect(
    container: &Arc<Container>,
    to: SocketAddr,
) -> io::Result<(TcpStream, Handle)> {
    let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
    let target = Place::of(container).reach(Transport::Tcp, to).map_err(refused)?;
    connect_directly(container, target).await
}

/// The same, to an address that is not a guest's word: the rules for those are not applied.
pub(crate) async fn connect_directly(
    container: &Arc<Container>,
    target: SocketAddr,
) -> io::Result<(TcpStream, Handle)> {
    let handle = container.socket().ok_or(io::Error::from(nix::errno::Errno::EMFILE))?;
    let socket = if target.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if let Some(source) = Place::of(container).source(target) {
        // The port is chosen when connecting: there are only so many per address.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(source)?;
    }
    Ok((socket.connect(target).await?, handle))
}

/// As a process without a free descriptor is told.
fn too_many() -> ErrorCode {
    io::Error::from(nix::errno::Errno::EMFILE).into()
}

/// Whether this container may have one more socket of this family. Every socket passes here, be it
/// made or accepted.
fn admit(container: &Container, v6: bool) -> Result<Handle, ErrorCode> {
    if !container.spec.grants.sockets {
        container.denied(Import::Sockets);
        return Err(ErrorCode::AccessDenied);
    }
    // As on a machine without IPv6: programs then use the other family.
    if !container.sandbox.spec.ips.iter().any(|ip| ip.is_ipv6() == v6) {
        return Err(ErrorCode::NotSupported);
    }
    container.socket().ok_or_else(too_many)
}

impl network::Host for State {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<network::ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        error: Resource<IoError>,
    ) -> wasmtime::Result<Option<network::ErrorCode>> {
        self.sockets().network_error_code(error)
    }
}

impl network::HostNetwork for State {
    fn drop(&mut self, this: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
