//! Starting a further process in a container whose Pod has users of its own.
//!
//! libcontainer does not take such a process into the user namespace, so it would be the machine's root in there. This one
//! enters it first, and the container's other namespaces with the rights that it has in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use coracle_sandbox::{Problem, ProblemCode};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::workload::Executor;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};

use super::create::Rights;
use super::program::{NOT_EXECUTABLE, Program, Told};
use super::{Started, Streams, Subject, console, give, internal};
use crate::capabilities::Set;
use crate::spec;
use crate::user::User;
use crate::users::Users;

const WORDS: &str = "OCI runtime exec failed: exec failed: unable to start container process";

/// What is to be started.
pub(super) struct Process<'a> {
    pub(super) args: &'a [String],
    pub(super) tty: bool,
    pub(super) user: &'a User,
    /// The container's first process.
    pub(super) of: i32,
}

/// Starts it, with the container's user, rights and environment.
pub(super) fn join(
    subject: &Subject<'_>,
    users: &Users,
    process: &Process<'_>,
    streams: Streams,
) -> Result<Started, Problem> {
    if !subject.oci.rlimits.is_empty() {
        let message = "oci.rlimits: not for processes that join a Pod with users of its own";
        return Err(Problem::new(ProblemCode::InvalidSpec, message));
    }
    let rights = Rights::of(subject)?;
    let known = rights.known(subject, process.user);
    let told = Told::new().map_err(|e| internal("cannot make a pipe", e))?;
    let program = Program {
        args: process.args.to_vec(),
        env: spec::environment(&known, process.tty),
        folder: subject.container.working_dir.clone().unwrap_or_else(|| "/".into()),
        filter: rights.filter.clone(),
        keep: rights.keep,
        words: WORDS,
        told: told.number(),
    };
    for stream in [&streams.stdin, &streams.stdout, &streams.stderr] {
        give(stream.as_ref(), subject, process.user);
    }
    let cannot = |e: io::Error| internal("cannot enter the container", e);
    let terminal = process.tty.then(UnixStream::pair).transpose().map_err(cannot)?;
    let (ours, theirs) = terminal.unzip();
    // What is looked for by path, or needs rights over the machine, comes before the namespaces.
    if let Some(score) = subject.oci.oom_score_adj {
        let score = spec::possible_score(score).to_string();
        std::fs::write("/proc/self/oom_score_adj", score).map_err(cannot)?;
    }
    let open = |name: &str| File::open(format!("/proc/{}/ns/{name}", process.of));
    let mut namespaces = vec![(open("pid").map_err(cannot)?, CloneFlags::CLONE_NEWPID)];
    // Of control groups, most containers have the machine's, where the Pod has no rights.
    let groups_of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/cgroup")).ok();
    if groups_of(&process.of.to_string()) != groups_of("self") {
        namespaces.push((open("cgroup").map_err(cannot)?, CloneFlags::CLONE_NEWCGROUP));
    }
    // What is opened by path is the container's from then on.
    namespaces.push((open("mnt").map_err(cannot)?, CloneFlags::CLONE_NEWNS));
    subject.group.join().map_err(cannot)?;
    users.enter().map_err(cannot)?;
    for (namespace, kind) in namespaces {
        setns(namespace, kind).map_err(|e| cannot(e.into()))?;
    }
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: as fork(2); there is no other thread that could hold a lock. It becomes the shim's child.
    let pid = match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => return Err(cannot(io::Error::last_os_error())),
        0 => {
            drop(ours);
            let run = Run { subject, process, program: &program, rights: &rights };
            if let Err(error) = run.start(&streams, theirs.as_ref()) {
                program.fail(NOT_EXECUTABLE, &error.to_string());
            }
            // SAFETY: ends the process; nothing of the shim's that was copied is run or flushed.
            unsafe { libc::_exit(1) }
        }
        pid => pid as i32,
    };
    drop(theirs);
    if let Some(problem) = told.failure() {
        return Err(problem);
    }
    let terminal = ours.map(|ours| console::receive(&ours)).transpose();
    let terminal = terminal.map_err(|e| internal("no terminal came", e))?;
    Ok(Started { pid, user: process.user.clone(), terminal })
}

/// The new process, up to its program.
struct Run<'a> {
    subject: &'a Subject<'a>,
    process: &'a Process<'a>,
    program: &'a Program,
    rights: &'a Rights,
}

impl Run<'_> {
    /// Returns only if it fails, and has not said so, or has.
    fn start(&self, streams: &Streams, terminal: Option<&UnixStream>) -> io::Result<()> {
        setsid()?;
        for (stream, number) in [(&streams.stdin, 0), (&streams.stdout, 1), (&streams.stderr, 2)] {
            if let Some(stream) = stream {
                put(stream, number)?;
            }
        }
        if let Some(terminal) = terminal {
            let socket = terminal.try_clone()?;
            libcontainer::tty::setup_console(&*create_syscall(), socket.into_raw_fd(), false)
                .map_err(io::Error::other)?;
            let uid = Uid::from_raw(self.process.user.uid);
            nix::unistd::fchown(io::stdin(), Some(uid), None)?;
        }
        let oci = self.subject.oci;
        if oci.no_new_privileges {
            nix::sys::prctl::set_no_new_privs()?;
        }
        umask(Mode::from_bits_truncate(oci.umask.unwrap_or(0o022)));
        self.become_user(self.rights.at_first)?;
        // Whatever is open besides the standard streams is not for the program.
        // SAFETY: a call with plain numbers.
        let closed =
            unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if closed < 0 {
            return Err(io::Error::last_os_error());
        }
        // Both tell of their failures themselves.
        let unused = Spec::default();
        let _ = self.program.validate(&unused).is_ok() && self.program.exec(&unused).is_ok();
        Ok(())
    }

    fn become_user(&self, rights: Set) -> io::Result<()> {
        let User { uid, gid, groups, .. } = self.process.user;
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        nix::sys::prctl::set_keepcaps(true)?;
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        nix::sys::prctl::set_keepcaps(false)?;
        rights.keep_of_permitted()
    }
}

/// Makes a descriptor one of the standard streams.
fn put(stream: &OwnedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: plain numbers; what has that number in this process is not used any more.
    match unsafe { libc::dup2(stream.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
