//! The first process of a pid namespace that a Pod's containers share: it holds the namespace, and reaps.
//!
//! Containers see it and may have the right to look into it, so it has nothing: an empty root folder, no rights, no
//! descriptors, and no memory that could be read by others.

use std::io::{self, Read, Write};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, fork, pivot_root};

use crate::capabilities::Set;
use crate::launch;
use crate::users::Users;

/// Forks it; a child of this process. Where the Pod has users of its own, the namespace is theirs.
pub(super) fn start(users: Option<&Users>) -> io::Result<Pid> {
    launch::require_one_thread()?;
    let Some(users) = users else { return clone(0) };
    let (mut told, mut tell) = io::pipe()?;
    // SAFETY: there is no other thread that could hold a lock.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(tell);
            let mut number = [0; 4];
            let read = told.read_exact(&mut number);
            let _ = waitpid(child, None);
            read.map(|()| Pid::from_raw(i32::from_ne_bytes(number)))
        }
        ForkResult::Child => {
            let started = users.enter().and_then(|()| clone(libc::CLONE_PARENT));
            let told = started.and_then(|pid| tell.write_all(&pid.as_raw().to_ne_bytes()));
            // SAFETY: ends the process; nothing of the shim's is run.
            unsafe { libc::_exit(i32::from(told.is_err())) }
        }
    }
}

fn clone(more: libc::c_int) -> io::Result<Pid> {
    let flags = libc::CLONE_NEWPID | libc::SIGCHLD | more;
    // SAFETY: as fork(2), into a new namespace; there is no other thread that could hold a lock.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            launch::settle(&[]);
            // SAFETY: ends the process; nothing of the shim's is run.
            unsafe { libc::_exit(i32::from(hold().is_err())) }
        }
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}

fn hold() -> io::Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    ends.thread_block()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount::<str, str, str, str>(None, "/", None, private, None)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Any folder will do: what is under it goes in a moment.
    mount(Some("none"), "/tmp", Some("tmpfs"), flags, Some("size=4k"))?;
    chdir("/tmp")?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    for fd in 0..3 {
        // SAFETY: nothing in this process uses them any more.
        unsafe { libc::close(fd) };
    }
    let _ = nix::sys::prctl::set_name(c"pause");
    nix::sys::prctl::set_dumpable(false)?;
    nix::sys::prctl::set_no_new_privs()?;
    Set::default().keep_only()?;
    loop {
        while matches!(
            waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
        ends.wait()?;
    }
}
