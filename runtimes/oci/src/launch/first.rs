//! A container's first process: forked by its launcher in the container's group and namespaces, and made a container from
//! within by libcontainer.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use coracle_sandbox::{Problem, ProblemCode};
use libcgroups::common::CgroupConfig;
use libcontainer::notify_socket::{NotifyListener, NotifyListenerError, NotifySocket};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::channel::{init_channel, main_channel};
use libcontainer::process::init::container_init_process;
use libcontainer::syscall::syscall::SyscallType;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use super::program::{Program, Told};
use super::{Started, Streams, Subject, console, internal};
use crate::user::User;

/// What it is made of.
pub(super) struct First<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) user: User,
    pub(super) spec: Spec,
    /// Which devices it may use.
    pub(super) rules: Vec<Value>,
    /// Where its root file system is mounted.
    pub(super) rootfs: &'a Path,
    pub(super) program: Program,
    pub(super) told: Told,
    pub(super) streams: Streams,
    /// The one that it joins; without, it gets one of its own, unless it has the machine's.
    pub(super) pid_namespace: Option<File>,
}

/// Starts it.
pub(super) fn start(first: First<'_>) -> Result<Started, Problem> {
    let First { subject, user, spec, rules, rootfs, mut program, told, streams, pid_namespace } =
        first;
    let cannot = |e: io::Error| internal("cannot make the container's process", e);
    // libcontainer looks for the mount by its path without links.
    let rootfs = std::fs::canonicalize(rootfs).map_err(cannot)?;
    let notify_listener = started_at_once(&subject.folder).map_err(|e| failed(&e))?;
    let terminal = subject.oci.tty.then(UnixStream::pair).transpose().map_err(cannot)?;
    let (ours, theirs) = terminal.unzip();
    // libcontainer closes the one that it is given.
    let theirs = theirs.map(|theirs| Ok((theirs.try_clone()?, theirs))).transpose();
    let (console, gate) = theirs.map_err(cannot)?.unzip();
    program.gate = gate.as_ref().map(AsRawFd::as_raw_fd);
    let (mut sender, mut receiver) = main_channel().map_err(|e| failed(&e))?;
    let (_, mut unused) = init_channel().map_err(|e| failed(&e))?;
    let number = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
    let args = ContainerArgs {
        container_type: ContainerType::InitContainer,
        syscall: SyscallType::default(),
        spec: Rc::new(spec),
        rootfs,
        console_socket: console.as_ref().map(AsRawFd::as_raw_fd),
        notify_listener,
        preserve_fds: 0,
        container: None,
        user_ns_config: None,
        // The group is joined here.
        cgroup_config: CgroupConfig {
            cgroup_path: PathBuf::new(),
            systemd_cgroup: false,
            container_name: String::new(),
        },
        detached: true,
        executor: Box::new(program.clone()),
        no_pivot: false,
        stdin: number(&streams.stdin),
        stdout: number(&streams.stdout),
        stderr: number(&streams.stderr),
        as_sibling: true,
        pid_file: None,
    };
    super::adjust_score(subject.oci).map_err(cannot)?;
    let group = &subject.group;
    group.make().and_then(|()| group.restrict_devices(&rules)).map_err(cannot)?;
    group.join().map_err(cannot)?;
    if let Some(users) = subject.users {
        users.enter().map_err(cannot)?;
    }
    subject.forget();
    super::bound(subject.oci).map_err(cannot)?;
    let machines = subject.sandbox.oci.as_ref().is_some_and(|o| o.host_pid);
    match pid_namespace {
        Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWPID),
        None if machines => Ok(()),
        None => unshare(CloneFlags::CLONE_NEWPID),
    }
    .map_err(|e| cannot(e.into()))?;
    // Changing users may have made this readable for others.
    nix::sys::prctl::set_dumpable(false).map_err(|e| cannot(e.into()))?;
    let Some(pid) = super::fork_sibling().map_err(cannot)? else {
        drop(ours);
        if let Err(error) = container_init_process(&args, &mut sender, &mut unused) {
            program.tell(&failed(&error));
        }
        // SAFETY: ends the process; nothing of the shim's that was copied is run or flushed.
        unsafe { libc::_exit(1) }
    };
    drop((console, gate));
    sender.close().map_err(|e| failed(&e))?;
    let terminal = ours.map(|ours| take_terminal(&ours, &user)).transpose();
    if let Some(problem) = told.failure() {
        return Err(problem);
    }
    // One that was killed on the way says nothing.
    receiver.wait_for_init_ready().map_err(|e| failed(&e))?;
    let terminal = terminal.map_err(|e| internal("no terminal came", e))?;
    Ok(Started { pid, user, terminal })
}

/// What libcontainer waits on before it runs the program, told that it need not.
fn started_at_once(folder: &Path) -> Result<NotifyListener, NotifyListenerError> {
    let path = folder.join("notify.sock");
    let listener = NotifyListener::new(&path)?;
    NotifySocket::new(path).notify_container_start()?;
    Ok(listener)
}

/// The terminal, whose other end becomes the user's before the program may run.
fn take_terminal(mut connection: &UnixStream, user: &User) -> io::Result<OwnedFd> {
    let terminal = console::receive(connection)?;
    console::give(&terminal, user.uid)?;
    connection.write_all(b"\n")?;
    Ok(terminal)
}

/// An error of libcontainer's with its causes, which it does not say itself.
fn failed(error: &dyn std::error::Error) -> Problem {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    Problem::new(ProblemCode::StartFailed, format!("OCI runtime create failed: {text}"))
}
