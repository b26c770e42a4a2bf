//! The terminal that libcontainer makes within a container, handed out over a socket.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Where a terminal is waited for; its name is removed in the end.
pub(super) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    pub(super) fn listen(folder: &Path, name: &str) -> io::Result<Console> {
        // Socket names are short; folders may not be.
        let folder_fd = std::fs::File::open(folder)?;
        let short = format!("/proc/self/fd/{}/{name}", folder_fd.as_raw_fd());
        let path = folder.join(name);
        let _ = std::fs::remove_file(&path);
        Ok(Console { listener: UnixListener::bind(short)?, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal; the container has sent it by now.
    pub(super) fn receive(&self) -> io::Result<OwnedFd> {
        let (connection, _) = self.listener.accept()?;
        receive(&connection)
    }
}

/// The terminal that was sent through a socket.
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

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
