//! The sockets on which Pods are served.
//!
//! Inside a Pods' namespace one wildcard listener per port serves every Pod: the address that a
//! connection was made to tells which. It costs nothing per Pod. Without a namespace a wildcard
//! would expose Pods to other machines and collide with the machine's own services, so there each
//! Pod's address has a listener of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coracle_sandbox::{Problem, ProblemCode};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt};
use nix::sys::socket::{accept4, bind, listen, setsockopt, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::container::Container;
use crate::cpu::metered;
use crate::http::serve_connection;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    netns: Option<PathBuf>,
    address: SocketAddr,
}

struct Listener {
    users: usize,
    task: JoinHandle<()>,
}

type Served = RwLock<HashMap<SocketAddr, Arc<Container>>>;

/// All listeners, and who is served at which address.
#[derive(Default)]
pub(crate) struct Listeners {
    served: Arc<Served>,
    open: tokio::sync::Mutex<HashMap<Key, Listener>>,
}

impl Listeners {
    /// Who is served there.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<Arc<Container>> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    /// Serves a container at an address of its Pod.
    pub(crate) async fn open(
        &self,
        container: &Arc<Container>,
        address: SocketAddr,
    ) -> Result<(), Problem> {
        let key = key(container, address);
        let mut open = self.open.lock().await;
        if let Some(other) = self.at(address) {
            let message = format!(
                "container {} cannot be served at {address}: container {} of sandbox {} is",
                container.spec.name, other.spec.name, other.sandbox.spec.id
            );
            return Err(Problem::new(ProblemCode::AddressInUse, message));
        }
        self.serve(container, address);
        if let Some(listener) = open.get_mut(&key) {
            listener.users += 1;
            return Ok(());
        }
        let wanted = key.address;
        // On a thread of the guests': those are in the Pods' namespace.
        let socket = container.sandbox.group.spawn(async move { bound(wanted) }).await;
        let socket = socket.unwrap_or_else(|e| Err(io::Error::other(e)));
        let task = socket.and_then(|socket| {
            let socket = registered(socket)?;
            Ok(tokio::spawn(accept(socket, self.served.clone())))
        });
        match task {
            Ok(task) => {
                open.insert(key, Listener { users: 1, task });
                Ok(())
            }
            Err(e) => {
                self.forget(address);
                let code = match e.kind() {
                    io::ErrorKind::AddrInUse => ProblemCode::AddressInUse,
                    _ => ProblemCode::InvalidSpec,
                };
                let message =
                    format!("container {} cannot be served at {address}: {e}", container.spec.name);
                Err(Problem::new(code, message))
            }
        }
    }

    /// Ends that; the address is free when this returns.
    pub(crate) async fn close(&self, container: &Arc<Container>, address: SocketAddr) {
        let key = key(container, address);
        let mut open = self.open.lock().await;
        self.forget(address);
        let Some(listener) = open.get_mut(&key) else { return };
        listener.users -= 1;
        if listener.users == 0
            && let Some(listener) = open.remove(&key)
        {
            listener.task.abort();
            let _ = listener.task.await;
        }
    }

    fn serve(&self, container: &Arc<Container>, address: SocketAddr) {
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        served.insert(address, container.clone());
        if container.sandbox.spec.own_network {
            served.insert(localhost(address), container.clone());
        }
    }

    fn forget(&self, address: SocketAddr) {
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        let Some(container) = served.remove(&address) else { return };
        if container.sandbox.spec.own_network {
            served.remove(&localhost(address));
        }
    }
}

fn localhost(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port())
}

fn key(container: &Container, address: SocketAddr) -> Key {
    let netns = container.sandbox.group.netns.clone();
    let any = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let ip = if netns.is_some() { any } else { address.ip() };
    Key { netns, address: SocketAddr::new(ip, address.port()) }
}

/// A listening socket, to be accepted from on this runtime.
pub(crate) fn registered(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and neither replaced nor closed while registered.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? })
}

/// A listening socket; with a longer backlog than the standard library's, and IPv6 by itself.
pub(crate) fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.ip().is_unspecified() {
        // Guests' own servers may have the same port on their Pods' addresses.
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

async fn accept(listener: AsyncFd<OwnedFd>, served: Arc<Served>) {
    loop {
        let Some((stream, address)) = next(&listener).await else { continue };
        let container = {
            let served = served.read().unwrap_or_else(PoisonError::into_inner);
            served.get(&address).cloned()
        };
        match container {
            Some(container) => hand_over(container, stream),
            None => refuse(stream),
        }
    }
}

/// The next connection, and the address that it was made to.
pub(crate) async fn next(listener: &AsyncFd<OwnedFd>) -> Option<(std::net::TcpStream, SocketAddr)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let accepted = listener
        .async_io(Interest::READABLE, |fd| accept4(fd.as_raw_fd(), flags).map_err(io::Error::from));
    match accepted.await {
        Ok(fd) => {
            // SAFETY: accept4 returned it a moment ago; nobody else knows it.
            let stream = unsafe { std::net::TcpStream::from_raw_fd(fd) };
            let address = stream.local_addr().ok()?;
            Some((stream, address))
        }
        Err(error) => {
            let errno = error.raw_os_error().map(Errno::from_raw);
            if matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS)) {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            None
        }
    }
}

/// A connection that waits to be accepted, and where it comes from.
pub(crate) fn accepted(listener: &OwnedFd) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: accept4 returned it a moment ago; nobody else knows it.
    let stream = unsafe { std::net::TcpStream::from_raw_fd(fd) };
    let address = stream.peer_addr()?;
    Ok((stream, address))
}

/// Lets a container serve a connection, on the guests' threads.
pub(crate) fn hand_over(container: Arc<Container>, stream: std::net::TcpStream) {
    let group = container.sandbox.group.clone();
    group.spawn(metered(container.cpu.clone(), async move {
        let _ = stream.set_nodelay(true);
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve_connection(container, stream).await;
        }
    }));
}

/// Ends a connection as if nobody had listened.
pub(crate) fn refuse(stream: std::net::TcpStream) {
    let reset = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(&stream, sockopt::Linger, &reset);
}
