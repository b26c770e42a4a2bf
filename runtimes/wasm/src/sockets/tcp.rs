//! A TCP socket of a guest, from its making to its end; the same for all versions of WASI.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{GetSockOpt, SetSockOpt, getsockopt, setsockopt, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpSocket, TcpStream};
use wasmtime_wasi::sockets::ErrorCode;

use super::admit;
use super::place::{Place, Reach, Served, Transport};
use crate::container::Container;
use crate::handles::Handle;
use crate::listeners;

const BACKLOG: u32 = 128;
/// More is of no use, and the kernel's memory.
const MOST_BACKLOG: u64 = 1024;
const MOST_BUFFER: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Which ways of a connection are in use (WASI 0.3 gives each away once).
#[derive(Clone, Copy, Default)]
struct Taken {
    send: bool,
    receive: bool,
}

/// How far a socket has come.
enum State {
    New(TcpSocket),
    Bound(TcpSocket),
    Listening(Arc<Listener>),
    Connecting { to: SocketAddr, attempt: Connecting },
    Connected { to: SocketAddr, stream: Arc<Stream>, taken: Taken },
    Failed(ErrorCode),
}

/// The socket.
pub(super) struct Tcp {
    place: Place,
    v6: bool,
    reach: Reach,
    backlog: u32,
    served: Option<Served>,
    handle: Arc<Handle>,
    state: State,
}

/// A connection, and the container's handle for it.
pub(super) struct Stream {
    stream: TcpStream,
    _handle: Arc<Handle>,
}

impl std::ops::Deref for Stream {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Tcp {
    pub(super) fn new(container: &Arc<Container>, v6: bool) -> Result<Tcp, ErrorCode> {
        let handle = Arc::new(admit(container, v6)?);
        let socket = if v6 { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        if v6 {
            set(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        Ok(Tcp {
            place: Place::of(container),
            v6,
            reach: Reach::Anyone,
            backlog: BACKLOG,
            served: None,
            handle,
            state: State::New(socket),
        })
    }

    pub(super) fn is_v6(&self) -> bool {
        self.v6
    }

    fn fits(&self, address: SocketAddr) -> Result<(), ErrorCode> {
        let ip = address.ip();
        let broadcast = matches!(ip, std::net::IpAddr::V4(ip) if ip.is_broadcast());
        let mapped = matches!(ip, std::net::IpAddr::V6(ip) if ip.to_ipv4().is_some() && !ip.is_unspecified() && !ip.is_loopback());
        if address.is_ipv6() != self.v6 || ip.is_multicast() || broadcast || mapped {
            return Err(ErrorCode::InvalidArgument);
        }
        Ok(())
    }

    pub(super) fn bind(&mut self, wanted: SocketAddr) -> Result<(), ErrorCode> {
        let State::New(socket) = &self.state else { return Err(ErrorCode::InvalidState) };
        self.fits(wanted)?;
        let (address, reach) = self.place.bind(wanted)?;
        socket.set_reuseaddr(true)?;
        // The host's wildcard listener may have this port, for HTTP components of other Pods.
        socket.set_reuseport(true)?;
        let claim = |address| self.place.claim(Transport::Tcp, address);
        let early = (address.port() != 0).then(|| claim(address)).transpose()?;
        socket.bind(address)?;
        self.served = match early {
            Some(served) => Some(served),
            None => Some(claim(socket.local_addr()?)?),
        };
        self.reach = reach;
        self.state = match self.take() {
            State::New(socket) => State::Bound(socket),
            other => other,
        };
        Ok(())
    }

    pub(super) fn is_bound(&self) -> bool {
        !matches!(self.state, State::New(_))
    }

    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Failed(ErrorCode::InvalidState))
    }

    /// Listens; at a port of the system's choice, where none was bound.
    pub(super) fn listen(&mut self) -> Result<Arc<Listener>, ErrorCode> {
        if let State::New(_) = self.state {
            let any: std::net::IpAddr = if self.v6 { [0_u16; 8].into() } else { [0_u8; 4].into() };
            self.bind(SocketAddr::new(any, 0))?;
        }
        let socket = match self.take() {
            State::Bound(socket) => socket,
            other => {
                self.state = other;
                return Err(ErrorCode::InvalidState);
            }
        };
        let address = socket.local_addr()?;
        let socket: OwnedFd = socket.listen(self.backlog)?.into_std()?.into();
        let listener = Arc::new(Listener {
            _handle: self.handle.clone(),
            socket: listeners::registered(socket)?,
            address,
            place: self.place.clone(),
            reach: self.reach,
            v6: self.v6,
            _served: self.served.take(),
        });
        self.state = State::Listening(listener.clone());
        Ok(listener)
    }

    pub(super) fn start_connect(&mut self, to: SocketAddr) -> Result<(), ErrorCode> {
        if !matches!(self.state, State::New(_) | State::Bound(_)) {
            return Err(ErrorCode::InvalidState);
        }
        self.fits(to)?;
        if to.port() == 0 || to.ip().is_unspecified() {
            return Err(ErrorCode::InvalidArgument);
        }
        let target = self.place.reach(Transport::Tcp, to);
        let source = target.ok().and_then(|target| self.place.source(target));
        let socket = match self.take() {
            State::New(socket) => {
                if let Some(source) = source {
                    // The port is chosen when connecting: there are only so many per address.
                    set(&socket, sockopt::IpBindAddressNoPort, &true)?;
                    socket.bind(source)?;
                }
                socket
            }
            State::Bound(socket) => socket,
            other => {
                self.state = other;
                return Err(ErrorCode::InvalidState);
            }
        };
        // Who is told what only once it asks how the attempt went.
        let attempt: Connecting = match target {
            Ok(target) => Box::pin(socket.connect(target)),
            Err(_) => Box::pin(async { Err(Errno::ECONNREFUSED.into()) }),
        };
        self.state = State::Connecting { to, attempt };
        Ok(())
    }

    pub(super) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorCode>> {
        match &mut self.state {
            State::Connecting { to, attempt } => {
                let to = *to;
                let result = ready!(attempt.as_mut().poll(cx));
                match result {
                    Ok(stream) => {
                        self.state = connected(
                            to,
                            Arc::new(Stream { stream, _handle: self.handle.clone() }),
                        );
                        Poll::Ready(Ok(()))
                    }
                    Err(error) => {
                        let code = ErrorCode::from(error);
                        self.state = State::Failed(code);
                        Poll::Ready(Err(code))
                    }
                }
            }
            State::Connected { .. } => Poll::Ready(Ok(())),
            State::Failed(code) => Poll::Ready(Err(*code)),
            _ => Poll::Ready(Err(ErrorCode::InvalidState)),
        }
    }

    pub(super) fn stream(&self) -> Result<Arc<Stream>, ErrorCode> {
        match &self.state {
            State::Connected { stream, .. } => Ok(stream.clone()),
            State::Failed(code) => Err(*code),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn take_send(&mut self) -> Result<Arc<Stream>, ErrorCode> {
        self.take_way(|taken| std::mem::replace(&mut taken.send, true))
    }

    pub(super) fn take_receive(&mut self) -> Result<Arc<Stream>, ErrorCode> {
        self.take_way(|taken| std::mem::replace(&mut taken.receive, true))
    }

    fn take_way(
        &mut self,
        was_taken: impl Fn(&mut Taken) -> bool,
    ) -> Result<Arc<Stream>, ErrorCode> {
        match &mut self.state {
            State::Connected { stream, taken, .. } => match was_taken(taken) {
                false => Ok(stream.clone()),
                true => Err(ErrorCode::InvalidState),
            },
            State::Failed(code) => Err(*code),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn listener(&self) -> Result<&Arc<Listener>, ErrorCode> {
        match &self.state {
            State::Listening(listener) => Ok(listener),
            State::Failed(code) => Err(*code),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening(_))
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::Bound(socket) => Ok(socket.local_addr()?),
            State::Listening(listener) => Ok(listener.address),
            State::Connected { stream, .. } => Ok(stream.local_addr()?),
            State::Failed(code) => Err(*code),
            State::New(_) | State::Connecting { .. } => Err(ErrorCode::InvalidState),
        }
    }

    /// As the guest named it: a Service's address, where it called one.
    pub(super) fn remote_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::Connected { to, .. } => Ok(*to),
            State::Failed(code) => Err(*code),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn container(&self) -> &Arc<Container> {
        self.place.container()
    }
}

/// Options. Accepted sockets inherit them from their listener, as Linux has it.
impl Tcp {
    fn fd(&self) -> Result<BorrowedFd<'_>, ErrorCode> {
        match &self.state {
            State::New(socket) | State::Bound(socket) => Ok(socket.as_fd()),
            State::Listening(listener) => Ok(listener.socket.as_fd()),
            State::Connected { stream, .. } => Ok(stream.as_fd()),
            State::Connecting { .. } => Err(ErrorCode::InvalidState),
            State::Failed(code) => Err(*code),
        }
    }

    fn get<O: GetSockOpt>(&self, option: O) -> Result<O::Val, ErrorCode> {
        getsockopt(&self.fd()?, option).map_err(|e| io::Error::from(e).into())
    }

    fn set<O: SetSockOpt>(&self, option: O, value: &O::Val) -> Result<(), ErrorCode>
    where
        O::Val: Sized,
    {
        Ok(set(&self.fd()?, option, value)?)
    }

    pub(super) fn set_backlog(&mut self, value: u64) -> Result<(), ErrorCode> {
        if value == 0 {
            return Err(ErrorCode::InvalidArgument);
        }
        match &self.state {
            State::New(_) | State::Bound(_) => {
                self.backlog = value.min(MOST_BACKLOG) as u32;
                Ok(())
            }
            State::Listening(_) => Err(ErrorCode::NotSupported),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn keep_alive(&self) -> Result<bool, ErrorCode> {
        self.get(sockopt::KeepAlive)
    }

    pub(super) fn set_keep_alive(&self, value: bool) -> Result<(), ErrorCode> {
        self.set(sockopt::KeepAlive, &value)
    }

    pub(super) fn keep_alive_idle(&self) -> Result<u64, ErrorCode> {
        Ok(u64::from(self.get(sockopt::TcpKeepIdle)?) * SECOND)
    }

    pub(super) fn set_keep_alive_idle(&self, nanoseconds: u64) -> Result<(), ErrorCode> {
        self.set(sockopt::TcpKeepIdle, &seconds(nanoseconds)?)
    }

    pub(super) fn keep_alive_interval(&self) -> Result<u64, ErrorCode> {
        Ok(u64::from(self.get(sockopt::TcpKeepInterval)?) * SECOND)
    }

    pub(super) fn set_keep_alive_interval(&self, nanoseconds: u64) -> Result<(), ErrorCode> {
        self.set(sockopt::TcpKeepInterval, &seconds(nanoseconds)?)
    }

    pub(super) fn keep_alive_count(&self) -> Result<u32, ErrorCode> {
        self.get(sockopt::TcpKeepCount)
    }

    pub(super) fn set_keep_alive_count(&self, value: u32) -> Result<(), ErrorCode> {
        if value == 0 {
            return Err(ErrorCode::InvalidArgument);
        }
        self.set(sockopt::TcpKeepCount, &value.min(127))
    }

    pub(super) fn hop_limit(&self) -> Result<u8, ErrorCode> {
        let limit = if self.v6 { self.get(sockopt::Ipv6Ttl)? } else { self.get(sockopt::Ipv4Ttl)? };
        Ok(limit.clamp(1, 255) as u8)
    }

    pub(super) fn set_hop_limit(&self, value: u8) -> Result<(), ErrorCode> {
        if value == 0 {
            return Err(ErrorCode::InvalidArgument);
        }
        match self.v6 {
            true => self.set(sockopt::Ipv6Ttl, &value.into()),
            false => self.set(sockopt::Ipv4Ttl, &value.into()),
        }
    }

    // Linux keeps, and tells, twice what it was asked for.
    pub(super) fn receive_buffer(&self) -> Result<u64, ErrorCode> {
        Ok(self.get(sockopt::RcvBuf)? as u64 / 2)
    }

    pub(super) fn set_receive_buffer(&self, value: u64) -> Result<(), ErrorCode> {
        self.set(sockopt::RcvBuf, &buffer(value)?)
    }

    pub(super) fn send_buffer(&self) -> Result<u64, ErrorCode> {
        Ok(self.get(sockopt::SndBuf)? as u64 / 2)
    }

    pub(super) fn set_send_buffer(&self, value: u64) -> Result<(), ErrorCode> {
        self.set(sockopt::SndBuf, &buffer(value)?)
    }
}

fn connected(to: SocketAddr, stream: Arc<Stream>) -> State {
    State::Connected { to, stream, taken: Taken::default() }
}

fn set<F: AsFd, O: SetSockOpt>(fd: &F, option: O, value: &O::Val) -> io::Result<()>
where
    O::Val: Sized,
{
    setsockopt(fd, option, value).map_err(io::Error::from)
}

fn seconds(nanoseconds: u64) -> Result<u32, ErrorCode> {
    if nanoseconds == 0 {
        return Err(ErrorCode::InvalidArgument);
    }
    Ok((nanoseconds / SECOND).clamp(1, i16::MAX as u64) as u32)
}

fn buffer(value: u64) -> Result<usize, ErrorCode> {
    if value == 0 {
        return Err(ErrorCode::InvalidArgument);
    }
    Ok(value.min(MOST_BUFFER) as usize)
}

/// A socket that listens.
pub(super) struct Listener {
    socket: AsyncFd<OwnedFd>,
    address: SocketAddr,
    place: Place,
    reach: Reach,
    v6: bool,
    _served: Option<Served>,
    _handle: Arc<Handle>,
}

impl Listener {
    /// The next connection.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Result<Tcp, ErrorCode>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            let Ok(accepted) = guard.try_io(|socket| listeners::accepted(socket.get_ref())) else {
                continue;
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                // The client's: it was gone before it was met.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            let container = self.place.container();
            let admitted = self.place.admits(self.reach, peer.ip());
            let Some(handle) = admitted.then(|| admit(container, self.v6).ok()).flatten() else {
                listeners::refuse(stream);
                continue;
            };
            let handle = Arc::new(handle);
            let stream = TcpStream::from_std(stream)?;
            let stream = Arc::new(Stream { stream, _handle: handle.clone() });
            return Poll::Ready(Ok(Tcp {
                place: self.place.clone(),
                v6: self.v6,
                reach: self.reach,
                backlog: BACKLOG,
                served: None,
                handle,
                state: connected(peer, stream),
            }));
        }
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_read_ready(cx).map(drop)
    }

    /// Waits until there may be a connection.
    pub(super) async fn ready(&self) {
        // An error will be told to whoever accepts.
        let _ = self.socket.readable().await;
    }
}

/// Tells the other side that nothing more will be written, or the kernel to throw away what comes.
pub(super) fn end(stream: &TcpStream, how: Shutdown) {
    let how = match how {
        Shutdown::Read => nix::sys::socket::Shutdown::Read,
        Shutdown::Write => nix::sys::socket::Shutdown::Write,
        Shutdown::Both => nix::sys::socket::Shutdown::Both,
    };
    use std::os::fd::AsRawFd;
    // Fails where it is over already.
    let _ = nix::sys::socket::shutdown(stream.as_raw_fd(), how);
}
