//! Users of a Pod's own: its user namespace, which its other namespaces belong to, and how files are shown to it.
//!
//! The namespace is made by whoever makes the Pod's network, which has to be owned by it from the start; here it is found
//! through that. Files keep the Pod's numbers on the disk: layers, volumes and what containers write are mounted with these
//! mapped to the namespace's, so that nothing is ever copied or given to others.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_sandbox::users::{self, Range};
use coracle_sandbox::{Problem, ProblemCode, UserMapping, rights};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, setgroups, setresgid, setresuid};

use crate::launch;
use crate::tree;
use crate::user::User;

/// How often a process that holds namespaces looks whether they are still wanted.
const HOLD: Duration = Duration::from_secs(1);

/// A Pod's users.
pub(crate) struct Users {
    mapping: UserMapping,
    /// Its user namespace.
    namespace: File,
    /// The user namespace as which files are shown.
    files: File,
}

impl Users {
    /// Those that own the network namespace at that path. Where there is none, a new user namespace, and a network namespace
    /// with nothing in it; the network comes too.
    pub(crate) fn find(mapping: UserMapping, network: Option<&Path>) -> io::Result<(Users, File)> {
        let (namespace, network) = match network {
            Some(path) => {
                let network = File::open(path)?;
                (owner(&network)?, network)
            }
            None => {
                let made =
                    users::make(&mapping.of_processes(), libc::CLONE_NEWNET, ["user", "net"]);
                made.map(|[namespace, network]| (namespace, network))?
            }
        };
        let [files] = users::make(&mapping.of_files(), 0, ["user"])?;
        Ok((Users { mapping, namespace, files }, network))
    }

    /// Descriptors that launchers need.
    pub(crate) fn numbers(&self) -> [RawFd; 2] {
        [self.namespace.as_raw_fd(), self.files.as_raw_fd()]
    }

    /// Where the namespace is found by processes that inherit it.
    pub(crate) fn path(&self) -> PathBuf {
        launch::inherited(&self.namespace)
    }

    /// The machine's number of one of the Pod's users or groups.
    pub(crate) fn on_machine(&self, id: u32) -> u32 {
        self.mapping.host.saturating_add(id)
    }

    /// Sees that these are users and groups that the Pod has.
    pub(crate) fn require(&self, user: &User) -> Result<(), Problem> {
        let ids = [("user", user.uid), ("group", user.gid)].into_iter();
        let mut ids = ids.chain(user.groups.iter().map(|group| ("group", *group)));
        let Some((what, id)) = ids.find(|(_, id)| *id >= self.mapping.count) else {
            return Ok(());
        };
        let message = format!(
            "hostUsers: a Pod with users of its own has those from 0 to {}, and {what} {id} is none of them",
            self.mapping.count.saturating_sub(1)
        );
        Err(Problem::new(ProblemCode::InvalidSpec, message))
    }

    /// A copy of what was found at `path`, with owners as the Pod is to see them.
    pub(crate) fn show(&self, found: &impl AsFd, path: &Path) -> Result<OwnedFd, Problem> {
        let copy = tree::copy(found).map_err(|error| {
            let message = format!("cannot mount {}: {error}", path.display());
            Problem::new(ProblemCode::InvalidSpec, message)
        })?;
        tree::show_to(&copy, &self.files).map_err(|error| self.cannot_show(path, &error))?;
        Ok(copy)
    }

    fn cannot_show(&self, path: &Path, error: &io::Error) -> Problem {
        let path = path.display();
        let why = match error.raw_os_error() {
            Some(libc::EINVAL | libc::ENOSYS) => {
                "the file system there has no ID-mapped mounts on this kernel, which Pods with hostUsers: false need; use another volume, or leave hostUsers out"
            }
            Some(libc::EPERM) => "it is mounted with mapped IDs already",
            _ => "mount_setattr",
        };
        Problem::new(
            ProblemCode::InvalidSpec,
            format!("hostUsers: cannot map the owners of files in {path}: {why} ({error})"),
        )
    }

    /// Sees that files below that folder can be shown to the Pod.
    pub(crate) fn require_mapped_mounts(&self, folder: &Path) -> Result<(), Problem> {
        let opened = File::open(folder).map_err(|e| self.cannot_show(folder, &e))?;
        self.show(&opened, folder).map(drop)
    }

    /// Does something to files as the Pod's root, with this process's rights: what is made belongs to the Pod.
    pub(crate) fn as_root<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let rights = rights::permitted()?;
        let become_id = |id: u32| {
            // SAFETY: calls with plain numbers, for this thread.
            unsafe {
                libc::setfsgid(id);
                libc::setfsuid(id);
            }
            // The kernel takes rights over files away from whoever is no longer root.
            rights::keep(rights)
        };
        become_id(self.mapping.host)?;
        let done = work();
        become_id(0)?;
        Ok(done)
    }

    /// Makes this process one of the Pod's root. It must have one thread, and keeps its other namespaces.
    pub(crate) fn enter(&self) -> io::Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWUSER)?;
        setgroups(&[])?;
        let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(group, group, group)?;
        Ok(setresuid(user, user, user)?)
    }

    /// Forks a process that does something as the Pod's root, and then gives those of its namespaces that are named
    /// (`/proc/PID/ns`).
    pub(crate) fn fork<const N: usize>(
        &self,
        names: [&str; N],
        work: impl FnOnce() -> Result<(), Problem>,
    ) -> Result<[File; N], Problem> {
        let internal = |error: io::Error| {
            let message = format!("hostUsers: cannot enter the Pod's user namespace: {error}");
            Problem::new(ProblemCode::Internal, message)
        };
        launch::require_one_thread().map_err(internal)?;
        let (mut told, mut tell) = io::pipe().map_err(internal)?;
        // SAFETY: there is no other thread that could hold a lock.
        match unsafe { fork() }.map_err(|e| internal(e.into()))? {
            ForkResult::Child => {
                drop(told);
                let work = std::panic::AssertUnwindSafe(|| {
                    let done = self.enter().and_then(|()| self.verify()).map_err(internal);
                    let done = done.and_then(|()| work());
                    let mut text = serde_json::to_vec(&done.err()).unwrap_or_default();
                    text.push(b'\n');
                    // Holds its namespaces until it is killed, or the shim is gone and nobody listens any more.
                    while tell.write_all(&text).is_ok() {
                        text = b"\n".to_vec();
                        std::thread::sleep(HOLD);
                    }
                });
                let _ = std::panic::catch_unwind(work);
                // SAFETY: ends the process; nothing of the shim's that was copied is run or flushed.
                unsafe { libc::_exit(1) }
            }
            ForkResult::Parent { child } => {
                drop(tell);
                let result = Self::taken(&mut told, child, names);
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
                result.map_err(internal)?
            }
        }
    }

    fn taken<const N: usize>(
        told: &mut impl Read,
        child: Pid,
        names: [&str; N],
    ) -> io::Result<Result<[File; N], Problem>> {
        let mut text = Vec::new();
        let mut byte = [0];
        while told.read(&mut byte)? == 1 && byte != *b"\n" {
            text.extend(byte);
        }
        if let Some(problem) = serde_json::from_slice(&text)? {
            return Ok(Err(problem));
        }
        let mut files = Vec::with_capacity(N);
        for name in names {
            files.push(File::open(format!("/proc/{child}/ns/{name}"))?);
        }
        let files = <[File; N]>::try_from(files);
        files.map(Ok).map_err(|_| io::Error::other("not as many as were named"))
    }

    /// Sees that the namespace that this process has entered is of the users that were asked for.
    fn verify(&self) -> io::Result<()> {
        for map in ["uid_map", "gid_map"] {
            let text = std::fs::read_to_string(format!("/proc/self/{map}"))?;
            let mut found: Vec<u32> = Vec::new();
            found.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
            let wanted = self.mapping.of_processes();
            let wanted = wanted
                .iter()
                .flat_map(|Range { inside, outside, count }| [*inside, *outside, *count]);
            if found != wanted.collect::<Vec<_>>() {
                let message = format!("its {map} is {}", text.trim());
                return Err(io::Error::other(message));
            }
        }
        Ok(())
    }
}

/// The user namespace that owns another namespace (ioctl_nsfs(2)).
fn owner(namespace: &File) -> io::Result<File> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: takes nothing; the descriptor that comes is fresh.
    unsafe {
        let fd = libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(File::from_raw_fd(fd)) }
    }
}
