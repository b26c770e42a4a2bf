//! Starting a further process in a container that runs.
//!
//! The launcher goes in itself, and leaves on the way what is the machine's: descriptors, users, rights. What it forks in the
//! end, where the container's processes see it, has no more than the program is to have.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use coracle_sandbox::Problem;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::workload::Executor;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, getppid, setgroups, setresgid, setresuid, setsid};

use super::create::Rights;
use super::program::{NOT_EXECUTABLE, Program, Told};
use super::{Started, Streams, Subject, console, give, inherited, internal};
use crate::spec;
use crate::user::User;

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
pub(super) fn enter(
    subject: &Subject<'_>,
    process: &Process<'_>,
    streams: Streams,
) -> Result<Started, Problem> {
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
        gate: None,
    };
    for stream in [&streams.stdin, &streams.stdout, &streams.stderr] {
        give(stream.as_ref(), subject, process.user);
    }
    let cannot = |e: io::Error| internal("cannot enter the container", e);
    let terminal = process.tty.then(UnixStream::pair).transpose().map_err(cannot)?;
    let (ours, theirs) = terminal.unzip();
    go_in(subject, process).map_err(cannot)?;
    become_user(subject, process.user, &rights).map_err(cannot)?;
    let Some(pid) = super::fork_sibling().map_err(cannot)? else {
        drop(ours);
        if let Err(error) = run(&program, &streams, theirs) {
            program.fail(NOT_EXECUTABLE, &error.to_string());
        }
        // SAFETY: ends the process; nothing of the shim's that was copied is run or flushed.
        unsafe { libc::_exit(1) }
    };
    drop(theirs);
    if let Some(problem) = told.failure() {
        return Err(problem);
    }
    let terminal = ours.map(|ours| console::receive(&ours)).transpose();
    let terminal = terminal.map_err(|e| internal("no terminal came", e))?;
    Ok(Started { pid, user: process.user.clone(), terminal })
}

/// Takes this process into the container, but for its pid namespace, where what it forks will be. What is looked for by path,
/// or needs rights over the machine, comes first.
fn go_in(subject: &Subject<'_>, process: &Process<'_>) -> io::Result<()> {
    super::adjust_score(subject.oci)?;
    let first = find(process.of)?;
    let of = inherited(&first).join("ns");
    let open = |name: &str| File::open(of.join(name));
    let mut namespaces = vec![(open("pid")?, CloneFlags::CLONE_NEWPID)];
    // Of control groups, most containers have the machine's, where a Pod with users of its own has no rights.
    if std::fs::read_link(of.join("cgroup"))? != std::fs::read_link("/proc/self/ns/cgroup")? {
        namespaces.push((open("cgroup")?, CloneFlags::CLONE_NEWCGROUP));
    }
    // What is opened by path is the container's from then on.
    namespaces.push((open("mnt")?, CloneFlags::CLONE_NEWNS));
    subject.group.join()?;
    if let Some(users) = subject.users {
        users.enter()?;
    }
    subject.forget();
    drop(first);
    for (namespace, kind) in namespaces {
        setns(namespace, kind)?;
    }
    super::bound(subject.oci)
}

/// Makes this process the program's user, with the rights that it is to have at first.
fn become_user(subject: &Subject<'_>, user: &User, rights: &Rights) -> io::Result<()> {
    if subject.oci.no_new_privileges {
        nix::sys::prctl::set_no_new_privs()?;
    }
    umask(Mode::from_bits_truncate(subject.oci.umask.unwrap_or(0o022)));
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    nix::sys::prctl::set_keepcaps(true)?;
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    nix::sys::prctl::set_keepcaps(false)?;
    rights.at_first.keep_of_permitted()?;
    // Changing users may have made this process readable for others.
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// The new process, up to its program. Returns only if it fails, and has not said so, or has.
fn run(program: &Program, streams: &Streams, terminal: Option<UnixStream>) -> io::Result<()> {
    setsid()?;
    for (stream, number) in [(&streams.stdin, 0), (&streams.stdout, 1), (&streams.stderr, 2)] {
        if let Some(stream) = stream {
            put(stream, number)?;
        }
    }
    let terminal = terminal.map(IntoRawFd::into_raw_fd);
    let kept: Vec<RawFd> = terminal.into_iter().chain([program.told]).collect();
    super::close_all_but(&kept);
    if let Some(terminal) = terminal {
        libcontainer::tty::setup_console(&*create_syscall(), terminal, false)
            .map_err(io::Error::other)?;
    }
    // Both tell of their failures themselves.
    let unused = Spec::default();
    let _ = program.validate(&unused).is_ok() && program.exec(&unused).is_ok();
    Ok(())
}

/// A container's first process. Whatever gets its number later, this never means that.
fn find(pid: i32) -> io::Result<File> {
    let process = File::open(format!("/proc/{pid}"))?;
    let stat = std::fs::read_to_string(inherited(&process).join("stat"))?;
    // Behind the name, in which anything may be, come its state and its parent: the shim, which is this process's, too.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let parent = behind.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    if parent != Some(getppid().as_raw()) {
        return Err(io::Error::other("its first process is gone"));
    }
    Ok(process)
}

/// Makes a descriptor one of the standard streams.
fn put(stream: &OwnedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: plain numbers; what has that number in this process is not used any more.
    match unsafe { libc::dup2(stream.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
