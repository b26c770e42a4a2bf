//! What is left of a Pod whose shim is gone.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::cgroup::{Group, Mounts};

/// How long processes may take to end that nothing can delay but the kernel.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends all processes in a Pod's cgroup and below it, removes the group, and removes the Pod's folder. The shim must be gone,
/// or it would be in the way. To be called from a process that may block.
///
/// # Errors
/// When some process does not end, or the folder cannot be removed.
pub fn cleanup(folder: &Path, cgroup: &Path) -> io::Result<()> {
    // Nothing above a Pod's own group is ever to be killed.
    if cgroup.components().count() < 3 {
        let message = format!("{} is no Pod's cgroup", cgroup.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if !Group::at(&Mounts::find()?, cgroup).destroy(PATIENCE) {
        return Err(io::Error::other(format!(
            "processes in cgroup {} do not end; they may wait for a disk that is gone",
            cgroup.display()
        )));
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
