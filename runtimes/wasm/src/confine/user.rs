//! A user without rights: a number of its own where root gave it one, and no capability in any case.

use std::io;

use coracle_sandbox::rights;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

/// Becomes that user, or stays the present one, without capabilities. The C library changes the
/// user of all threads, and with root's number go root's capabilities; where root stays root (in
/// a container that is allowed little), this must be the only thread.
pub(super) fn become_(user: Option<u32>) -> io::Result<()> {
    if geteuid().is_root() {
        // Where root may not even do this, there is little to lose.
        let _ = rights::bound(0);
    }
    if let Some(number) = user {
        setgroups(&[])?;
        let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        // A change of user closes /proc/self, from which the engine reads which pages were written.
        nix::sys::prctl::set_dumpable(true)?;
    }
    rights::keep(0)
}
