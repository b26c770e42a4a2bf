//! After the program was upgraded: the older program's proxy gives its sockets to one of this program, and ends.
//!
//! For a moment both have the sockets on which clients wait, so none that waits is lost. The new process takes no connection
//! before it was told what to serve; the older one takes none from then on, and ends with the last request that it serves, or
//! after half a minute. Until then its control socket has another name, under which an agent that was killed in between finds
//! it again.
//!
//! The sockets are taken out of the older process (`pidfd_getfd(2)`), whatever its version. Root may do that; an ordinary user
//! may unless the kernel forbids processes to look into each other (Yama). There, the older process goes on.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use coracle_sandbox::Client;
use nix::sys::socket::{SockaddrStorage, getsockname, getsockopt, sockopt};

/// The name of the older process's control socket while both are there.
pub(super) fn aside(socket: &Path) -> PathBuf {
    socket.with_added_extension("older")
}

/// Takes up what an agent left that ended while there were two: it was the older one's turn until another was there.
pub(super) async fn recover(socket: &Path) {
    let aside = aside(socket);
    if !aside.exists() {
        return;
    }
    if Client::new(socket).info().await.is_ok() {
        end(&aside).await;
    } else if let Err(error) = fs::rename(&aside, socket) {
        tracing::warn!(%error, "the older process that serves Ingresses cannot be found");
    }
}

/// Tells the older process to take no more connections, and to end with its last request.
pub(super) async fn end(aside: &Path) {
    // Who does not answer has ended.
    let _ = Client::new(aside).shutdown().await;
    let _ = fs::remove_file(aside);
}

/// That process's sockets which take connections at these ports, in their order.
pub(super) fn sockets(pid: u32, ports: [u16; 2]) -> io::Result<[OwnedFd; 2]> {
    let process = pidfd(pid)?;
    let mut found = [None, None];
    for number in numbers(pid)? {
        // It may have been closed since.
        let Ok(socket) = taken(&process, number) else { continue };
        let Some(port) = listens_at(&socket) else { continue };
        if let Some(at) = ports.iter().position(|wanted| *wanted == port) {
            found[at] = Some(socket);
        }
        if let [Some(_), Some(_)] = found {
            break;
        }
    }
    match found {
        [Some(http), Some(https)] => Ok([http, https]),
        _ => Err(io::Error::other("its sockets cannot be taken over")),
    }
}

/// Numbers of its sockets, the lowest first: it opened first what it listens on.
fn numbers(pid: u32) -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        numbers.extend(number.filter(|_| is_socket));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The port at which it takes connections, if it does.
fn listens_at(socket: &OwnedFd) -> Option<u16> {
    if !getsockopt(socket, sockopt::AcceptConn).ok()? {
        return None;
    }
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    let v4 = address.as_sockaddr_in().map(|address| address.port());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.port()))
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers, and gives a new descriptor or -1.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A copy of that process's descriptor.
fn taken(process: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(answer) {
        // SAFETY: the kernel has just made it for the caller.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_older_one_that_nobody_followed_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("ingress.sock");
        recover(&socket).await;
        assert!(!socket.exists() && !aside(&socket).exists());
        let older = std::os::unix::net::UnixListener::bind(aside(&socket)).expect("bound");
        recover(&socket).await;
        assert!(socket.exists() && !aside(&socket).exists());
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
        drop(older);
    }

    #[test]
    fn sockets_are_found_by_their_ports() {
        let (a, b) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("[::1]:0"));
        let (a, b) = (a.expect("bound"), b.expect("bound"));
        let ports = [&b, &a].map(|socket| socket.local_addr().expect("bound").port());
        let taken = sockets(std::process::id(), ports).expect("found");
        let client = std::net::TcpStream::connect(("127.0.0.1", ports[1])).expect("connected");
        drop((a, b));
        let [b, a] = taken.map(TcpListener::from);
        // Who waited before there was one owner less waits still.
        let (_, from) = a.accept().expect("accepted");
        assert_eq!(from, client.local_addr().expect("connected"));
        assert_eq!(b.local_addr().expect("bound").port(), ports[0]);
        drop((a, b));
        assert!(sockets(std::process::id(), ports).is_err());
    }
}
