//! UDP: wasmtime-wasi's sockets, whose addresses are translated in front of them.
//!
//! Each socket is made with a check of its own, which knows what this socket may receive and send:
//! who is bound to localhost hears its own Pod only, and without a namespace of the Pods' a socket
//! reaches loopback addresses only where a Pod's socket is, or from where it was called.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{IpAddressFamily, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    self, HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket;
use wasmtime_wasi::p2::{DynPollable, SocketResult, UdpSocket};
use wasmtime_wasi::sockets::{ErrorCode, SocketAddrUse, WasiSocketsCtxView, WasiSocketsView};
use wasmtime_wasi::{ResourceTable, WasiCtx};

use super::admit;
use super::place::{Place, Reach, Served, Transport};
use crate::handles::Handle;
use crate::instance::State;

/// Callers that a socket may answer though they are no Pods.
const CALLERS: usize = 64;

/// What is known of a socket.
pub(crate) struct Known {
    _handle: Handle,
    place: Place,
    inner: Mutex<Inner>,
}

struct Inner {
    reach: Reach,
    served: Option<Served>,
    callers: VecDeque<SocketAddr>,
}

impl Known {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allows(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            // Only what the rules below have translated comes here; a socket that nobody bound
            // would be bound by the system, to more than the Pod's address.
            SocketAddrUse::UdpBind => self.place.bind(address).is_ok_and(|(a, _)| a == address),
            SocketAddrUse::UdpReceive => {
                let mut inner = self.inner();
                if !self.place.admits(inner.reach, address.ip()) {
                    return false;
                }
                if !inner.callers.contains(&address) {
                    if inner.callers.len() == CALLERS {
                        inner.callers.pop_front();
                    }
                    inner.callers.push_back(address);
                }
                true
            }
            SocketAddrUse::UdpSend => {
                self.inner().callers.contains(&address)
                    || self.place.reach(Transport::Udp, address).is_ok_and(|a| a == address)
            }
            _ => false,
        }
    }

    /// Where to send what is meant for `wanted`.
    pub(super) fn target(&self, wanted: SocketAddr) -> SocketAddr {
        if self.inner().callers.contains(&wanted) {
            return wanted;
        }
        // Where there is no way, the check refuses the address as it is.
        self.place.reach(Transport::Udp, wanted).unwrap_or(wanted)
    }

    /// Takes the address, unless the system is to choose its port.
    pub(super) fn claim(&self, address: SocketAddr) -> Result<Option<Served>, ErrorCode> {
        let known = address.port() != 0;
        known.then(|| self.place.claim(Transport::Udp, address)).transpose()
    }

    /// It is bound now.
    pub(super) fn bound(
        &self,
        reach: Reach,
        claimed: Option<Served>,
        address: SocketAddr,
    ) -> Result<(), ErrorCode> {
        let served = match claimed {
            Some(served) => served,
            None => self.place.claim(Transport::Udp, address)?,
        };
        let mut inner = self.inner();
        inner.reach = reach;
        inner.served = Some(served);
        Ok(())
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

/// A context for one socket, and what that socket's check knows.
pub(super) fn context(state: &State, v6: bool) -> Result<(WasiCtx, Arc<Known>), ErrorCode> {
    let handle = admit(&state.container, v6)?;
    let known = Arc::new(Known {
        _handle: handle,
        place: Place::of(&state.container),
        inner: Mutex::new(Inner { reach: Reach::Anyone, served: None, callers: VecDeque::new() }),
    });
    let check = known.clone();
    let mut builder = WasiCtx::builder();
    builder.allow_udp(true).socket_addr_check(move |address, usage| {
        let allowed = check.allows(address, usage);
        Box::pin(async move { allowed })
    });
    Ok((builder.build(), known))
}

pub(super) fn view<'a>(
    ctx: &'a mut WasiCtx,
    table: &'a mut ResourceTable,
) -> WasiSocketsCtxView<'a> {
    WasiSocketsCtxView { ctx: ctx.sockets(), table }
}

impl State {
    pub(super) fn known(&self, socket: u32) -> Result<Arc<Known>, ErrorCode> {
        self.datagrams.get(&socket).cloned().ok_or(ErrorCode::InvalidState)
    }
}

impl udp_create_socket::Host for State {
    async fn create_udp_socket(
        &mut self,
        family: IpAddressFamily,
    ) -> SocketResult<Resource<UdpSocket>> {
        let (mut ctx, known) = context(self, family == IpAddressFamily::Ipv6)?;
        let mut view = view(&mut ctx, &mut self.table);
        let socket = udp_create_socket::Host::create_udp_socket(&mut view, family).await?;
        self.datagrams.insert(socket.rep(), known);
        Ok(socket)
    }
}

impl udp::Host for State {}

impl HostUdpSocket for State {
    async fn start_bind(
        &mut self,
        this: Resource<UdpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let known = self.known(this.rep())?;
        let (address, reach) = known.place.bind(local_address.into())?;
        let early = known.claim(address)?;
        let again = Resource::new_borrow(this.rep());
        self.sockets().start_bind(this, network, address.into()).await?;
        let bound = SocketAddr::from(self.sockets().local_address(again)?);
        known.bound(reach, early, bound)?;
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        self.sockets().finish_bind(this)
    }

    async fn stream(
        &mut self,
        this: Resource<UdpSocket>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
        let known = self.known(this.rep())?;
        let remote = remote_address.map(|wanted| known.target(wanted.into()).into());
        let (incoming, outgoing) = self.sockets().stream(this, remote).await?;
        self.datagrams.insert(outgoing.rep(), known);
        Ok((incoming, outgoing))
    }

    fn local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        self.sockets().local_address(this)
    }

    fn remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        self.sockets().remote_address(this)
    }

    fn address_family(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        self.sockets().address_family(this)
    }

    fn unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        self.sockets().unicast_hop_limit(this)
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        self.sockets().set_unicast_hop_limit(this, value)
    }

    fn receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        self.sockets().receive_buffer_size(this)
    }

    fn set_receive_buffer_size(
        &mut self,
        this: Resource<UdpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        self.sockets().set_receive_buffer_size(this, value)
    }

    fn send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        self.sockets().send_buffer_size(this)
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        self.sockets().set_send_buffer_size(this, value)
    }

    fn subscribe(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        HostUdpSocket::subscribe(&mut self.sockets(), this)
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.datagrams.remove(&this.rep());
        HostUdpSocket::drop(&mut self.sockets(), this)
    }
}

impl HostIncomingDatagramStream for State {
    fn receive(
        &mut self,
        this: Resource<IncomingDatagramStream>,
        most: u64,
    ) -> SocketResult<Vec<IncomingDatagram>> {
        self.sockets().receive(this, most)
    }

    fn subscribe(
        &mut self,
        this: Resource<IncomingDatagramStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        HostIncomingDatagramStream::subscribe(&mut self.sockets(), this)
    }

    fn drop(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        HostIncomingDatagramStream::drop(&mut self.sockets(), this)
    }
}

impl HostOutgoingDatagramStream for State {
    fn check_send(&mut self, this: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        self.sockets().check_send(this)
    }

    fn send(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
        mut datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let known = self.known(this.rep())?;
        for datagram in &mut datagrams {
            datagram.remote_address =
                datagram.remote_address.map(|wanted| known.target(wanted.into()).into());
        }
        self.sockets().send(this, datagrams)
    }

    fn subscribe(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        HostOutgoingDatagramStream::subscribe(&mut self.sockets(), this)
    }

    async fn drop(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        self.datagrams.remove(&this.rep());
        HostOutgoingDatagramStream::drop(&mut self.sockets(), this).await
    }
}
