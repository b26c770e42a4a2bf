//! What the host denies itself before it runs anybody's code. A component that breaks out of the
//! engine is still inside this process: the less it may do, the better. In the order it is done:
//!
//! - [`root`]: as root, a root folder of its own that holds the given folders and nothing else;
//! - [`files`]: Landlock allows those folders and what a resolver reads. It goes on where there is
//!   no root: an ordinary user's host has the user's number, but not the user's files;
//! - [`user`]: as root, a user of its own; no capabilities at all;
//! - [`syscalls`]: the system calls that a host makes, and no others.
//!
//! Together they leave no way to run a program, to see or signal other processes, to reach the
//! agent's sockets and keys, or to enter another namespace. What the process may still do is what
//! its Pods may do: use their folders, and talk to the network from the namespace that it is in.
//!
//! Landlock and namespaces belong to threads and pass on to those that a thread starts, so they
//! come first, while there is one thread. A user and system calls are changed for all threads.

mod files;
mod root;
mod syscalls;
mod user;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a host may use, and as whom it runs.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// Folders and files that may be read.
    pub read: Vec<PathBuf>,
    /// Folders and files that may be read and written: logs, volumes.
    pub write: Vec<PathBuf>,
    /// Number of the user, and of its group, that the process becomes. Only root can; it then also
    /// gets a root folder of its own. None: it stays who it is.
    pub user: Option<u32>,
}

impl Confinement {
    /// The first part of denying this process everything else, for good: no other files from here on. While it has one thread.
    ///
    /// # Errors
    /// Says which part this kernel, or this user, does not allow.
    pub fn enclose(&self) -> anyhow::Result<()> {
        nix::sys::prctl::set_no_new_privs().context("no_new_privs")?;
        // A dump would hold what guests were told in confidence.
        setrlimit(Resource::RLIMIT_CORE, 0, 0).context("no core dumps")?;
        let read = || self.read.iter().map(PathBuf::as_path);
        let system = || SYSTEM.iter().map(Path::new);
        let write = || self.write.iter().map(PathBuf::as_path);
        if self.user.is_some() {
            root::enter(read().chain(system()), write())
                .context("cannot give the host a root folder of its own")?;
        }
        let process = PROCESS.iter().map(Path::new);
        files::restrict(read().chain(system()).chain(process), write());
        Ok(())
    }

    /// The second part: no rights from here on. Threads may exist.
    ///
    /// # Errors
    /// As [`Self::enclose`].
    pub fn disarm(&self) -> anyhow::Result<()> {
        user::become_(self.user).context("cannot give up the host's rights")?;
        syscalls::restrict(true).context("cannot restrict system calls")
    }
}

/// What a resolver and TLS read.
const SYSTEM: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];
/// What is read about this very process and the kernel, and of what the machine has left of memory and of time.
const PROCESS: &[&str] =
    &["/proc/self", "/proc/sys/vm", "/proc/swaps", "/proc/meminfo", "/proc/stat"];

/// What a process that compiles denies itself besides what is said in [`crate::compile`]: it can see nothing but one folder, which
/// that user can write to. Of one thread.
pub(crate) fn hide_all_but(folder: &Path, user: Option<u32>) -> anyhow::Result<()> {
    if user.is_some() {
        root::enter(std::iter::empty(), std::iter::once(folder))
            .context("cannot give the compiler a root folder of its own")?;
    }
    Ok(())
}

/// And after that it has no rights, and no sockets.
pub(crate) fn disarm_compiler(user: Option<u32>) -> anyhow::Result<()> {
    user::become_(user).context("cannot give up the compiler's rights")?;
    syscalls::restrict(false).context("cannot restrict system calls")
}

/// Enters a network namespace, with this thread and those that it starts.
pub(crate) fn enter_network(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// As many open files as the system allows, since every connection is one.
pub(crate) fn raise_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}
