//! A root folder of the host's own: an empty file system into which the folders that it may use are
//! mounted, under the names that they have outside. So the host reads the same paths as the agent,
//! whose folders are closed to other users, and there is nothing else that it could reach. Mounts
//! go with the process.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

/// Hidden behind the new root while that is made; every system has it.
const STAGE: &str = "/tmp";

/// Moves this process, which must have one thread, into such a root.
pub(super) fn enter<'a>(
    read: impl Iterator<Item = &'a Path>,
    write: impl Iterator<Item = &'a Path>,
) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What the agent mounts into a volume later appears here too; nothing goes the other way.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    // Opened before anything is hidden, and in the new namespace, whose mounts alone can be mounted there. What does not exist is not missed.
    let sources: Vec<Source> = read
        .map(|path| Source::open(path, MsFlags::MS_RDONLY))
        .chain(write.map(|path| Source::open(path, MsFlags::empty())))
        .filter_map(Result::transpose)
        .collect::<io::Result<_>>()?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = Some("mode=0755,size=1m");
    mount(Some("coracle"), STAGE, Some("tmpfs"), plain | MsFlags::MS_NOEXEC, options)?;
    for source in &sources {
        source.mount(plain)?;
    }
    let proc = Path::new(STAGE).join("proc");
    fs::create_dir(&proc)?;
    let closed = plain | MsFlags::MS_NOEXEC;
    // Other users' processes are not shown.
    mount(Some("proc"), &proc, Some("proc"), closed, Some("hidepid=invisible"))?;
    chdir(STAGE)?;
    // The old root comes to lie upon the new one, and is taken off.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | closed;
    Ok(mount(None::<&str>, "/", None::<&str>, remount, None::<&str>)?)
}

/// A folder or file to be mounted.
struct Source {
    file: File,
    path: PathBuf,
    is_dir: bool,
    flags: MsFlags,
}

impl Source {
    fn open(path: &Path, flags: MsFlags) -> io::Result<Option<Source>> {
        let opened = File::options().read(true).custom_flags(libc::O_PATH).open(path);
        match opened {
            Ok(file) => {
                let is_dir = file.metadata()?.is_dir();
                Ok(Some(Source { file, path: path.to_owned(), is_dir, flags }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }

    fn mount(&self, plain: MsFlags) -> io::Result<()> {
        let name = |error: nix::Error| {
            io::Error::other(format!("cannot mount {}: {error}", self.path.display()))
        };
        let target = Path::new(STAGE).join(self.path.strip_prefix("/").unwrap_or(&self.path));
        // Within another one, or given twice.
        if !target.exists() {
            if self.is_dir {
                fs::create_dir_all(&target)?;
            } else {
                target.parent().map_or(Ok(()), fs::create_dir_all)?;
                File::create(&target)?;
            }
        }
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(source.as_str()), &target, None::<&str>, bind, None::<&str>).map_err(name)?;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | plain | self.flags;
        mount(None::<&str>, &target, None::<&str>, flags, None::<&str>).map_err(name)
    }
}
