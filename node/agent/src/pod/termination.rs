//! Termination messages: what a container leaves for people when it ends (`terminationMessagePath`).
//!
//! A command gets a folder of its own, mounted where the path's parent is, unless a volume is mounted there already: then
//! the file is in the volume. A component that answers HTTP gets none: it ends by being stopped, and a mount would cost
//! every request. What a guest wrote is not trusted: files are opened below their folder only, following no link.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coracle_sandbox::Mount;
use k8s_openapi::api::core::v1::Container;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

/// Bytes of a message, from the file's end.
const LONGEST: u64 = 4096;
/// Bytes and lines of the log that stand in for a message.
const LOG: (usize, usize) = (2048, 80);
/// Where the file is if the container does not say.
const DEFAULT: &str = "/dev/termination-log";
/// What the folders of all containers are called in their Pod's folder of volumes; no volume can be called so.
const FOLDER: &str = ".termination";
/// Link to the folder where the file is written, in the folder of an attempt.
const LINK: &str = "folder";
/// Link to the volume that this folder is in, where others can change what leads there.
const VOLUME: &str = "volume";

/// Folder of an attempt below the Pod's folder of volumes.
fn folder(volumes: &Path, container: &str, attempt: u32) -> PathBuf {
    volumes.join(FOLDER).join(container).join(attempt.to_string())
}

/// The file, as the container sees it.
fn path(container: &Container) -> &Path {
    let path = container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    Path::new(path.unwrap_or(DEFAULT))
}

/// The mount that covers a path in the container, and the rest of the path.
fn covering<'a>(mounts: &'a [Mount], path: &'a Path) -> Option<(&'a Mount, &'a Path)> {
    let covering = mounts.iter().filter_map(|m| Some((m, path.strip_prefix(&m.guest_path).ok()?)));
    covering.min_by_key(|(_, rest)| rest.components().count())
}

/// What earlier attempts left: it was read when they ended.
fn forget(volumes: &Path, container: &Container) -> std::io::Result<()> {
    match std::fs::remove_dir_all(volumes.join(FOLDER).join(&container.name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes room for the message of an attempt. The mount, if one is to be added to the container's.
pub fn prepare(
    container: &Container,
    mounts: &[Mount],
    volumes: &Path,
    attempt: u32,
) -> std::io::Result<Option<Mount>> {
    forget(volumes, container)?;
    let folder = folder(volumes, &container.name, attempt);
    let written = folder.join("written");
    let parent = path(container).parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(&folder)?;
    let covered = covering(mounts, parent);
    let mut added = None;
    let mount = match covered {
        Some((mount, _)) => mount,
        None => {
            std::fs::create_dir(&written)?;
            // The host may be another user; who else may come this far is decided by the folders above.
            std::fs::set_permissions(&written, std::fs::Permissions::from_mode(0o777))?;
            let guest_path = parent.to_owned();
            added.insert(Mount { host_path: written, guest_path, ..Mount::default() })
        }
    };
    std::os::unix::fs::symlink(&mount.host_path, folder.join(LINK))?;
    if !mount.volume.as_os_str().is_empty() {
        std::os::unix::fs::symlink(&mount.volume, folder.join(VOLUME))?;
    }
    Ok(added)
}

/// Makes room for the message of an attempt at a container that has files of its own: one file, mounted at the path itself, as
/// the kubelet does it.
pub fn prepare_file(
    container: &Container,
    mounts: &[Mount],
    volumes: &Path,
    attempt: u32,
) -> std::io::Result<Option<Mount>> {
    forget(volumes, container)?;
    let path = path(container);
    let Some(inner) = inner(mounts, path) else { return Ok(None) };
    let folder = folder(volumes, &container.name, attempt);
    let written = folder.join("written");
    let file = written.join(inner);
    std::fs::create_dir_all(file.parent().unwrap_or(&written))?;
    std::fs::File::create(&file)?;
    // Whoever runs in the container may write it; who else may come this far is decided by the folders above.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))?;
    std::os::unix::fs::symlink(&written, folder.join(LINK))?;
    Ok(Some(Mount { host_path: file, guest_path: path.to_owned(), ..Mount::default() }))
}

/// The file's path below what is mounted there.
fn inner(mounts: &[Mount], path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let inner = covering(mounts, parent).map(|(_, rest)| rest.join(name));
    Some(inner.unwrap_or_else(|| name.into()))
}

/// What the attempt left, by `terminationMessagePath`; empty where it left nothing. `mounts` are the container's
/// volumes, as far as their places in the container go.
pub fn message(container: &Container, volumes: &Path, attempt: u32) -> String {
    let mounted: Vec<Mount> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| Mount { guest_path: m.mount_path.clone().into(), ..Mount::default() })
        .collect();
    let Some(inner) = inner(&mounted, path(container)) else { return String::new() };
    let folder = folder(volumes, &container.name, attempt);
    last_bytes(&folder, &inner).unwrap_or_default()
}

fn last_bytes(folder: &Path, inner: &Path) -> std::io::Result<String> {
    let volume = std::fs::read_link(folder.join(VOLUME)).unwrap_or_default();
    let host_path = std::fs::read_link(folder.join(LINK))?;
    let folder = Mount { host_path, volume, ..Mount::default() }.open()?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let mut file = std::fs::File::from(openat2(&folder, inner, how)?);
    let kind = file.metadata()?;
    if !kind.is_file() {
        return Ok(String::new());
    }
    file.seek(SeekFrom::Start(kind.len().saturating_sub(LONGEST)))?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether the end of the log stands in for a message that was not left.
pub fn falls_back_to_log(container: &Container, code: i32) -> bool {
    code != 0 && container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
}

/// How many lines of the log to read.
pub const LOG_LINES: usize = LOG.1;

/// The end of a log as a message.
pub fn from_log(mut text: String) -> String {
    let mut start = text.len().saturating_sub(LOG.0);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.split_off(start)
}

/// The host's word, and the container's.
pub fn joined(host: &str, own: String) -> String {
    match (host.is_empty(), own.is_empty()) {
        (true, _) => own,
        (false, true) => host.to_owned(),
        (false, false) => format!("{host}: {own}"),
    }
}

#[cfg(test)]
mod tests;
