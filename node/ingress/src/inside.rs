//! Connections from within the namespace in which this machine's Wasm Pods have their addresses.
//!
//! All of those Pods share one namespace, in which every address of theirs is local. A connection that begins there is one over
//! loopback: it crosses no link and passes no table of this machine's, which is a good part of what a short request costs. A
//! socket belongs to the namespace of the thread that made it, whoever uses it; so one thread is in there, and makes sockets.
//! What it does not find there (containers, other machines' Pods), or what refuses there, is dialled as ever.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as StdStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use nix::sys::socket::{bind, setsockopt, socket};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// A way to have such connections made.
#[derive(Clone)]
pub(crate) struct Inside {
    wanted: mpsc::Sender<Wanted>,
}

/// A Pod's address, and who wants a socket to it.
type Wanted = (Ipv4Addr, oneshot::Sender<io::Result<Option<OwnedFd>>>);

impl Inside {
    /// Starts the thread; it ends with the last of these. To be called while the process may enter a namespace.
    pub(crate) fn start(namespace: File) -> anyhow::Result<Self> {
        let (wanted, all) = mpsc::channel::<Wanted>();
        let (ready, started) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("inside".to_owned()).spawn(move || {
            let entered = enter(&namespace);
            let own = entered.as_ref().ok().copied();
            let _ = ready.send(entered);
            let Some(own) = own else { return };
            for (pod, answer) in all {
                let _ = answer.send(socket_to(pod, own));
            }
        })?;
        started.recv().context("the thread is gone")??;
        Ok(Self { wanted })
    }

    /// A connection, if that is the address of a Pod there, and it takes one.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Option<TcpStream> {
        let SocketAddr::V4(pod) = address else { return None };
        let (answer, answered) = oneshot::channel();
        self.wanted.send((*pod.ip(), answer)).ok()?;
        let connecting = async {
            let Some(socket) = answered.await.map_err(io::Error::other)?? else { return Ok(None) };
            TcpSocket::from_std_stream(StdStream::from(socket)).connect(address).await.map(Some)
        };
        let connected: io::Result<_> = connecting.await;
        connected.inspect_err(|error| tracing::debug!(%error, %address, "not from inside")).ok()?
    }
}

/// Moves this thread there; the namespace's own address.
fn enter(namespace: &File) -> anyhow::Result<Ipv4Addr> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let own = nix::ifaddrs::getifaddrs()?
        .filter(|link| !link.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .find_map(|link| Some(link.address?.as_sockaddr_in()?.ip()));
    own.context("it has no address")
}

/// A socket that connects from `own`, unless that Pod's address is not one of this thread's namespace. Not from the Pod's
/// address, which would be chosen by itself: with a port of the Pod's own as its own, it would reach itself.
fn socket_to(pod: Ipv4Addr, own: Ipv4Addr) -> io::Result<Option<OwnedFd>> {
    let any_port = |ip| SockaddrIn::from(SocketAddrV4::new(ip, 0));
    match bind(stream()?.as_raw_fd(), &any_port(pod)) {
        Ok(()) => {}
        Err(Errno::EADDRNOTAVAIL) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let socket = stream()?;
    // It is chosen for the connection, so that there may be more of them than ports.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    bind(socket.as_raw_fd(), &any_port(own))?;
    Ok(Some(socket))
}

fn stream() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Inet, SockType::Stream, flags, None)
}
