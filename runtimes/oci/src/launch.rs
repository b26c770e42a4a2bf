//! Launchers: processes that start one process of a container each, and end.
//!
//! A launcher is forked from the shim, which has one thread; it may block, hang, change its folder and its priority, and the
//! shim kills it when it takes too long. What it starts is the shim's child from the beginning. The result comes as one
//! message, with the terminal's descriptor where there is one.

mod console;
mod create;
mod enter;
mod first;
mod program;
mod reply;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use coracle_sandbox::{ContainerSpec, OciContainer, Problem, ProblemCode, Rlimit, SandboxSpec};
use libcontainer::oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType};
use libcontainer::syscall::syscall::create_syscall;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork};

use crate::spec::{self, Places};
use crate::user::User;
use crate::users::Users;

pub(crate) use reply::{Receiver, Started};

/// How long a launcher may take. Images on a busy disk take seconds; nothing takes this long but what hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What is to be started.
pub(crate) enum Job<'a> {
    /// A container's first process, with all that is around it.
    Create,
    /// A further process.
    Enter {
        /// Its arguments.
        args: &'a [String],
        /// Whether it gets a terminal.
        tty: bool,
        /// As whom the container runs.
        user: &'a User,
        /// The container's first process.
        pid: i32,
    },
}

/// The container that it is about.
pub(crate) struct Subject<'a> {
    pub(crate) sandbox: &'a SandboxSpec,
    pub(crate) container: &'a ContainerSpec,
    pub(crate) oci: &'a OciContainer,
    /// The machine's mount namespace.
    pub(crate) machine: &'a File,
    /// Those of the Pod's own, if it has them.
    pub(crate) users: Option<&'a Users>,
    /// The container's own folder.
    pub(crate) folder: PathBuf,
    pub(crate) places: Places,
    pub(crate) group: crate::cgroup::Group,
    pub(crate) pid_namespace: Option<PathBuf>,
}

impl Subject<'_> {
    /// Closes what the shim has of the machine's and the Pod's. It is not used any more in this process.
    fn forget(&self) {
        let numbers = self.users.map(Users::numbers).into_iter().flatten();
        for number in numbers.chain([self.machine.as_raw_fd()]) {
            // SAFETY: this process ends without dropping what had the descriptors.
            unsafe { libc::close(number) };
        }
    }

    /// The pid namespace that the container joins, and where it is found: by whoever inherits it, who may not be allowed to
    /// look at the process.
    fn pid_namespace(&self) -> Result<Option<(File, PathBuf)>, Problem> {
        let Some(path) = &self.pid_namespace else { return Ok(None) };
        let file = File::open(path).map_err(|e| internal("cannot open the pid namespace", e))?;
        let path = inherited(&file);
        Ok(Some((file, path)))
    }

    /// The machine's number of one of its users.
    fn on_machine(&self, user: &User) -> u32 {
        self.users.map_or(user.uid, |users| users.on_machine(user.uid))
    }
}

/// The name of an attempt's folder and group; unique in its Pod.
pub(crate) fn id(container: &ContainerSpec) -> String {
    format!("{}-{}", container.name, container.attempt)
}

/// A process's standard streams. None of them with a terminal.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Streams {
    fn numbers(&self) -> Vec<RawFd> {
        let all = [&self.stdin, &self.stdout, &self.stderr];
        all.into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }
}

/// Forks a launcher. Its process, which is the caller's child, and where its result will be.
pub(crate) fn start(
    job: &Job<'_>,
    subject: &Subject<'_>,
    streams: Streams,
) -> Result<(Pid, Receiver), Problem> {
    let failed = |error: io::Error| {
        Problem::new(ProblemCode::Internal, format!("cannot fork a launcher: {error}"))
    };
    require_one_thread().map_err(failed)?;
    let (receiver, sender) = reply::pair().map_err(failed)?;
    // SAFETY: there is no other thread that could hold a lock.
    match unsafe { fork() }.map_err(|e| failed(e.into()))? {
        ForkResult::Parent { child } => Ok((child, receiver)),
        ForkResult::Child => {
            let work = std::panic::AssertUnwindSafe(|| {
                let mut kept = streams.numbers();
                kept.extend([sender.number(), subject.machine.as_raw_fd()]);
                kept.extend(subject.users.iter().flat_map(|users| users.numbers()));
                settle(&kept);
                let result = match job {
                    Job::Create => create::create(subject, streams),
                    Job::Enter { args, tty, user, pid } => {
                        let process = enter::Process { args, tty: *tty, user, of: *pid };
                        enter::enter(subject, &process, streams)
                    }
                };
                sender.send(result);
            });
            let done = std::panic::catch_unwind(work);
            // SAFETY: ends this process at once; nothing of the shim's that was copied is run or flushed.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
    }
}

/// Forking a process that has other threads would be a trap: see the crate's head.
pub(crate) fn require_one_thread() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 {
        return Ok(());
    }
    Err(io::Error::other(format!("this process has {threads} threads, where it must have one")))
}

/// Leaves behind what a fork inherits and programs must not: descriptors, and how signals are treated.
pub(crate) fn settle(kept: &[RawFd]) {
    close_all_but(kept);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    for changed in [Signal::SIGPIPE, Signal::SIGCHLD] {
        // SAFETY: sets the usual treatment, which runs nothing of ours.
        let _ = unsafe { signal(changed, SigHandler::SigDfl) };
    }
}

fn close_all_but(kept: &[RawFd]) {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if fd > from {
            // SAFETY: what has these descriptors in this process is never used again.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = from.max(fd.saturating_add(1));
    }
}

/// Ends a launcher that takes too long, with what it has forked itself: the caller ends the container's group.
pub(crate) fn give_up(launcher: Pid) {
    let _ = kill(launcher, Signal::SIGKILL);
}

/// Forks a process that becomes the shim's child, in the pid namespace that was entered last; its number, or nothing in
/// the process itself.
fn fork_sibling() -> io::Result<Option<i32>> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: as fork(2); there is no other thread that could hold a lock.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid as i32)),
    }
}

/// How soon this process and those that it forks are killed for want of memory.
fn adjust_score(oci: &OciContainer) -> io::Result<()> {
    let Some(score) = oci.oom_score_adj else { return Ok(()) };
    std::fs::write("/proc/self/oom_score_adj", spec::possible_score(score).to_string())
}

/// Bounds this process and those that it forks.
fn bound(oci: &OciContainer) -> io::Result<()> {
    let calls = create_syscall();
    for Rlimit { name, soft, hard } in &oci.rlimits {
        let invalid = |e: &dyn std::fmt::Display| {
            io::Error::other(format!("oci.rlimits: cannot set {name} to {soft} and {hard}: {e}"))
        };
        let kind: PosixRlimitType = name.parse().map_err(|e| invalid(&e))?;
        let limit = PosixRlimitBuilder::default().typ(kind).soft(*soft).hard(*hard).build();
        calls.set_rlimit(&limit.map_err(|e| invalid(&e))?).map_err(|e| invalid(&e))?;
    }
    Ok(())
}

/// A failure, with what was being done.
fn internal(what: &str, error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemCode::Internal, format!("{what}: {error}"))
}

/// Gives a stream to the user who writes it, as it is opened again by its name in /dev.
fn give(fd: Option<&OwnedFd>, subject: &Subject<'_>, user: &User) {
    use std::os::fd::AsFd;
    if let Some(fd) = fd {
        let fd: BorrowedFd<'_> = fd.as_fd();
        let _ = nix::unistd::fchown(fd, Some(subject.on_machine(user).into()), None);
    }
}

/// Where processes that inherit a descriptor find it, whatever folders they may enter.
pub(crate) fn inherited(fd: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
