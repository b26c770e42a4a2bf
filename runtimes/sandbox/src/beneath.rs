//! Paths in folders that somebody else changes meanwhile.
//!
//! A volume belongs to the workloads that mount it. Whoever opens, makes or gives away something in it by its path, with more
//! rights than they have, can be led astray: between a look at the path and its use, a folder on the way becomes a link to
//! somewhere else. So such paths are resolved by the kernel in one step (`openat2` with `RESOLVE_BENEATH`), from a
//! descriptor of the volume, and everything that follows is done to the descriptor that was found. Links that stay in the volume are
//! followed, as Kubernetes follows them for a `subPath` (its pkg/volume/util/subpath); all others are errors.
//!
//! Here, since both ends of the protocol need it: the agent makes what a [`Mount`](crate::Mount) names, and the host that
//! runs the container opens it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, unlinkat};

/// How often the kernel is asked again that saw something renamed meanwhile. Whoever does nothing but rename gains an error.
const TRIES: u32 = 1000;
/// How folders are opened: to come to what is in them.
const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);
/// Folders in each other that are walked.
const DEEPEST: usize = 256;

/// A folder that is open, and cannot be exchanged any more.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// What there is at a path.
#[derive(Debug)]
pub enum Found {
    /// A folder.
    Folder(Folder),
    /// Anything else, opened as a name only (`O_PATH`).
    Other(File),
}

impl Folder {
    /// The folder at a path that none but trusted users can change.
    ///
    /// # Errors
    /// As `open(2)` has them.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = FOLDER | OFlag::O_CLOEXEC;
        Ok(Folder(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    /// What is at `path` below this folder.
    ///
    /// # Errors
    /// As `openat2(2)` has them; [`leads_out`] knows that of a path that leaves the folder.
    pub fn find(&self, path: &Path) -> io::Result<Found> {
        let named = File::from(self.resolve(path, OFlag::O_PATH, ResolveFlag::empty())?);
        let is_dir = named.metadata()?.is_dir();
        Ok(if is_dir { Found::Folder(Folder(named.into())) } else { Found::Other(named) })
    }

    /// The folder at `path` below this one.
    ///
    /// # Errors
    /// As [`Folder::find`]; `NotADirectory` where there is something else.
    pub fn folder(&self, path: &Path) -> io::Result<Folder> {
        Ok(Folder(self.resolve(path, FOLDER, ResolveFlag::empty())?))
    }

    /// The file at `path` below this folder, for reading. Pipes and devices are errors, and nobody waits for them.
    ///
    /// # Errors
    /// As [`Folder::find`].
    pub fn file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(self.resolve(path, flags, ResolveFlag::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other("it is not a file"))
        }
    }

    /// The folder at `path` below this one, which is made where it is missing, with all that lead there: with this mode, and given
    /// to this user and group.
    ///
    /// # Errors
    /// As `mkdirat(2)` has them, and those of [`Folder::find`].
    pub fn make(&self, path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<Folder> {
        let mut at = self.folder(Path::new("."))?;
        let mut done = PathBuf::new();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            done.push(name);
            match self.folder(&done) {
                Ok(there) => at = there,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    at = at.make_one(Path::new(name), mode, owner)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(at)
    }

    fn make_one(&self, name: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<Folder> {
        let made = match mkdirat(&self.0, name, Mode::from_bits_truncate(mode)) {
            Ok(()) => true,
            // By somebody else, since we looked: theirs.
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let folder = self.child(name)?;
        if let (true, Some((uid, gid))) = (made, owner) {
            // Exchanged for another one of ours it could hold what is not to be given away.
            if fstat(&folder.0)?.st_uid != geteuid().as_raw() || !folder.entries()?.is_empty() {
                return Err(io::Error::other("a folder was exchanged while it was made"));
            }
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchownat(&folder.0, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
        }
        Ok(folder)
    }

    /// Names of what is in it.
    ///
    /// # Errors
    /// As `getdents(2)` has them.
    pub fn entries(&self) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStringExt;
        let mut names = Vec::new();
        // A description of its own: the position in it is not shared.
        let again = resolve(self.as_fd(), Path::new("."), OFlag::O_RDONLY, ResolveFlag::empty())?;
        for entry in Dir::from_fd(again)?.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// The entry itself, a link if it is one, by name only (`O_PATH`).
    ///
    /// # Errors
    /// As `openat2(2)` has them.
    pub fn entry(&self, name: &Path) -> io::Result<File> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        Ok(self.resolve(name, flags, ResolveFlag::empty())?.into())
    }

    /// Removes an entry that is no folder; one that is gone is no error.
    ///
    /// # Errors
    /// As `unlinkat(2)` has them.
    pub fn remove_file(&self, name: &Path) -> io::Result<()> {
        match unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes on the disk of all that lies in it, links as themselves; counting ends above `enough`.
    pub fn usage(&self, enough: u64) -> u64 {
        let mut total = 0;
        self.count(&mut total, enough, DEEPEST);
        total
    }

    fn count(&self, total: &mut u64, enough: u64, deeper: usize) {
        use std::os::unix::fs::MetadataExt;
        for name in self.entries().unwrap_or_default() {
            let name = Path::new(&name);
            // Gone meanwhile, or closed by its owner to itself.
            let Ok(meta) = self.entry(name).and_then(|entry| entry.metadata()) else { continue };
            *total += meta.blocks() * 512;
            if *total > enough {
                return;
            }
            if meta.is_dir()
                && deeper > 0
                && let Ok(folder) = self.child(name)
            {
                folder.count(total, enough, deeper - 1);
            }
        }
    }

    /// A folder that is an entry of this one, and no link.
    ///
    /// # Errors
    /// As `openat2(2)` has them.
    pub fn child(&self, name: &Path) -> io::Result<Folder> {
        Ok(Folder(self.resolve(name, FOLDER, ResolveFlag::RESOLVE_NO_SYMLINKS)?))
    }

    /// Lets its owner into it and into all folders below it, so that they can be removed.
    pub fn open_up(&self) {
        self.open_up_to(DEEPEST);
    }

    fn open_up_to(&self, deeper: usize) {
        for name in self.entries().unwrap_or_default() {
            let name = Path::new(&name);
            let Ok(folder) = self.child(name) else { continue };
            // A mode is changed of what can be opened, or by a path; this one names the descriptor.
            let this = format!("/proc/self/fd/{}", folder.0.as_raw_fd());
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            if std::fs::set_permissions(this, mode).is_ok() && deeper > 0 {
                folder.open_up_to(deeper - 1);
            }
        }
    }

    /// The descriptor as a file, as which others take folders.
    pub fn into_file(self) -> File {
        self.0.into()
    }

    fn resolve(&self, path: &Path, flags: OFlag, more: ResolveFlag) -> io::Result<OwnedFd> {
        resolve(self.as_fd(), path, flags, more)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a path could not be opened since it leads out of its folder.
pub fn leads_out(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EXDEV as i32)
}

fn resolve(
    folder: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    more: ResolveFlag,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | more;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    let mut tries = TRIES;
    loop {
        match openat2(folder, path, how) {
            Err(Errno::EAGAIN) if tries > 0 => tries -= 1,
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests;
