//! A user without rights: a number of its own where root gave it one, and no capability in any case.

use std::io;

use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;
/// No kernel has more than this.
const CAPABILITIES: u64 = 64;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Becomes that user, or stays the present one, without capabilities. The C library changes the
/// user of all threads, and with root's number go root's capabilities; where root stays root (in
/// a container that is allowed little), this must be the only thread.
pub(super) fn become_(user: Option<u32>) -> io::Result<()> {
    if geteuid().is_root() {
        for capability in 0..CAPABILITIES {
            // SAFETY: takes numbers only. A capability that the kernel does not know is no loss.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    if let Some(number) = user {
        setgroups(&[])?;
        let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        // A change of user closes /proc/self, from which the engine reads which pages were written.
        nix::sys::prctl::set_dumpable(true)?;
    }
    let header = Header { version: VERSION, pid: 0 };
    let none = [Data::default(); 2];
    // SAFETY: both structures are as version 3 wants them, and outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
