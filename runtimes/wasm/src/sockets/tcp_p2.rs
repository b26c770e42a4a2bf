//! `wasi:sockets/tcp` of WASI 0.2: everything is begun, waited for as a pollable, and finished.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::{self, HostTcpSocket, ShutdownType};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, InputStream, OutputStream, Pollable,
    SocketResult, StreamError, StreamResult, TcpSocket, subscribe,
};

use super::tcp::{Listener, Stream, Tcp, end};
use crate::container::{Container, Phase};
use crate::instance::State;

/// What one read or write moves at most.
const CHUNK: usize = 64 << 10;
/// How long what a guest has written may still take to leave after its guest was killed.
const LINGER: Duration = Duration::from_secs(2);

/// What was begun and not finished.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Bind,
    Connect,
    Listen,
}

/// The resource. Guests, and wasmtime's bindings, know it as [`TcpSocket`], by its number.
struct Socket {
    tcp: Tcp,
    doing: Option<Doing>,
    listener: Option<Arc<Listener>>,
    streams: Option<(Reader, Writer)>,
}

impl Socket {
    fn new(tcp: Tcp) -> Socket {
        Socket { tcp, doing: None, listener: None, streams: None }
    }

    fn begin(&mut self, doing: Doing) -> SocketResult<()> {
        if self.doing.is_some() {
            return Err(ErrorCode::ConcurrencyConflict.into());
        }
        self.doing = Some(doing);
        Ok(())
    }

    fn finish(&mut self, doing: Doing) -> SocketResult<()> {
        if self.doing != Some(doing) {
            return Err(ErrorCode::NotInProgress.into());
        }
        self.doing = None;
        Ok(())
    }

    fn open(&mut self) -> SocketResult<(DynInputStream, DynOutputStream)> {
        let stream = self.tcp.stream()?;
        let reader = Reader { stream: stream.clone(), over: Arc::default() };
        let writer = Writer(Arc::new(Mutex::new(Writing {
            container: self.tcp.container().clone(),
            stream,
            rest: None,
            over: None,
            ending: false,
        })));
        self.streams = Some((reader.clone(), writer.clone()));
        Ok((Box::new(reader), Box::new(Closing(writer))))
    }
}

#[async_trait]
impl Pollable for Socket {
    async fn ready(&mut self) {
        match (self.doing, &self.listener) {
            // How it went is for finish-connect to say.
            (Some(Doing::Connect), _) => drop(poll_fn(|cx| self.tcp.poll_connect(cx)).await),
            (None, Some(listener)) => listener.ready().await,
            _ => {}
        }
    }
}

fn ours(socket: &Resource<TcpSocket>) -> Resource<Socket> {
    Resource::new_borrow(socket.rep())
}

impl State {
    fn tcp(&mut self, socket: &Resource<TcpSocket>) -> SocketResult<&mut Socket> {
        Ok(self.table.get_mut(&ours(socket))?)
    }

    fn adopt(&mut self, socket: Socket) -> SocketResult<Resource<TcpSocket>> {
        let resource = self.table.push(socket)?;
        Ok(Resource::new_own(resource.rep()))
    }
}

impl tcp_create_socket::Host for State {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let tcp = Tcp::new(&self.container, family == IpAddressFamily::Ipv6)?;
        self.adopt(Socket::new(tcp))
    }
}

impl tcp::Host for State {}

impl HostTcpSocket for State {
    async fn start_bind(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let socket = self.tcp(&this)?;
        if socket.doing.is_some() {
            return Err(ErrorCode::ConcurrencyConflict.into());
        }
        socket.tcp.bind(local_address.into())?;
        socket.begin(Doing::Bind)
    }

    fn finish_bind(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        self.tcp(&this)?.finish(Doing::Bind)
    }

    fn start_connect(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let socket = self.tcp(&this)?;
        if socket.doing.is_some() {
            return Err(ErrorCode::ConcurrencyConflict.into());
        }
        socket.tcp.start_connect(SocketAddr::from(remote_address))?;
        socket.begin(Doing::Connect)
    }

    fn finish_connect(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let socket = self.tcp(&this)?;
        if socket.doing != Some(Doing::Connect) {
            return Err(ErrorCode::NotInProgress.into());
        }
        let Poll::Ready(result) = socket.tcp.poll_connect(&mut now()) else {
            return Err(ErrorCode::WouldBlock.into());
        };
        socket.doing = None;
        result?;
        let (input, output) = socket.open()?;
        let parent = ours(&this);
        Ok((self.table.push_child(input, &parent)?, self.table.push_child(output, &parent)?))
    }

    async fn start_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        let socket = self.tcp(&this)?;
        if socket.doing.is_some() {
            return Err(ErrorCode::ConcurrencyConflict.into());
        }
        if !socket.tcp.is_bound() {
            return Err(ErrorCode::InvalidState.into());
        }
        socket.listener = Some(socket.tcp.listen()?);
        socket.begin(Doing::Listen)
    }

    fn finish_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        self.tcp(&this)?.finish(Doing::Listen)
    }

    fn accept(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)>
    {
        let socket = self.tcp(&this)?;
        let accepted = match socket.tcp.listener()?.poll_accept(&mut now()) {
            Poll::Ready(accepted) => accepted?,
            Poll::Pending => return Err(ErrorCode::WouldBlock.into()),
        };
        let mut socket = Socket::new(accepted);
        let (input, output) = socket.open()?;
        let socket = self.adopt(socket)?;
        let parent = ours(&socket);
        let input = self.table.push_child(input, &parent)?;
        let output = self.table.push_child(output, &parent)?;
        Ok((socket, input, output))
    }

    fn local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&this)?.tcp.local_address()?.into())
    }

    fn remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&this)?.tcp.remote_address()?.into())
    }

    fn is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&ours(&this))?.tcp.is_listening())
    }

    fn address_family(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        let v6 = self.table.get(&ours(&this))?.tcp.is_v6();
        Ok(if v6 { IpAddressFamily::Ipv6 } else { IpAddressFamily::Ipv4 })
    }

    fn set_listen_backlog_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.tcp.set_backlog(value)?)
    }

    fn keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.tcp(&this)?.tcp.keep_alive()?)
    }

    fn set_keep_alive_enabled(
        &mut self,
        this: Resource<TcpSocket>,
        value: bool,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.tcp.set_keep_alive(value)?)
    }

    fn keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.tcp.keep_alive_idle()?)
    }

    fn set_keep_alive_idle_time(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.tcp.set_keep_alive_idle(value)?)
    }

    fn keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.tcp.keep_alive_interval()?)
    }

    fn set_keep_alive_interval(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.tcp.set_keep_alive_interval(value)?)
    }

    fn keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.tcp(&this)?.tcp.keep_alive_count()?)
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> SocketResult<()> {
        Ok(self.tcp(&this)?.tcp.set_keep_alive_count(value)?)
    }

    fn hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.tcp(&this)?.tcp.hop_limit()?)
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        Ok(self.tcp(&this)?.tcp.set_hop_limit(value)?)
    }

    fn receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.tcp.receive_buffer()?)
    }

    fn set_receive_buffer_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.tcp.set_receive_buffer(value)?)
    }

    fn send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.tcp.send_buffer()?)
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.tcp(&this)?.tcp.set_send_buffer(value)?)
    }

    fn subscribe(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, ours(&this))
    }

    fn shutdown(&mut self, this: Resource<TcpSocket>, how: ShutdownType) -> SocketResult<()> {
        let socket = self.tcp(&this)?;
        let (reader, writer) = socket.streams.as_ref().ok_or(ErrorCode::InvalidState)?;
        if !matches!(how, ShutdownType::Send) {
            reader.over.store(true, Relaxed);
            end(&reader.stream, Shutdown::Read);
        }
        if !matches!(how, ShutdownType::Receive) {
            writer.lock().end();
        }
        Ok(())
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Socket>::new_own(this.rep()))?;
        Ok(())
    }
}

/// Asks without waiting.
fn now() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[derive(Clone)]
struct Reader {
    stream: Arc<Stream>,
    over: Arc<AtomicBool>,
}

#[async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.over.load(Relaxed) {
            return Err(StreamError::Closed);
        }
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut bytes = BytesMut::zeroed(size.min(CHUNK));
        match self.stream.try_read(&mut bytes) {
            Ok(0) => {
                self.over.store(true, Relaxed);
                Err(StreamError::Closed)
            }
            Ok(count) => {
                bytes.truncate(count);
                Ok(bytes.freeze())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
            Err(error) => {
                self.over.store(true, Relaxed);
                Err(StreamError::LastOperationFailed(error.into()))
            }
        }
    }
}

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        if !self.over.load(Relaxed) {
            // An error will be told to whoever reads.
            let _ = self.stream.readable().await;
        }
    }
}

/// The way out. What the system does not take at once is written by a task, so that it leaves even
/// if the guest never looks at this stream again; no more is taken meanwhile.
struct Writing {
    container: Arc<Container>,
    stream: Arc<Stream>,
    rest: Option<JoinHandle<io::Result<()>>>,
    over: Option<io::ErrorKind>,
    ending: bool,
}

impl Writing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(rest) = &mut self.rest {
            let written = std::task::ready!(Pin::new(rest).poll(cx));
            self.rest = None;
            if let Err(error) = written.unwrap_or_else(|e| Err(io::Error::other(e))) {
                self.over = Some(error.kind());
            } else if self.ending {
                self.over = Some(io::ErrorKind::BrokenPipe);
            }
        }
        Poll::Ready(())
    }

    fn failure(&self) -> StreamResult<()> {
        match self.over {
            None => Ok(()),
            Some(io::ErrorKind::BrokenPipe) => Err(StreamError::Closed),
            Some(kind) => Err(StreamError::LastOperationFailed(io::Error::from(kind).into())),
        }
    }

    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        self.failure()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if self.rest.is_some() || bytes.len() > CHUNK {
            return Err(StreamError::trap("wrote more than check-write allowed"));
        }
        match self.stream.try_write(&bytes) {
            Ok(count) if count == bytes.len() => return Ok(()),
            Ok(count) => drop(bytes.split_to(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.over = Some(error.kind());
                return self.failure();
            }
        }
        let (stream, container) = (self.stream.clone(), self.container.clone());
        self.rest = Some(tokio::spawn(async move {
            let mut phases = container.phase.subscribe();
            let killed = async {
                let _ = phases.wait_for(|phase| *phase == Phase::Killed).await;
                tokio::time::sleep(LINGER).await;
            };
            tokio::select! {
                result = write_all(&stream, bytes) => result,
                () = killed => Err(io::ErrorKind::TimedOut.into()),
            }
        }));
        Ok(())
    }

    /// No more is written; the other side is told once it has everything.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ending, true) {
            return;
        }
        let stream = self.stream.clone();
        self.rest = match self.rest.take() {
            Some(rest) => Some(tokio::spawn(async move {
                let result = rest.await.unwrap_or_else(|e| Err(io::Error::other(e)));
                end(&stream, Shutdown::Write);
                result
            })),
            None => {
                end(&stream, Shutdown::Write);
                self.over.get_or_insert(io::ErrorKind::BrokenPipe);
                None
            }
        };
    }
}

async fn write_all(stream: &TcpStream, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(&bytes) {
            Ok(count) => drop(bytes.split_to(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Writer(Arc<Mutex<Writing>>);

impl Writer {
    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's end: writing is over when it is dropped.
struct Closing(Writer);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().end();
    }
}

#[async_trait]
impl OutputStream for Closing {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.0.lock().failure()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut writing = self.0.lock();
        match writing.poll(&mut now()) {
            Poll::Pending => Ok(0),
            Poll::Ready(()) => writing.failure().map(|()| CHUNK),
        }
    }

    async fn cancel(&mut self) {
        self.ready().await;
    }
}

#[async_trait]
impl Pollable for Closing {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.lock().poll(cx)).await;
    }
}
