//! User namespaces (user_namespaces(7)), made by a process that is forked for it: one with several threads cannot enter any.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// IDs that follow each other, of users and of groups alike: one line of a namespace's `uid_map` and `gid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first one's number inside.
    pub inside: u32,
    /// The same one's on this machine.
    pub outside: u32,
    /// How many there are.
    pub count: u32,
}

/// Makes a user namespace with these IDs and, by flags of clone(2), others that it owns. What comes are those of `/proc/PID/ns`
/// that are named. They hold no process, and end when nothing refers to them any more.
///
/// # Errors
/// Where the kernel makes none, or this process lacks `CAP_SETUID` and `CAP_SETGID`.
pub fn make<const N: usize>(
    ranges: &[Range],
    more: libc::c_int,
    names: [&str; N],
) -> io::Result<[File; N]> {
    let mut ends = [0; 2];
    // SAFETY: there is room for two descriptors, which are fresh.
    let (read, write) = unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    let flags = libc::CLONE_NEWUSER | more | libc::SIGCHLD;
    // SAFETY: as fork(2). The child only makes system calls, whatever lock another thread may hold.
    let pid = match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: waits to be killed, or for the parent's end, which closes the pipe.
        0 => unsafe {
            libc::close(write.as_raw_fd());
            let mut byte = 0u8;
            while libc::read(read.as_raw_fd(), (&raw mut byte).cast(), 1) < 0 {}
            libc::_exit(0)
        },
        pid => pid as libc::pid_t,
    };
    let made = (|| {
        let lines = ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count));
        let lines: String = lines.collect();
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{map}"), &lines)?;
        }
        let mut files = Vec::with_capacity(N);
        for name in names {
            files.push(File::open(format!("/proc/{pid}/ns/{name}"))?);
        }
        <[File; N]>::try_from(files).map_err(|_| io::Error::other("not as many as were named"))
    })();
    // SAFETY: plain calls; the child was not waited for yet.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        while libc::waitpid(pid, std::ptr::null_mut(), 0) < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
    made
}
