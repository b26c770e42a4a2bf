//! The folder that a layer is unpacked into, written through one descriptor.
//!
//! A layer is a stranger's list of names. No name is ever handed to the system as a whole: its folder is walked from the
//! root's descriptor by `openat2`, which neither leaves that root nor follows a link (`RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS`, `RESOLVE_NO_MAGICLINKS`); links are read and followed here, as if the root were the whole world,
//! so that the true path and its depth are known. The last part is made with `O_EXCL` and its like, which follow nothing
//! either; what is in the way goes first.
//!
//! Whiteouts become what overlayfs takes them for: a character device 0:0, or `trusted.overlay.opaque` on the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstatat, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat,
};

use super::archive::{Entry, Kind};

/// Deepest path.
pub(super) const MAX_DEPTH: usize = 255;
/// Longest name: the kernel's.
const MAX_NAME: usize = 255;
/// Most links that are followed, as in Linux.
const MAX_LINKS: usize = 40;
/// What marks a folder that hides those below it.
const OPAQUE: &CStr = c"trusted.overlay.opaque";
/// How whiteouts' names begin.
const WHITEOUT: &[u8] = b".wh.";

/// Why an entry was not made.
#[derive(Debug)]
pub(super) enum Refused {
    /// The layer's fault.
    Entry(String),
    /// The system's, in this step.
    System(&'static str, Errno),
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Entry(why.into()))
}

/// A step that the system refused.
fn step<T>(what: &'static str) -> impl FnOnce(Errno) -> Result<T, Refused> {
    move |errno| Err(Refused::System(what, errno))
}

/// The folder of a layer.
pub(super) struct Tree {
    root: OwnedFd,
    /// When folders were last changed, set at the end: what is made in them changes it.
    modified: BTreeMap<Vec<u8>, (i64, i64)>,
    /// Folders that the layer has something in and does not describe.
    implied: BTreeSet<Vec<u8>>,
}

/// A folder within, and its true path.
struct Folder {
    fd: OwnedFd,
    path: Vec<u8>,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, modified: BTreeMap::new(), implied: BTreeSet::new() }
    }

    /// Makes an entry. For a file, the descriptor that its content is to be written to.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<Option<OwnedFd>, Refused> {
        let parts = parts(&entry.path)?;
        let Some((name, folder)) = parts.split_last() else {
            if entry.kind != Kind::Folder {
                return refuse("is the root, and no folder");
            }
            return self.describe(Vec::new(), entry).map(|()| None);
        };
        let parent = self.folder(folder, true)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&parent, hidden).map(|()| None);
        }
        let path = join(&parent.path, name);
        let name = c_string(name)?;
        let there = look(&parent, &name)?;
        // What this layer said was not there before is there now; a folder must not show what lies below.
        let hides = there.as_ref().is_some_and(is_whiteout);
        if entry.kind == Kind::Folder {
            match there.map(|there| file_type(&there)) {
                Some(SFlag::S_IFDIR) => {}
                Some(_) => {
                    unlinkat(&parent.fd, &*name, UnlinkatFlags::NoRemoveDir)
                        .or_else(step("replace"))?;
                    make_folder(&parent, &name)?;
                }
                None => make_folder(&parent, &name)?,
            }
            self.describe(path.clone(), entry)?;
            if hides {
                self.make_opaque(&self.open(&path)?)?;
            }
            return Ok(None);
        }
        if there.is_some() {
            self.remove(&parent, &name, &path)?;
        }
        match entry.kind {
            Kind::File => self.file(&parent, &name).map(Some),
            Kind::HardLink => self.link(&parent, &name, &entry.link).map(|()| None),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return refuse("is a symbolic link to nothing");
                }
                let link = c_string(&entry.link)?;
                symlinkat(&*link, &parent.fd, &*name).or_else(step("make the link"))?;
                own(&parent, &name, entry)?;
                Ok(None)
            }
            Kind::CharDevice => self.node(&parent, &name, SFlag::S_IFCHR, entry).map(|()| None),
            Kind::BlockDevice => self.node(&parent, &name, SFlag::S_IFBLK, entry).map(|()| None),
            Kind::Fifo => self.node(&parent, &name, SFlag::S_IFIFO, entry).map(|()| None),
            Kind::Folder => Ok(None),
        }
    }

    /// Gives a file, whose content is there, what else its entry says.
    pub(super) fn finish(&self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Refused> {
        describe(file, entry)?;
        set_time(file, entry.modified)
    }

    /// Sets the times of folders. Folders that the layer has something in and does not describe.
    pub(super) fn end(self) -> Result<Vec<Vec<u8>>, Refused> {
        for (path, modified) in &self.modified {
            match self.open(path) {
                Ok(folder) => set_time(readable(&folder)?.as_fd(), *modified)?,
                // Replaced by something else since.
                Err(Refused::System(_, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.implied.into_iter().collect())
    }

    fn file(&self, parent: &Folder, name: &CStr) -> Result<OwnedFd, Refused> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        openat(&parent.fd, name, flags | OFlag::O_CLOEXEC, mode).or_else(step("make the file"))
    }

    fn link(&mut self, parent: &Folder, name: &CStr, to: &[u8]) -> Result<(), Refused> {
        let shown = String::from_utf8_lossy(to).into_owned();
        let to = parts(to)?;
        let Some((last, folder)) = to.split_last() else {
            return refuse("is a hard link to the root");
        };
        let missing = || {
            Refused::Entry(format!("is a hard link to \"{shown}\", which this layer does not have"))
        };
        let folder = match self.folder(folder, false) {
            Err(Refused::System(_, Errno::ENOENT)) => return Err(missing()),
            found => found?,
        };
        let last = c_string(last)?;
        match linkat(&folder.fd, &*last, &parent.fd, name, LinkatFlags::empty()) {
            Err(Errno::ENOENT) => Err(missing()),
            Err(Errno::EPERM) => {
                refuse(format!("is a hard link to \"{shown}\", which is a folder"))
            }
            Err(Errno::EMLINK) => {
                refuse(format!("is a hard link to \"{shown}\", which has too many"))
            }
            done => done.or_else(step("make the hard link")),
        }
    }

    fn node(
        &self,
        parent: &Folder,
        name: &CStr,
        kind: SFlag,
        entry: &Entry,
    ) -> Result<(), Refused> {
        let (major, minor) = entry.device;
        let device = nix::sys::stat::makedev(major.into(), minor.into());
        let mode = Mode::from_bits_truncate(entry.mode);
        mknodat(&parent.fd, name, kind, mode, device).or_else(step("make the device"))?;
        own(parent, name, entry)?;
        // Made just now, so that there is no link to follow; the umask may have taken bits away.
        nix::sys::stat::fchmodat(
            &parent.fd,
            name,
            mode,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .or_else(step("set the mode"))
    }

    /// Marks as gone what lower layers have; what this layer itself has stays.
    fn whiteout(&mut self, parent: &Folder, hidden: &[u8]) -> Result<(), Refused> {
        if hidden == b".wh..opq" {
            return self.make_opaque(parent);
        }
        // Left behind by aufs.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return refuse("is a whiteout of no name");
        }
        let name = c_string(hidden)?;
        match look(parent, &name)? {
            None => mknodat(&parent.fd, &*name, SFlag::S_IFCHR, Mode::empty(), 0)
                .or_else(step("make the whiteout")),
            Some(there) if file_type(&there) == SFlag::S_IFDIR => {
                self.make_opaque(&self.open(&join(&parent.path, hidden))?)
            }
            // Hides what lies below as it is.
            Some(_) => Ok(()),
        }
    }

    fn make_opaque(&self, folder: &Folder) -> Result<(), Refused> {
        set_xattr(readable(folder)?.as_fd(), OPAQUE, b"y").or_else(step("mark the folder opaque"))
    }

    /// Gives a folder what its entry says.
    fn describe(&mut self, path: Vec<u8>, entry: &Entry) -> Result<(), Refused> {
        describe(readable(&self.open(&path)?)?.as_fd(), entry)?;
        self.implied.remove(&path);
        self.modified.insert(path, entry.modified);
        Ok(())
    }

    /// Opens a folder by its true path.
    fn open(&self, path: &[u8]) -> Result<Folder, Refused> {
        let name = c_string(if path.is_empty() { b"." } else { path })?;
        let fd = open_beneath(self.root.as_fd(), &name).or_else(step("open the folder"))?;
        Ok(Folder { fd, path: path.to_vec() })
    }

    /// Opens the folder of these names, links followed within the root; what is missing is made.
    fn folder(&mut self, names: &[&[u8]], make: bool) -> Result<Folder, Refused> {
        // Nearly always there is no link in it.
        let whole = names.join(&b'/');
        if whole.len() < super::archive::MAX_PATH
            && let Ok(found) = self.open(&whole)
        {
            return Ok(found);
        }
        let mut todo: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let mut at = self.open(b"")?;
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    let up = at.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
                    at = self.open(&at.path[..up])?;
                    continue;
                }
                _ => {}
            }
            if name.len() > MAX_NAME {
                return refuse(format!(
                    "lies in a folder whose name has more than {MAX_NAME} bytes"
                ));
            }
            let path = join(&at.path, &name);
            if path.split(|b| *b == b'/').count() > MAX_DEPTH {
                return refuse(format!("lies in a folder that is deeper than {MAX_DEPTH}"));
            }
            let c_name = c_string(&name)?;
            let there = look(&at, &c_name)?;
            match there.as_ref().map(file_type) {
                Some(SFlag::S_IFDIR) => {}
                Some(SFlag::S_IFLNK) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return refuse(format!("lies behind more than {MAX_LINKS} symbolic links"));
                    }
                    let to = readlinkat(&at.fd, &*c_name).or_else(step("read the link"))?;
                    let to = std::os::unix::ffi::OsStringExt::into_vec(to);
                    if to.first() == Some(&b'/') {
                        at = self.open(b"")?;
                    }
                    todo.extend(to.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                    continue;
                }
                None if !make => return Err(Refused::System("open the folder", Errno::ENOENT)),
                Some(_) if there.as_ref().is_some_and(is_whiteout) && make => {
                    unlinkat(&at.fd, &*c_name, UnlinkatFlags::NoRemoveDir)
                        .or_else(step("replace"))?;
                    make_folder(&at, &c_name)?;
                    self.make_opaque(&self.open(&path)?)?;
                    self.implied.insert(path.clone());
                }
                Some(_) => {
                    let shown = String::from_utf8_lossy(&path).into_owned();
                    return refuse(format!("lies below \"{shown}\", which is no folder"));
                }
                None => {
                    make_folder(&at, &c_name)?;
                    self.implied.insert(path.clone());
                }
            }
            let fd = open_beneath(at.fd.as_fd(), &c_name).or_else(step("open the folder"))?;
            at = Folder { fd, path };
        }
        Ok(at)
    }

    /// Removes what is in the way, with all that is in it.
    fn remove(&mut self, parent: &Folder, name: &CStr, path: &[u8]) -> Result<(), Refused> {
        match unlinkat(&parent.fd, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) => {}
            done => return done.or_else(step("replace")),
        }
        let below = |known: &Vec<u8>| {
            known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        self.modified.retain(|known, _| !below(known));
        self.implied.retain(|known| !below(known));
        remove_folder(parent.fd.as_fd(), name, 0)
    }
}

fn remove_folder(parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Refused> {
    if depth > MAX_DEPTH {
        return refuse("replaces a folder that is too deep");
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = openat(parent, name, flags, Mode::empty()).or_else(step("replace"))?;
    let listed = folder.try_clone().map_err(|_| Refused::System("replace", Errno::EMFILE))?;
    let mut entries = nix::dir::Dir::from_fd(listed).or_else(step("replace"))?;
    for entry in entries.iter() {
        let entry = entry.or_else(step("replace"))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) => remove_folder(folder.as_fd(), name, depth + 1)?,
            done => done.or_else(step("replace"))?,
        }
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir).or_else(step("replace"))
}

/// The names that a path is made of; empty ones and dots left out, and a leading slash means the layer's own root.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Refused> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<&[u8]> = parts.collect();
    if parts.contains(&&b".."[..]) {
        return refuse(format!("leads out of the image (\"{}\")", String::from_utf8_lossy(path)));
    }
    if parts.len() > MAX_DEPTH {
        return refuse(format!("is deeper than {MAX_DEPTH} folders"));
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return refuse(format!("has a name of more than {MAX_NAME} bytes"));
    }
    Ok(parts)
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn c_string(name: &[u8]) -> Result<CString, Refused> {
    CString::new(name).map_err(|_| Refused::Entry("has a zero byte in its name".to_owned()))
}

/// Opens a folder below another, without following anything.
fn open_beneath(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(folder, name, OpenHow::new().flags(flags).resolve(resolve))
}

/// The same folder, for what a mere path's descriptor cannot do.
fn readable(folder: &Folder) -> Result<OwnedFd, Refused> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(&folder.fd, c".", flags, Mode::empty()).or_else(step("open the folder"))
}

/// What there is of that name; no link followed.
fn look(folder: &Folder, name: &CStr) -> Result<Option<FileStat>, Refused> {
    match fstatat(&folder.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Refused::System("look for it", errno)),
    }
}

fn file_type(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

fn is_whiteout(found: &FileStat) -> bool {
    file_type(found) == SFlag::S_IFCHR && found.st_rdev == 0
}

fn make_folder(parent: &Folder, name: &CStr) -> Result<(), Refused> {
    let mode = Mode::from_bits_truncate(0o755);
    mkdirat(&parent.fd, name, mode).or_else(step("make the folder"))?;
    let folder = Folder {
        fd: open_beneath(parent.fd.as_fd(), name).or_else(step("open the folder"))?,
        path: Vec::new(),
    };
    // Whatever the umask is.
    nix::sys::stat::fchmod(readable(&folder)?, mode).or_else(step("set the mode"))
}

/// Owner and time of what cannot be opened.
fn own(parent: &Folder, name: &CStr, entry: &Entry) -> Result<(), Refused> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchownat(&parent.fd, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        .or_else(step("set the owner"))?;
    let time = time(entry.modified);
    nix::sys::stat::utimensat(&parent.fd, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        .or_else(step("set the time"))
}

/// Owner, mode and attributes of what is open; in this order, since the kernel takes rights away from what changes hands.
fn describe(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Refused> {
    fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
        .or_else(step("set the owner"))?;
    nix::sys::stat::fchmod(file, Mode::from_bits_truncate(entry.mode))
        .or_else(step("set the mode"))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_wanted(name)) {
        match set_xattr(file, &c_string(name)?, value) {
            // File systems differ in what they keep beside rights, and programs do not rely on it.
            Err(Errno::EOPNOTSUPP | Errno::EINVAL) if !name.starts_with(b"security.") => {}
            done => done.or_else(step("set the attribute"))?,
        }
    }
    Ok(())
}

/// Which attributes are taken over: rights of files, access lists, and what users set. Those of overlayfs would let a layer
/// show files of others.
fn is_wanted(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

fn time(modified: (i64, i64)) -> TimeSpec {
    TimeSpec::new(modified.0, modified.1)
}

fn set_time(file: BorrowedFd<'_>, modified: (i64, i64)) -> Result<(), Refused> {
    let time = time(modified);
    nix::sys::stat::futimens(file, &time, &time).or_else(step("set the time"))
}

fn set_xattr(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: both pointers are valid for their lengths during the call.
    let done = unsafe {
        libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(done).map(drop)
}

/// Opens the folder that is to be a layer's.
pub(super) fn open_root(path: &std::path::Path) -> io::Result<OwnedFd> {
    let path = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?;
    // SAFETY: the path is a C string; the descriptor is new and nobody else's.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}
