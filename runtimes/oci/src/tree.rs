//! Copies of mounts that are nowhere yet, by descriptor: found as this process may, shown in another way, put where others see them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A copy of what is found there, with all that is mounted below it. It keeps its tie to the original.
pub(crate) fn copy(found: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as libc::c_uint;
    // SAFETY: the string ends with NUL; the descriptor that comes is fresh.
    unsafe {
        let found = found.as_fd().as_raw_fd();
        let fd = libc::syscall(libc::SYS_open_tree, found, c"".as_ptr(), flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Shows a copy's owners as a user namespace maps them. Not of what is mounted below it.
pub(crate) fn show_to(tree: &OwnedFd, users: &File) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    // SAFETY: the string ends with NUL, the structure is as long as it is said to be, and both live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as libc::c_uint,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Mounts a copy.
pub(crate) fn put(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    const FROM_EMPTY: libc::c_uint = 4;
    let place = std::ffi::CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: strings end with NUL and live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            FROM_EMPTY,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
