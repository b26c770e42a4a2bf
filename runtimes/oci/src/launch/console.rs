//! The terminal that libcontainer makes within a container, handed out over a socket.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The controlling end of the terminal that was sent through a socket; waits until it was.
pub(super) fn receive(connection: &impl AsRawFd) -> io::Result<OwnedFd> {
    let mut text = [0; 64];
    let mut parts = [IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just made it for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::other("the container sent no terminal"))
}

/// Gives a terminal's other end to the user who will write to it. It is not looked for by a name that the container could
/// have given to something else.
pub(super) fn give(terminal: &OwnedFd, user: u32) -> io::Result<()> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a call with plain numbers; the descriptor that comes is fresh.
    let other = unsafe {
        let fd = libc::ioctl(terminal.as_raw_fd(), libc::TIOCGPTPEER, flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    Ok(nix::unistd::fchown(&other, Some(user.into()), None)?)
}
