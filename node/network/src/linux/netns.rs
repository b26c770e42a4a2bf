//! Named network namespaces.
//!
//! A namespace lives as long as a process, a file descriptor or a mount refers to it. Mounting it on a file gives
//! it a name that outlives the agent, which finds it again at its next start.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

/// Makes a network namespace, and gives a file that refers to it.
pub type Make = Box<dyn FnOnce() -> io::Result<File> + Send>;

/// A network namespace that is mounted on a file.
#[derive(Debug, Clone)]
pub struct NetNs {
    path: PathBuf,
}

/// A step on a namespace that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} network namespace {}: {source}; this needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)", path.display())]
pub struct NetNsError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl NetNs {
    /// The namespace mounted on `path`, created if there is none; the file's folder is created too.
    ///
    /// # Errors
    /// When the file or the namespace cannot be created.
    pub fn ensure(path: &Path) -> Result<Self, NetNsError> {
        Self::ensure_with(path, None)
    }

    /// As [`NetNs::ensure`]; if there is none, the one that `make` makes. It may be owned by another user namespace, which
    /// only a process of its own can make.
    ///
    /// # Errors
    /// When the file or the namespace cannot be created.
    pub fn ensure_with(path: &Path, make: Option<Make>) -> Result<Self, NetNsError> {
        let namespace = NetNs { path: path.to_owned() };
        if namespace.exists() {
            return Ok(namespace);
        }
        let fail = |step| move |source| namespace_error(step, path, source);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(fail("make the folder of"))?;
        }
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(fail("make the file of"))?;
        let name =
            |made: &str| mount(Some(made), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        let created = match make {
            Some(make) => {
                make().and_then(|made| Ok(name(&format!("/proc/self/fd/{}", made.as_raw_fd()))?))
            }
            None => on_thread(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                name("/proc/thread-self/ns/net")
            })
            .map_err(io::Error::from),
        };
        created.map_err(fail("create"))?;
        Ok(namespace)
    }

    /// The namespace on `path`, whether or not there is one.
    pub(crate) fn named(path: &Path) -> Self {
        NetNs { path: path.to_owned() }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a namespace is mounted there.
    #[must_use]
    pub fn exists(&self) -> bool {
        statfs(&self.path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
    }

    /// A file that refers to the namespace, as netlink wants it for moving links.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> Result<File, NetNsError> {
        File::open(&self.path).map_err(|source| namespace_error("open", &self.path, source))
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets that it opens stay in there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        let file = self.open()?;
        on_thread(move || setns(file, CloneFlags::CLONE_NEWNET).map(|()| work()))
            .map_err(|errno| namespace_error("enter", &self.path, errno.into()))
    }

    /// Removes the name. The namespace itself ends with its last socket. A second time is no error.
    ///
    /// # Errors
    /// When the mount or the file cannot be removed.
    pub fn remove(&self) -> Result<(), NetNsError> {
        let fail = |source| namespace_error("remove", &self.path, source);
        match umount2(&self.path, MntFlags::MNT_DETACH) {
            // EINVAL: nothing is mounted there.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(fail(errno.into())),
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(error)),
            _ => Ok(()),
        }
    }
}

fn namespace_error(step: &'static str, path: &Path, source: io::Error) -> NetNsError {
    NetNsError { step, path: path.to_owned(), source }
}

/// Runs `work` on a fresh thread, which starts in the caller's namespaces and takes its own with it when it ends.
pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
