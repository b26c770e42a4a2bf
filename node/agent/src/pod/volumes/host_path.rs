//! `hostPath`: folders and files of this machine, where whoever runs the node lets Pods have them.

use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod};

use super::error::{SetUpError, disk};
use crate::pod::spec;

/// Which paths of the machine Pods may mount. As in Kubernetes all that the agent's user may, unless something is said.
#[derive(Debug, Clone, Default)]
pub enum HostPaths {
    /// All.
    #[default]
    Any,
    /// What lies in these folders.
    Below(Vec<PathBuf>),
    /// None.
    Denied,
}

impl HostPaths {
    fn check(&self, path: &Path, real: &Path) -> Result<(), SetUpError> {
        let remedy = match self {
            HostPaths::Any => return Ok(()),
            HostPaths::Below(folders) => {
                let below = |f: &PathBuf| real.starts_with(f.canonicalize().as_ref().unwrap_or(f));
                if folders.iter().any(below) {
                    return Ok(());
                }
                let list: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
                format!(
                    "it allows {}; start it with --allow-host-path {} to allow this one too",
                    list.join(", "),
                    path.display()
                )
            }
            HostPaths::Denied => "it was started with --no-host-path".to_owned(),
        };
        Err(SetUpError::HostPathDenied { path: path.to_owned(), remedy })
    }
}

/// Checks a volume's path and makes it where its type says so. The answer has no links in it.
pub(super) fn set_up(
    source: &HostPathVolumeSource,
    allowed: &HostPaths,
) -> Result<PathBuf, SetUpError> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let real = resolve(path).map_err(disk(path))?;
    allowed.check(path, &real)?;
    match kind {
        // Container runtimes make what is missing where nothing is said.
        "DirectoryOrCreate" | "" if !real.exists() => {
            std::fs::create_dir_all(&real).map_err(disk(&real))?;
        }
        "FileOrCreate" if !real.exists() => {
            let mut options = std::fs::OpenOptions::new();
            let made = options.write(true).create_new(true).mode(0o644).open(&real);
            made.map_err(disk(&real))?;
        }
        _ => {}
    }
    let found = std::fs::metadata(&real).map(|m| m.file_type());
    let is = |check: fn(&std::fs::FileType) -> bool| found.as_ref().is_ok_and(check);
    let (fine, wanted) = match kind {
        "Directory" | "DirectoryOrCreate" => (is(std::fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => (is(std::fs::FileType::is_file), "file"),
        "Socket" => (is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "block device"),
        _ => (true, ""),
    };
    if !fine {
        return Err(SetUpError::HostPathType { path: path.to_owned(), wanted });
    }
    Ok(real)
}

/// The path without links; what does not exist yet is taken as it is written.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        match at.canonicalize() {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |p, name| p.join(name))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
                    return Err(e);
                };
                missing.push(name.to_owned());
                at = parent;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Paths of the machine that the Pod's containers mount, and whether only for reading: what a process that runs the Pod
/// has to be allowed besides its own folders.
pub fn host_paths(pod: &Pod) -> Vec<(PathBuf, bool)> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let mut found = Vec::new();
    for volume in volumes {
        let Some(source) = &volume.host_path else { continue };
        let mounts = spec::containers(pod).flat_map(|(_, c)| c.volume_mounts.iter().flatten());
        let mut uses = mounts.filter(|m| m.name == volume.name).peekable();
        if uses.peek().is_some() {
            let read_only = uses.all(|m| m.read_only == Some(true));
            let path = PathBuf::from(&source.path);
            found.push((path.canonicalize().unwrap_or(path), read_only));
        }
    }
    found
}
