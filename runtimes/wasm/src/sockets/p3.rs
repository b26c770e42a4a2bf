//! `wasi:sockets` of WASI 0.3: what waits is `async`, and connections come and go as streams.

use std::iter;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, Accessor, Destination, FutureReader, HasSelf, Linker, Resource, Source, StreamConsumer,
    StreamProducer, StreamReader, StreamResult,
};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup;
use wasmtime_wasi::p3::bindings::sockets::types::{
    self, ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore,
    IpAddress, IpAddressFamily, IpSocketAddress,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};
use wasmtime_wasi::sockets::{TcpSocket, UdpSocket, WasiSockets, WasiSocketsView};

use super::tcp::{Listener, Stream, Tcp, end};
use super::udp;
use crate::denied::Import;
use crate::instance::State;
use crate::names::LookUpError;

/// What one read moves at most.
const CHUNK: usize = 64 << 10;

type Own = HasSelf<State>;
type Done = oneshot::Sender<Result<(), ErrorCode>>;

/// Puts them in the place of wasmtime-wasi's.
pub(crate) fn add_p3(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, Own>(linker, |state| state)?;
    ip_name_lookup::add_to_linker::<State, Own>(linker, |state| state)
}

fn ours(socket: &Resource<TcpSocket>) -> Resource<Tcp> {
    Resource::new_borrow(socket.rep())
}

fn trap(error: impl Into<wasmtime::Error>) -> SocketError {
    SocketError::trap(error.into())
}

impl State {
    fn stream_socket(&mut self, socket: &Resource<TcpSocket>) -> SocketResult<&mut Tcp> {
        self.table.get_mut(&ours(socket)).map_err(trap)
    }

    fn keep(&mut self, tcp: Tcp) -> wasmtime::Result<Resource<TcpSocket>> {
        let resource = self.table.push(tcp)?;
        Ok(Resource::new_own(resource.rep()))
    }
}

impl types::Host for State {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl HostTcpSocket for State {
    async fn bind(
        &mut self,
        this: Resource<TcpSocket>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.bind(SocketAddr::from(local_address))?)
    }

    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let tcp = Tcp::new(&self.container, matches!(family, IpAddressFamily::Ipv6))?;
        self.keep(tcp).map_err(trap)
    }

    fn get_local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.stream_socket(&this)?.local_address()?.into())
    }

    fn get_remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.stream_socket(&this)?.remote_address()?.into())
    }

    fn get_is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&ours(&this))?.is_listening())
    }

    fn get_address_family(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> wasmtime::Result<IpAddressFamily> {
        let v6 = self.table.get(&ours(&this))?.is_v6();
        Ok(if v6 { IpAddressFamily::Ipv6 } else { IpAddressFamily::Ipv4 })
    }

    fn set_listen_backlog_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.set_backlog(value)?)
    }

    fn get_keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.stream_socket(&this)?.keep_alive()?)
    }

    fn set_keep_alive_enabled(
        &mut self,
        this: Resource<TcpSocket>,
        value: bool,
    ) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.set_keep_alive(value)?)
    }

    fn get_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.stream_socket(&this)?.keep_alive_idle()?)
    }

    fn set_keep_alive_idle_time(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.set_keep_alive_idle(value)?)
    }

    fn get_keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.stream_socket(&this)?.keep_alive_interval()?)
    }

    fn set_keep_alive_interval(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.set_keep_alive_interval(value)?)
    }

    fn get_keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.stream_socket(&this)?.keep_alive_count()?)
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.set_keep_alive_count(value)?)
    }

    fn get_hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.stream_socket(&this)?.hop_limit()?)
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.set_hop_limit(value)?)
    }

    fn get_receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.stream_socket(&this)?.receive_buffer()?)
    }

    fn set_receive_buffer_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.set_receive_buffer(value)?)
    }

    fn get_send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.stream_socket(&this)?.send_buffer()?)
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.stream_socket(&this)?.set_send_buffer(value)?)
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Tcp>::new_own(this.rep()))?;
        Ok(())
    }
}

impl HostTcpSocketWithStore<State> for Own {
    async fn connect(
        store: &Accessor<State, Self>,
        this: Resource<TcpSocket>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let to = SocketAddr::from(remote_address);
        store.with(|mut store| -> SocketResult<()> {
            Ok(store.get().stream_socket(&this)?.start_connect(to)?)
        })?;
        std::future::poll_fn(|cx| {
            store.with(|mut store| -> Poll<SocketResult<()>> {
                match store.get().stream_socket(&this) {
                    Ok(socket) => socket.poll_connect(cx).map_err(SocketError::from),
                    Err(error) => Poll::Ready(Err(error)),
                }
            })
        })
        .await
    }

    async fn listen(
        mut store: Access<'_, State, Self>,
        this: Resource<TcpSocket>,
    ) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
        let listener = store.get().stream_socket(&this)?.listen()?;
        StreamReader::new(&mut store, Connections(listener)).map_err(trap)
    }

    fn send(
        mut store: Access<'_, State, Self>,
        this: Resource<TcpSocket>,
        mut data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        let stream = store.get().table.get_mut(&ours(&this))?.take_send();
        match stream {
            Ok(stream) => {
                let (done, result) = oneshot::channel();
                data.pipe(&mut store, Sending { stream, done: Some(done) })?;
                FutureReader::new(&mut store, result)
            }
            Err(code) => {
                data.close(&mut store)?;
                let code = ErrorCode::from(code);
                FutureReader::new(&mut store, async move { wasmtime::error::Ok(Err(code)) })
            }
        }
    }

    fn receive(
        mut store: Access<'_, State, Self>,
        this: Resource<TcpSocket>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        let stream = store.get().table.get_mut(&ours(&this))?.take_receive();
        match stream {
            Ok(stream) => {
                let (done, result) = oneshot::channel();
                let receiving = Receiving { stream, done: Some(done) };
                let bytes = StreamReader::new(&mut store, receiving)?;
                Ok((bytes, FutureReader::new(&mut store, result)?))
            }
            Err(code) => {
                let code = ErrorCode::from(code);
                let bytes = StreamReader::new(&mut store, iter::empty())?;
                let failed = async move { wasmtime::error::Ok(Err(code)) };
                Ok((bytes, FutureReader::new(&mut store, failed)?))
            }
        }
    }
}

/// Accepted sockets.
struct Connections(Arc<Listener>);

impl StreamProducer<State> for Connections {
    type Item = Resource<TcpSocket>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, State>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        // Nothing wanted: the guest asks whether there would be something.
        if destination.remaining(&mut store) == Some(0) {
            return waiting(self.0.poll_ready(cx), finish);
        }
        loop {
            match self.0.poll_accept(cx) {
                Poll::Ready(Ok(tcp)) => {
                    let socket = store.data_mut().keep(tcp)?;
                    destination.set_buffer(Some(socket));
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
                // The stream has no way to say so; the next connection may be luckier.
                Poll::Ready(Err(_)) => {}
                Poll::Pending => return waiting(Poll::Pending, finish),
            }
        }
    }
}

fn waiting(poll: Poll<()>, finish: bool) -> Poll<wasmtime::Result<StreamResult>> {
    match poll {
        Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
        Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
        Poll::Pending => Poll::Pending,
    }
}

/// Bytes that come in.
struct Receiving {
    stream: Arc<Stream>,
    done: Option<Done>,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        end(&self.stream, Shutdown::Read);
        tell(&mut self.done, Ok(()));
    }
}

impl StreamProducer<State> for Receiving {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, State>,
        destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if destination.remaining(store.as_context_mut()) == Some(0) {
            return waiting(self.stream.poll_read_ready(cx).map(drop), finish);
        }
        let mut destination = destination.as_direct(store, CHUNK);
        loop {
            match self.stream.try_read(destination.remaining()) {
                Ok(0) => {
                    tell(&mut self.done, Ok(()));
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
                Ok(count) => {
                    destination.mark_written(count);
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if self.stream.poll_read_ready(cx).is_pending() {
                        return waiting(Poll::Pending, finish);
                    }
                }
                Err(error) => {
                    tell(&mut self.done, Err(error.into()));
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
            }
        }
    }
}

/// Bytes that go out.
struct Sending {
    stream: Arc<Stream>,
    done: Option<Done>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        end(&self.stream, Shutdown::Write);
        tell(&mut self.done, Ok(()));
    }
}

impl StreamConsumer<State> for Sending {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, State>,
        source: Source<'_, Self::Item>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        if source.remaining().is_empty() {
            return waiting(self.stream.poll_write_ready(cx).map(drop), finish);
        }
        loop {
            match self.stream.try_write(source.remaining()) {
                Ok(count) => {
                    source.mark_read(count);
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if self.stream.poll_write_ready(cx).is_pending() {
                        return waiting(Poll::Pending, finish);
                    }
                }
                Err(error) => {
                    tell(&mut self.done, Err(error.into()));
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
            }
        }
    }
}

fn tell(done: &mut Option<Done>, result: Result<(), ErrorCode>) {
    if let Some(done) = done.take() {
        // Nobody asks any more: nobody is told.
        let _ = done.send(result);
    }
}

impl HostUdpSocket for State {
    async fn bind(
        &mut self,
        this: Resource<UdpSocket>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let known = self.known(this.rep())?;
        let (address, reach) = known.place().bind(local_address.into())?;
        let early = known.claim(address)?;
        let again = Resource::new_borrow(this.rep());
        HostUdpSocket::bind(&mut self.sockets(), this, address.into()).await?;
        let bound = HostUdpSocket::get_local_address(&mut self.sockets(), again)?.into();
        known.bound(reach, early, bound)?;
        Ok(())
    }

    async fn connect(
        &mut self,
        this: Resource<UdpSocket>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let known = self.known(this.rep())?;
        let target = known.target(remote_address.into());
        self.bind_for(&this, target).await?;
        self.sockets().connect(this, target.into()).await
    }

    async fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let (mut ctx, known) = udp::context(self, matches!(family, IpAddressFamily::Ipv6))?;
        let socket = {
            let mut view = udp::view(&mut ctx, &mut self.table);
            HostUdpSocket::create(&mut view, family).await?
        };
        self.datagrams.insert(socket.rep(), known);
        Ok(socket)
    }

    fn disconnect(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        self.sockets().disconnect(this)
    }

    fn get_local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        HostUdpSocket::get_local_address(&mut self.sockets(), this)
    }

    fn get_remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        HostUdpSocket::get_remote_address(&mut self.sockets(), this)
    }

    fn get_address_family(
        &mut self,
        this: Resource<UdpSocket>,
    ) -> wasmtime::Result<IpAddressFamily> {
        HostUdpSocket::get_address_family(&mut self.sockets(), this)
    }

    fn get_unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        self.sockets().get_unicast_hop_limit(this)
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        HostUdpSocket::set_unicast_hop_limit(&mut self.sockets(), this, value)
    }

    fn get_receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        HostUdpSocket::get_receive_buffer_size(&mut self.sockets(), this)
    }

    fn set_receive_buffer_size(
        &mut self,
        this: Resource<UdpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        HostUdpSocket::set_receive_buffer_size(&mut self.sockets(), this, value)
    }

    fn get_send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        HostUdpSocket::get_send_buffer_size(&mut self.sockets(), this)
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        HostUdpSocket::set_send_buffer_size(&mut self.sockets(), this, value)
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.datagrams.remove(&this.rep());
        HostUdpSocket::drop(&mut self.sockets(), this)
    }
}

impl State {
    /// Binds a socket that nobody bound: left to the system, it would hear more than its Pod.
    async fn bind_for(
        &mut self,
        socket: &Resource<UdpSocket>,
        target: SocketAddr,
    ) -> SocketResult<()> {
        let borrow = || Resource::new_borrow(socket.rep());
        if HostUdpSocket::get_local_address(self, borrow()).is_ok() {
            return Ok(());
        }
        let known = self.known(socket.rep())?;
        match known.place().source(target) {
            Some(source) => HostUdpSocket::bind(self, borrow(), source.into()).await,
            None => Ok(()),
        }
    }
}

impl HostUdpSocketWithStore<State> for Own {
    async fn send(
        store: &Accessor<State, Self>,
        this: Resource<UdpSocket>,
        data: Vec<u8>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        let target = store.with(|mut store| -> SocketResult<_> {
            let known = store.get().known(this.rep())?;
            Ok(remote_address.map(|wanted| known.target(wanted.into())))
        })?;
        if let Some(target) = target {
            store.with(|mut store| -> SocketResult<()> {
                let binding = std::pin::pin!(store.get().bind_for(&this, target));
                // Binding waits for nothing.
                match binding.poll(&mut Context::from_waker(std::task::Waker::noop())) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Err(ErrorCode::InvalidState.into()),
                }
            })?;
        }
        let view = store.with_getter::<WasiSockets>(|state| state.sockets());
        <WasiSockets as HostUdpSocketWithStore<State>>::send(
            &view,
            this,
            data,
            target.map(IpSocketAddress::from),
        )
        .await
    }

    async fn receive(
        store: &Accessor<State, Self>,
        this: Resource<UdpSocket>,
    ) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let view = store.with_getter::<WasiSockets>(|state| state.sockets());
        <WasiSockets as HostUdpSocketWithStore<State>>::receive(&view, this).await
    }
}

impl ip_name_lookup::Host for State {}

impl ip_name_lookup::HostWithStore<State> for Own {
    async fn resolve_addresses(
        store: &Accessor<State, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<IpAddress>, ip_name_lookup::ErrorCode>> {
        use ip_name_lookup::ErrorCode;
        let container = store.with(|mut store| store.get().container.clone());
        if !container.spec.grants.names {
            container.denied(Import::Names);
            return Ok(Err(ErrorCode::AccessDenied));
        }
        Ok(match container.look_up(&name).await {
            Ok(addresses) => Ok(addresses.into_iter().map(IpAddress::from).collect()),
            Err(LookUpError::Invalid) => Err(ErrorCode::InvalidArgument),
            Err(LookUpError::Unknown) => Err(ErrorCode::NameUnresolvable),
            Err(LookUpError::Temporary(_)) => Err(ErrorCode::TemporaryResolverFailure),
            Err(LookUpError::Permanent(_)) => Err(ErrorCode::PermanentResolverFailure),
        })
    }
}
