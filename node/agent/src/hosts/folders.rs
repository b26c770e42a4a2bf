//! Where the Pods of one host have their logs and volumes, and whose these are.
//!
//! Hosts of different groups share no folder, so that what a host may reach is said once, when it starts. As root each
//! host has a user of its own, to whom these belong. The folder that all its Pods' volumes lie in stays root's.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::logs;

/// The folders of one group of Pods.
#[derive(Debug, Clone)]
pub struct Folders {
    /// Logs, a folder a Pod.
    pub logs: PathBuf,
    /// Volumes, a folder a Pod.
    pub volumes: PathBuf,
    /// Number of the host's user and of its group, if it has its own.
    pub(super) user: Option<u32>,
    /// A Pod's that has containers.
    containers: bool,
}

impl Folders {
    /// Those of the group whose things lie in `base`.
    pub(super) fn new(base: &Path, user: Option<u32>, containers: bool) -> Self {
        Self { logs: base.join("logs"), volumes: base.join("volumes"), user, containers }
    }

    /// Makes them, or sees that they are the host's.
    pub(super) fn make(&self) -> io::Result<()> {
        // Where root writes beside the host, the host must not exchange folders.
        let of_logs = if self.containers { Some(0) } else { self.user };
        closed(&self.logs, self.user.and(of_logs), self.user)?;
        closed(&self.volumes, self.user.map(|_| 0), self.user)?;
        if self.user.is_some() {
            fs::set_permissions(&self.volumes, Permissions::from_mode(0o750))?;
            if self.containers {
                fs::set_permissions(&self.logs, Permissions::from_mode(0o750))?;
            }
        }
        Ok(())
    }

    /// Folder of a Pod's logs.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        logs::pod_dir(&self.logs, namespace, name, uid)
    }

    /// Folder of a Pod's volumes.
    pub fn pod_volumes(&self, uid: &str) -> PathBuf {
        self.volumes.join(uid)
    }

    /// Whether these are of a Pod that has containers.
    pub fn of_containers(&self) -> bool {
        self.containers
    }

    /// Makes a folder in which the host writes, where those above are root's.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        closed(path, self.user, self.user)
    }

    /// Where what an attempt at a container writes into its root file system is kept.
    pub fn root(&self, container: &str, attempt: u32) -> PathBuf {
        self.roots(container).join(attempt.to_string())
    }

    /// Folder of all attempts at a container.
    pub fn roots(&self, container: &str) -> PathBuf {
        self.volumes.with_file_name("roots").join(container)
    }

    /// UIDs of the Pods that have something in them.
    pub(super) fn pods(&self) -> Vec<String> {
        let names = |folder: &Path| {
            let files = fs::read_dir(folder).into_iter().flatten().flatten();
            files.filter_map(|file| file.file_name().into_string().ok()).collect::<Vec<_>>()
        };
        // NAMESPACE_NAME_UID, none of which has an underscore.
        let of_logs = names(&self.logs).into_iter().filter_map(|name| {
            let (_, uid) = name.rsplit_once('_')?;
            Some(uid.to_owned())
        });
        of_logs.chain(names(&self.volumes)).collect()
    }

    /// Removes the logs of a Pod of which nothing but the UID is known.
    pub fn remove_logs(&self, uid: &str) -> io::Result<()> {
        let ending = format!("_{uid}");
        for entry in fs::read_dir(&self.logs)?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.ends_with(&ending)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// User and group of the host, if they are its own: what its Pods write into has to be theirs.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.user.map(|number| (number, number))
    }
}

/// A folder that others cannot enter.
pub(crate) fn closed(path: &Path, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    if user.is_some() { chown(path, user, group) } else { Ok(()) }
}
