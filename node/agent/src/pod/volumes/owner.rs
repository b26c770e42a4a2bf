//! Who may do what with a Pod's files.
//!
//! **A Wasm Pod's** are its host's, a user of its own, and nobody else's: what the agent made stays the agent's and is only
//! shown.
//!
//! **Containers** run as whatever user they like, so their volumes are as the kubelet makes them: an `emptyDir` is root's and
//! open to all, files of objects have the modes that the Pod asks for, and `fsGroup` is a group that all of a volume belongs
//! to. That nobody else on the machine comes near is decided by the folders above.
//!
//! **In a mixed Pod**, what one kind writes the other is to read and write. The Wasm host is no container's user, and the
//! containers are not its; with the usual umask each would make files that the other cannot write. So the `emptyDir`s of such
//! a Pod have a default ACL that names nobody in particular but stands in for the umask, whoever makes a file: programs that
//! do not ask for less make it open to all. Files of objects that are not for everybody are shown to the host by name.

use std::fs::{Permissions, set_permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::Path;

use coracle_sandbox::beneath::Folder;
use k8s_openapi::api::core::v1::Pod;

use crate::hosts::Folders;

/// User and group to whom a Pod's files belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Those of its Wasm host; none where that is the agent's own.
    host: Option<(u32, u32)>,
    containers: Option<Containers>,
}

/// Of a Pod with containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Containers {
    /// `securityContext.fsGroup`.
    fs_group: Option<u32>,
    /// It has Wasm containers, too.
    wasm: bool,
}

impl Owner {
    /// The agent's user.
    pub const AGENT: Owner = Owner { host: None, containers: None };

    /// Whose the files of that Pod are.
    pub fn of(folders: &Folders, pod: &Pod) -> Owner {
        let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        let fs_group = context.and_then(|c| c.fs_group).and_then(|group| group.try_into().ok());
        let containers = folders.of_containers().then_some(Containers { fs_group, wasm: false });
        Owner { host: folders.owner(), containers }
    }

    /// With Wasm containers beside others; nothing where there are no others.
    #[must_use]
    pub fn with_wasm(mut self) -> Owner {
        if let Some(containers) = &mut self.containers {
            containers.wasm = true;
        }
        self
    }

    /// Whether the Pod has containers.
    pub(super) fn has_containers(self) -> bool {
        self.containers.is_some()
    }

    /// Gives a file or folder to the Wasm host.
    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        match self.host {
            Some((uid, gid)) => lchown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// Hands a folder over that the Pod may write into. What is in it stays as it is.
    pub(super) fn give_volume(self, path: &Path) -> io::Result<()> {
        let Some(containers) = self.containers else { return self.give(path) };
        chown(path, Some(0), Some(containers.fs_group.unwrap_or(0)))?;
        let mode = if containers.fs_group.is_some() { 0o2777 } else { 0o777 };
        set_permissions(path, Permissions::from_mode(mode))?;
        self.share(path)
    }

    /// Has what is made in a volume be for both kinds of containers, if there are both.
    pub(super) fn share(self, path: &Path) -> io::Result<()> {
        if !self.containers.is_some_and(|c| c.wasm) {
            return Ok(());
        }
        set_acl(path, DEFAULT, &Acl { owner: 7, group: 7, others: 7, user: None })
    }

    /// Mode and owner of a folder that `subPath` names and nobody made.
    pub(super) fn of_sub_paths(self) -> (u32, Option<(u32, u32)>) {
        match self.containers {
            Some(containers) => (0o755, Some((0, containers.fs_group.unwrap_or(0)))),
            None => (0o700, self.host),
        }
    }

    /// Lets all of a Pod's containers write into a folder that was made for one.
    pub(super) fn open_up(self, folder: &Folder) -> io::Result<()> {
        match self.containers {
            Some(_) => {
                let number = folder.as_fd().as_raw_fd();
                self.give_volume(Path::new(&format!("/proc/self/fd/{number}")))
            }
            None => Ok(()),
        }
    }

    /// Lets a folder of the agent's be read, and what is in it.
    pub(super) fn show_folder(self, path: &Path) -> io::Result<()> {
        let Some(containers) = self.containers else { return self.show(path, 0o700) };
        lchown(path, None, Some(containers.fs_group.unwrap_or(0)))?;
        set_permissions(path, Permissions::from_mode(0o755))
    }

    /// Lets a file be read. It stays the agent's: where a host could exchange what the agent writes to, it could lead the
    /// agent astray.
    pub(super) fn show(self, path: &Path, mode: u32) -> io::Result<()> {
        if let Some(containers) = self.containers {
            lchown(path, None, Some(containers.fs_group.unwrap_or(0)))?;
            let mode = containers.mode(mode);
            set_permissions(path, Permissions::from_mode(mode))?;
            return match self.host_needs(mode) {
                Some((host, own)) => {
                    let (owner, group, others) = (mode >> 6 & 7, mode >> 3 & 7, mode & 7);
                    set_acl(path, ACCESS, &Acl { owner, group, others, user: Some((host, own)) })
                }
                None => Ok(()),
            };
        }
        // Whoever else is on this machine has no part in it: the owner's bits are all that count.
        if let Some((_, gid)) = self.host {
            lchown(path, None, Some(gid))?;
        }
        set_permissions(path, Permissions::from_mode(self.shown(mode)))
    }

    /// The mode that a file has once it is shown.
    pub(super) fn shown(self, mode: u32) -> u32 {
        let Some(containers) = self.containers else {
            let own = mode & 0o700;
            return if self.host.is_some() { own | (own >> 3 & 0o050) } else { own };
        };
        let mode = containers.mode(mode);
        // With an ACL, the group's bits tell what anybody named in it may do at most.
        mode | self.host_needs(mode).map_or(0, |(_, own)| own << 3)
    }

    /// The Wasm host's user, and what it is to be allowed, where what all others may do is not enough.
    fn host_needs(self, mode: u32) -> Option<(u32, u32)> {
        let own = mode >> 6 & 5;
        let wasm = self.containers.is_some_and(|c| c.wasm);
        self.host.map(|(uid, _)| (uid, own)).filter(|_| wasm && mode & own != own)
    }
}

impl Containers {
    /// As the kubelet sets it with an `fsGroup`.
    fn mode(self, mode: u32) -> u32 {
        let mode = mode & 0o777;
        if self.fs_group.is_some() { mode | 0o440 } else { mode }
    }
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Who may do what: bits of `rwx`.
struct Acl {
    owner: u32,
    group: u32,
    others: u32,
    /// Somebody by number.
    user: Option<(u32, u32)>,
}

impl Acl {
    /// As the kernel has it in extended attributes (`posix_acl_xattr.h`).
    fn bytes(&self) -> Vec<u8> {
        const NOBODY: u32 = u32::MAX;
        let mut entries = vec![(0x01_u16, self.owner, NOBODY)];
        entries.extend(self.user.map(|(uid, may)| (0x02, may, uid)));
        entries.push((0x04, self.group, NOBODY));
        entries.extend(self.user.map(|(_, may)| (0x10, self.group | may, NOBODY)));
        entries.push((0x20, self.others, NOBODY));
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, may, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend((may as u16).to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }
}

fn set_acl(path: &Path, which: &str, acl: &Acl) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let (name, value) = (std::ffi::CString::new(which)?, acl.bytes());
    // SAFETY: all three are valid for the call, and the length is the value's.
    let done = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
