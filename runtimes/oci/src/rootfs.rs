//! A container's root file system: its image's layers under a folder for what it writes.
//!
//! It is mounted in a mount namespace of the launcher's own, from which the container's is copied; so it is gone with the
//! container's last process, and nobody has to unmount it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use coracle_sandbox::{FolderAttributes, Problem, ProblemCode};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};

use crate::tree;
use crate::users::Users;

/// As many as the kernel stacks.
const MOST_LAYERS: usize = 500;

/// Users of the Pod's own, and a folder where mounts can be put that show files to them.
pub(crate) type Shown<'a> = Option<(&'a Users, &'a Path)>;

/// Mounts `layers` (lowest first) and what is written into `upper` at `target`, to be done as the Pod's root.
pub(crate) fn mount_overlay(
    layers: &[PathBuf],
    upper: &Path,
    target: &Path,
    shown: Shown<'_>,
) -> Result<(), Problem> {
    let invalid = |message: String| Problem::new(ProblemCode::InvalidSpec, message);
    if layers.is_empty() || layers.len() > MOST_LAYERS {
        return Err(invalid(format!(
            "oci.layers: {} layers; 1 to {MOST_LAYERS} are possible",
            layers.len()
        )));
    }
    let failed = |what: &str, path: &Path| {
        let message = format!("cannot {what} {}", path.display());
        move |error: io::Error| {
            let code = match error.kind() {
                io::ErrorKind::NotFound => ProblemCode::ImageNotFound,
                _ => ProblemCode::Internal,
            };
            Problem::new(code, format!("{message}: {error}"))
        }
    };
    let open_folder = |path: &Path| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(path, flags, Mode::empty()).map_err(|e| failed("open the folder", path)(e.into()))
    };
    // Overlayfs shows owners as the mounts do that it is made of, which have to be somewhere.
    let show = |folder: OwnedFd, path: &Path, name: &str| {
        let Some((users, mounts)) = shown else { return Ok(folder) };
        let copy = users.show(&folder, path)?;
        let place = mounts.join(name);
        std::fs::create_dir_all(&place).map_err(failed("make", &place))?;
        tree::put(&copy, &place).map_err(failed("mount", path))?;
        Ok(copy)
    };
    let mut lower = Vec::with_capacity(layers.len());
    // The kernel wants the highest first.
    for (number, layer) in layers.iter().enumerate().rev() {
        lower.push(show(open_folder(layer)?, layer, &format!("layer-{number}"))?);
    }
    let names = ["upper", "work"];
    for name in names {
        let path = upper.join(name);
        // What a start that failed left there is not this one's, and the kernel refuses a second use.
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("empty", &path)(error));
            }
            _ => {}
        }
        std::fs::create_dir_all(&path).map_err(failed("make", &path))?;
        // Nobody's but root's on the disk, whoever this process is for the moment.
        std::os::unix::fs::chown(&path, Some(0), Some(0)).map_err(failed("own", &path))?;
    }
    // Both on one mount, as the kernel wants it.
    let above = show(open_folder(upper)?, upper, "written")?;
    let mut own = Vec::new();
    for name in names {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(&above, name, flags, Mode::empty());
        own.push(opened.map_err(|e| failed("open the folder", &upper.join(name))(e.into()))?);
    }
    let options = Options { lower: &lower, upper: own[0].as_fd(), work: own[1].as_fd() };
    options.mount(target).map_err(failed("mount the image at", target))
}

/// Folders by descriptor: paths may be long, many, and have commas and colons in them.
struct Options<'a> {
    lower: &'a [OwnedFd],
    upper: BorrowedFd<'a>,
    work: BorrowedFd<'a>,
}

impl Options<'_> {
    fn mount(&self, target: &Path) -> io::Result<()> {
        // What a container wrote is of no use after a crash of the machine, so it need not be flushed when it ends.
        match self.mount_by_parts(target, true) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            done => return done,
        }
        self.mount_at_once(target)
    }

    /// Since Linux 6.8, layers are given one by one, and there is no limit on their paths together.
    fn mount_by_parts(&self, target: &Path, volatile: bool) -> io::Result<()> {
        // SAFETY: plain calls; strings end with NUL and live until they return, descriptors that come are owned.
        let context = unsafe {
            let fd = libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), 1 as libc::c_uint);
            owned(fd)?
        };
        const SET_FLAG: libc::c_uint = 0;
        const SET_STRING: libc::c_uint = 1;
        const CREATE: libc::c_uint = 6;
        let configure = |command: libc::c_uint, key: Option<&CStr>, value: Option<&CStr>| {
            let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
            // SAFETY: as above.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_fsconfig,
                    context.as_raw_fd(),
                    command,
                    pointer(key),
                    pointer(value),
                    0,
                )
            };
            if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        let path = |fd: BorrowedFd<'_>| CString::new(by_number(fd)).unwrap_or_default();
        for layer in self.lower {
            configure(SET_STRING, Some(c"lowerdir+"), Some(&path(layer.as_fd())))?;
        }
        configure(SET_STRING, Some(c"upperdir"), Some(&path(self.upper)))?;
        configure(SET_STRING, Some(c"workdir"), Some(&path(self.work)))?;
        configure(SET_STRING, Some(c"index"), Some(c"off"))?;
        if volatile {
            configure(SET_FLAG, Some(c"volatile"), None)?;
        }
        configure(CREATE, None, None)?;
        let target = CString::new(target.as_os_str().as_bytes())?;
        // SAFETY: as above.
        unsafe {
            let mounted =
                libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1 as libc::c_uint, 0);
            let mounted = owned(mounted)?;
            const FROM_EMPTY: libc::c_uint = 4;
            let done = libc::syscall(
                libc::SYS_move_mount,
                mounted.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                FROM_EMPTY,
            );
            if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
    }

    /// On older kernels all paths share a page, which short ones never fill.
    fn mount_at_once(&self, target: &Path) -> io::Result<()> {
        let lower: Vec<String> = self.lower.iter().map(|fd| by_number(fd.as_fd())).collect();
        let data = format!(
            "lowerdir={},upperdir={},workdir={},index=off",
            lower.join(":"),
            by_number(self.upper),
            by_number(self.work)
        );
        let overlay = Some("overlay");
        Ok(mount(overlay, target, overlay, MsFlags::empty(), Some(data.as_str()))?)
    }
}

fn by_number(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// # Safety
/// The number is that of a fresh descriptor, or negative.
unsafe fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A root file system, in which every path stays.
pub(crate) struct Root(OwnedFd);

impl Root {
    /// The one that is mounted there.
    pub(crate) fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Root(open(path, flags, Mode::empty())?))
    }

    fn at(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let inside = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(inside);
        Ok(openat2(&self.0, path, how)?)
    }

    /// A folder, by name only.
    pub(crate) fn open_folder(&self, path: &Path) -> io::Result<File> {
        Ok(File::from(self.at(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?))
    }

    /// Makes a folder what the image says of it.
    pub(crate) fn describe(
        &self,
        folder: &FolderAttributes,
        users: Option<&Users>,
    ) -> io::Result<()> {
        let FolderAttributes { path, user, group, mode } = folder;
        let fd = self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let [user, group] =
            [*user, *group].map(|id| users.map_or(id, |users| users.on_machine(id)));
        nix::unistd::fchown(&fd, Some(user.into()), Some(group.into()))?;
        // Afterwards: a change of the owner takes bits away.
        Ok(nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(*mode))?)
    }

    /// An ordinary file, for reading.
    pub(crate) fn open_file(&self, path: &Path) -> io::Result<File> {
        let file = File::from(self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not an ordinary file"));
        }
        Ok(file)
    }

    /// Sees that these are real folders, as what is mounted there must not end up elsewhere; missing ones are made.
    pub(crate) fn require_folders(&self, names: &[&str]) -> Result<(), Problem> {
        for name in names {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            let is_folder = match self.at(Path::new(name), flags) {
                Ok(fd) => File::from(fd).metadata().is_ok_and(|m| m.is_dir()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let mode = Mode::from_bits_truncate(0o755);
                    mkdirat(&self.0, *name, mode).is_ok()
                }
                Err(_) => false,
            };
            if !is_folder {
                let message = format!(
                    "the image's /{name} is not a folder, so nothing can safely be mounted there; rebuild the image with one"
                );
                return Err(Problem::new(ProblemCode::InvalidSpec, message));
            }
        }
        Ok(())
    }

    /// Makes a folder and those above it, as root. What is in the way is found out when the container starts.
    pub(crate) fn make_folders(&self, path: &Path) {
        let mut made = PathBuf::new();
        for part in path.components() {
            let Component::Normal(part) = part else { continue };
            let parent = self.at(&made.join("."), OFlag::O_PATH | OFlag::O_DIRECTORY);
            made.push(part);
            let Ok(parent) = parent else { return };
            let _ = mkdirat(parent, part, Mode::from_bits_truncate(0o755));
        }
    }
}
