//! Volumes as folders on this machine, mounted into a container's view.
//!
//! `emptyDir` is a folder that lives as long as the Pod; `configMap` and `secret` are written out when a container
//! starts. A volume of any other type keeps its containers waiting with a message that says so.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use coracle_sandbox::Mount;
use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, Volume};

use crate::pod::env::Sources;

/// Why a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The type is not offered here.
    #[error(
        "volume \"{0}\": only emptyDir, configMap and secret volumes can be mounted into a Wasm container"
    )]
    Unsupported(String),
    /// What it is made of is missing.
    #[error("volume \"{volume}\": {kind} \"{name}\" not found")]
    Missing {
        /// The volume.
        volume: String,
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The object.
        name: String,
    },
    /// A key is missing.
    #[error("volume \"{volume}\": references non-existent config key: {key}")]
    MissingKey {
        /// The volume.
        volume: String,
        /// The key.
        key: String,
    },
    /// A path leaves the volume.
    #[error("volume \"{volume}\": path \"{path}\" must be relative and without '..'")]
    Path {
        /// The volume.
        volume: String,
        /// The path.
        path: String,
    },
    /// The disk.
    #[error("volume \"{volume}\": {path}: {source}")]
    Disk {
        /// The volume.
        volume: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// ConfigMaps and Secrets that the container's volumes are made of: `(config maps, secrets)`.
pub fn references(pod: &Pod, container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for volume in mounted(pod, container) {
        maps.extend(volume.config_map.as_ref().map(|m| m.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
    }
    (maps, secrets)
}

fn mounted<'a>(pod: &'a Pod, container: &'a Container) -> impl Iterator<Item = &'a Volume> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter(|v| container.volume_mounts.iter().flatten().any(|m| m.name == v.name))
}

/// Writes the container's volumes below `dir` and says what is to be mounted where.
pub fn prepare(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    dir: &Path,
) -> Result<Vec<Mount>, VolumeError> {
    let mut folders = BTreeMap::new();
    for volume in mounted(pod, container) {
        let folder = dir.join(&volume.name);
        let disk = |path: &Path, source| VolumeError::Disk {
            volume: volume.name.clone(),
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(&folder).map_err(|e| disk(&folder, e))?;
        let missing = |kind, name: &str| VolumeError::Missing {
            volume: volume.name.clone(),
            kind,
            name: name.to_owned(),
        };
        let (content, items, read_only) = if volume.empty_dir.is_some() {
            (BTreeMap::new(), None, false)
        } else if let Some(source) = &volume.config_map {
            let content = match sources.config_maps.get(&source.name) {
                Some(map) => {
                    let text = map.data.iter().flatten().map(|(k, v)| (k, v.as_bytes()));
                    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k, v.0.as_slice()));
                    text.chain(binary).collect()
                }
                None if source.optional == Some(true) => BTreeMap::new(),
                None => return Err(missing("configmap", &source.name)),
            };
            (content, source.items.as_ref(), true)
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            let content = match sources.secrets.get(name) {
                Some(secret) => {
                    secret.data.iter().flatten().map(|(k, v)| (k, v.0.as_slice())).collect()
                }
                None if source.optional == Some(true) => BTreeMap::new(),
                None => return Err(missing("secret", name)),
            };
            (content, source.items.as_ref(), true)
        } else {
            return Err(VolumeError::Unsupported(volume.name.clone()));
        };
        for (path, bytes) in files(volume, &content, items)? {
            let path = folder.join(path);
            write(&path, bytes).map_err(|e| disk(&path, e))?;
        }
        folders.insert(volume.name.as_str(), (folder, read_only));
    }
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let Some((folder, read_only)) = folders.get(mount.name.as_str()) else { continue };
        let mut host_path = folder.clone();
        if let Some(sub) = mount.sub_path.as_deref().filter(|s| !s.is_empty()) {
            host_path.push(relative(&mount.name, sub)?);
            if !host_path.exists() {
                std::fs::create_dir_all(&host_path).map_err(|source| VolumeError::Disk {
                    volume: mount.name.clone(),
                    path: host_path.clone(),
                    source,
                })?;
            }
        }
        mounts.push(Mount {
            host_path,
            guest_path: mount.mount_path.clone().into(),
            read_only: *read_only || mount.read_only == Some(true),
        });
    }
    Ok(mounts)
}

/// Path and content of each file: all keys, or those that `items` choose.
fn files<'a>(
    volume: &Volume,
    content: &BTreeMap<&String, &'a [u8]>,
    items: Option<&Vec<KeyToPath>>,
) -> Result<Vec<(PathBuf, &'a [u8])>, VolumeError> {
    match items {
        None => content.iter().map(|(k, v)| Ok((relative(&volume.name, k)?, *v))).collect(),
        Some(items) => items
            .iter()
            .map(|item| match content.get(&item.key) {
                Some(bytes) => Ok((relative(&volume.name, &item.path)?, *bytes)),
                None => Err(VolumeError::MissingKey {
                    volume: volume.name.clone(),
                    key: item.key.clone(),
                }),
            })
            .collect(),
    }
}

fn relative(volume: &str, path: &str) -> Result<PathBuf, VolumeError> {
    let parsed = Path::new(path);
    if parsed.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Ok(parsed.to_owned());
    }
    Err(VolumeError::Path { volume: volume.to_owned(), path: path.to_owned() })
}

/// In place of any older file at once, so that a reader sees one or the other.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?
        .write_all(bytes)?;
    std::fs::rename(&temporary, path)
}
