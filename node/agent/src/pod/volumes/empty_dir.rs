//! `emptyDir`: a folder that lives as long as its Pod, on disk or in memory, and how full it is.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coracle_api::quantity::Quantity;
use coracle_sandbox::beneath::Folder;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Owner;
use super::atomic::folder;
use super::error::{SetUpError, disk};
use crate::pod::spec;

/// `sizeLimit` in bytes; none where it is zero.
pub(super) fn limit(source: &EmptyDirVolumeSource) -> Option<u64> {
    let limit = source.size_limit.as_ref()?.0.parse::<Quantity>().ok()?;
    u64::try_from(limit.value()).ok().filter(|bytes| *bytes > 0)
}

/// `medium: Memory`.
pub(super) fn in_memory(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref() == Some("Memory")
}

/// Makes the folder; in memory where that is asked for and root may mount. An ordinary user's lies on disk.
pub(super) fn set_up(
    source: &EmptyDirVolumeSource,
    pod: &Pod,
    path: &Path,
    owner: Owner,
    node_memory: u64,
) -> Result<(), SetUpError> {
    // What is there is its owner's since its first day, and nothing of the agent's is ever written into it.
    let is_new = !path.exists();
    if is_new {
        // Also below what is mounted on it: a host that has mounts of its own may not see that.
        folder(path, owner).and_then(|()| owner.give_volume(path)).map_err(disk(path))?;
    }
    if !in_memory(source) || !nix::unistd::geteuid().is_root() || is_mounted(path) {
        return owner.share(path).map_err(disk(path));
    }
    let limits: Option<u64> =
        spec::containers(pod).map(|(_, c)| spec::limits(c).memory_limit).sum();
    let size = [limit(source), limits].into_iter().flatten().min().unwrap_or(node_memory);
    let options = format!("size={size},mode=0700,nr_inodes={}", (size / 4096).clamp(64, 1 << 20));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let flags = if owner.has_containers() { flags } else { flags | MsFlags::MS_NOEXEC };
    match mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str())) {
        Ok(()) => {}
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "emptyDir lies on disk: no memory can be mounted");
        }
    }
    owner.give_volume(path).map_err(disk(path))
}

/// Takes volumes in memory at and below `dir` away, the innermost first.
pub(super) fn unmount_all(dir: &Path) {
    for path in mounts_below(dir) {
        if let Err(error) = umount2(&path, MntFlags::MNT_DETACH) {
            tracing::warn!(%error, path = %path.display(), "volume in memory not unmounted");
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let memory = table.lines().filter(|line| line.split(' ').nth(2) == Some("tmpfs"));
    let points = memory.filter_map(|line| line.split(' ').nth(1)).map(unescape);
    let mut found: Vec<PathBuf> = points.filter(|path| path.starts_with(dir)).collect();
    found.reverse();
    found
}

/// The kernel writes blanks and backslashes of paths in octal.
fn unescape(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, plain);
    }
    out.into()
}

/// Bytes that a folder takes, without following links; counting ends above `enough`.
pub(super) fn usage(dir: &Path, enough: u64) -> u64 {
    Folder::open(dir).map_or(0, |folder| folder.usage(enough))
}

/// Removes a Pod's volumes, also such folders as a guest denied itself.
pub(super) fn remove(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Folder::open(dir)?.open_up();
            std::fs::remove_dir_all(dir)
        }
        other => other,
    }
}
