//! Running from a copy of the program that nobody can write.
//!
//! A container that is being started can reach the program that starts it as `/proc/PID/exe`, and root in it could
//! overwrite the program on the machine (CVE-2019-5736). A detached, read-only clone of the program's mount cannot be
//! written through, whatever the rights; where there are no such mounts, a sealed copy in memory cannot either.

use std::ffi::{CString, OsStr, c_char};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::statvfs::{FsFlags, fstatvfs};

const PROGRAM: &std::ffi::CStr = c"/proc/self/exe";
const MOUNT_ATTR_RDONLY: u64 = 1;

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Starts this process anew from such a copy, unless it runs from one. Call it first, before anything is opened.
pub(crate) fn ensure() -> anyhow::Result<()> {
    if is_sealed().context("cannot look at this program")? {
        return Ok(());
    }
    let copy = match read_only_mount() {
        Ok(copy) => copy,
        Err(error) => {
            tracing::debug!(%error, "no read-only mount of this program; copying it to memory");
            in_memory()
                .context("cannot make a copy of this program that containers cannot write")?
        }
    };
    Err(execute(&copy)).context("cannot execute the sealed copy of this program")
}

fn is_sealed() -> io::Result<bool> {
    let program = File::open("/proc/self/exe")?;
    let read_only = fstatvfs(&program)?.flags().contains(FsFlags::ST_RDONLY);
    let seals = fcntl(&program, FcntlArg::F_GET_SEALS).unwrap_or(0);
    Ok(read_only || seals & SealFlag::F_SEAL_WRITE.bits() != 0)
}

fn read_only_mount() -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: strings end with NUL, structures are as the calls want them, and the descriptor is fresh.
    unsafe {
        let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, PROGRAM.as_ptr(), flags);
        if tree < 0 {
            return Err(io::Error::last_os_error());
        }
        let tree = OwnedFd::from_raw_fd(tree as i32);
        let attr = MountAttr { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, userns: 0 };
        let done = libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attr,
            size_of::<MountAttr>(),
        );
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(tree) }
    }
}

fn in_memory() -> io::Result<OwnedFd> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut copy = File::from(memfd_create(c"coracle", flags)?);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}

fn execute(copy: &OwnedFd) -> io::Error {
    let string = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let args: Vec<CString> = std::env::args_os().map(|arg| string(&arg)).collect();
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            string(&entry)
        })
        .collect();
    let pointers = |all: &[CString]| {
        let mut all: Vec<*const c_char> = all.iter().map(|s| s.as_ptr()).collect();
        all.push(std::ptr::null());
        all
    };
    let (args, env) = (pointers(&args), pointers(&env));
    // SAFETY: both lists end with a null pointer, and their strings live until the call fails.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            copy.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}
