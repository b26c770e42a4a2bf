//! Where a container sees which folder.
//!
//! A preopen is a directory. A mount of a single file (`subPath`, or a `hostPath` that is a file) becomes a directory of
//! the file's parent that holds the file and its likes: as hard links, so that what is written is shared, or as copies
//! where the volume is read-only. Guests look for the preopen with the longest matching prefix, so mounts may nest.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use coracle_sandbox::Mount;
use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::error::MountError;
use super::{Owner, atomic, empty_dir};
use crate::pod::env;

const MOUNTS: &str = ".mounts";

/// A volume that is ready.
#[derive(Debug)]
pub(super) struct Folder {
    /// A folder; for a `hostPath` perhaps a file.
    pub(super) path: PathBuf,
    /// Whoever mounts it may only read.
    pub(super) read_only: bool,
    /// Replaced as a whole when it changes: what is mounted of it by `subPath` stays as it was.
    pub(super) frozen: bool,
}

/// The volumes that a container mounts.
#[derive(Debug)]
pub struct SetUp {
    pub(super) dir: PathBuf,
    pub(super) owner: Owner,
    pub(super) by_name: HashMap<String, Folder>,
    container: String,
    visible: bool,
}

/// A directory in the making that shows single files.
#[derive(Default)]
struct View {
    files: BTreeMap<String, (PathBuf, bool, String)>,
}

impl SetUp {
    pub(super) fn new(dir: PathBuf, container: &str, owner: Owner, visible: bool) -> Self {
        Self { dir, owner, by_name: HashMap::new(), container: container.to_owned(), visible }
    }

    /// What the container sees where; nothing where it imports no files.
    pub fn mounts(
        &self,
        container: &Container,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, MountError> {
        let mut mounts = Vec::new();
        if !self.visible || self.by_name.is_empty() {
            return Ok(mounts);
        }
        let views_dir = self.dir.join(MOUNTS).join(&self.container);
        if views_dir.exists() {
            empty_dir::remove(&views_dir).map_err(|e| at(&views_dir, &e))?;
        }
        let mut views: BTreeMap<PathBuf, View> = BTreeMap::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let Some(folder) = self.by_name.get(&mount.name) else { continue };
            let read_only = folder.read_only || mount.read_only == Some(true);
            let mut source = match sub_path(mount, env)? {
                Some(sub) => self.resolve(folder, mount, &sub)?,
                None => folder.path.clone(),
            };
            let guest = Path::new(&mount.mount_path);
            if source.is_dir() {
                if folder.frozen && source != folder.path {
                    let copy = views_dir.join(format!("copy-{index}"));
                    self.copy(&source, &copy).map_err(|e| at(&source, &e))?;
                    source = copy;
                }
                mounts.push(Mount { host_path: source, guest_path: guest.into(), read_only });
            } else {
                let (Some(parent), Some(name)) = (guest.parent(), guest.file_name()) else {
                    return Err(refused(mount, "a file cannot be mounted there"));
                };
                let read_only = read_only || folder.frozen;
                let name = name.to_string_lossy().into_owned();
                let file = (source, read_only, mount.name.clone());
                views.entry(parent.into()).or_default().files.insert(name, file);
            }
        }
        for (index, (parent, view)) in views.into_iter().enumerate() {
            if let Some(other) = mounts.iter().find(|m| m.guest_path == parent) {
                let names: Vec<_> = view.files.keys().cloned().collect();
                return Err(MountError::Mount(format!(
                    "container \"{}\": {} and {} cannot both be mounted: a Wasm container sees folders, and single files only in a folder where nothing else is mounted; mount {} by a projected volume, or elsewhere",
                    self.container,
                    other.guest_path.display(),
                    parent.join(&names[0]).display(),
                    names.join(", "),
                )));
            }
            let path = views_dir.join(format!("files-{index}"));
            let read_only = self.show(&view, &path)?;
            mounts.push(Mount { host_path: path, guest_path: parent, read_only });
        }
        Ok(mounts)
    }

    /// The file or folder behind a `subPath`; made, as a folder, where it is missing. Links that lead out of the volume
    /// are not followed.
    fn resolve(
        &self,
        folder: &Folder,
        mount: &VolumeMount,
        sub: &Path,
    ) -> Result<PathBuf, MountError> {
        let failed = |why: &str| {
            MountError::Mount(format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {why}",
                mount.name, self.container
            ))
        };
        let root = folder.path.canonicalize().map_err(|e| failed(&e.to_string()))?;
        let mut path = root.clone();
        for part in sub.components() {
            path.push(part);
            match path.canonicalize() {
                Ok(real) if real.starts_with(&root) => path = real,
                Ok(_) => return Err(failed("the path leads out of the volume")),
                // Nothing is made in what is written by others: it is shown as an empty folder.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder.frozen => {
                    let empty = self.dir.join(MOUNTS).join(&self.container).join("empty");
                    self.folders(&empty).map_err(|e| at(&empty, &e))?;
                    return Ok(empty);
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    atomic::folder(&path, self.owner)
                        .and_then(|()| self.owner.give(&path))
                        .map_err(|e| failed(&e.to_string()))?;
                }
                Err(e) => return Err(failed(&e.to_string())),
            }
        }
        Ok(path)
    }

    /// Fills the directory of a view; whether it is only for reading.
    fn show(&self, view: &View, dir: &Path) -> Result<bool, MountError> {
        self.folders(dir).map_err(|e| at(dir, &e))?;
        let all_read_only = view.files.values().all(|(_, read_only, _)| *read_only);
        for (name, (source, read_only, volume)) in &view.files {
            let target = dir.join(name);
            if *read_only {
                std::fs::copy(source, &target).map_err(|e| at(source, &e))?;
                self.owner.give(&target).map_err(|e| at(&target, &e))?;
                continue;
            }
            std::fs::hard_link(source, &target).map_err(|e| {
                MountError::Mount(format!(
                    "volumeMount \"{volume}\": the single file {} cannot be shown to a Wasm container for writing ({e}); mount its folder, or set readOnly: true",
                    source.display()
                ))
            })?;
        }
        Ok(all_read_only)
    }

    fn copy(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.folders(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.copy(&entry.path(), &target)?;
            } else {
                std::fs::copy(entry.path(), &target)?;
                self.owner.give(&target)?;
            }
        }
        Ok(())
    }

    /// A folder below the Pod's, with those that lead there.
    fn folders(&self, path: &Path) -> std::io::Result<()> {
        let mut at = self.dir.clone();
        for part in path.strip_prefix(&self.dir).unwrap_or(Path::new("")).components() {
            at.push(part);
            atomic::folder(&at, self.owner)?;
        }
        Ok(())
    }
}

/// `subPath`, or `subPathExpr` with its variables put in; `None` where the whole volume is meant.
fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<PathBuf>, MountError> {
    let plain = mount.sub_path.as_deref().filter(|s| !s.is_empty());
    let expression = mount.sub_path_expr.as_deref().filter(|s| !s.is_empty());
    let text = match (plain, expression) {
        (Some(plain), _) => plain.to_owned(),
        (None, Some(expression)) => env::expand_all(expression, env)
            .map_err(|name| MountError::Mount(format!("missing value for \"{name}\"")))?,
        (None, None) => return Ok(None),
    };
    let path = Path::new(&text);
    if !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(refused(mount, "subPath must be relative and must not contain '..'"));
    }
    let parts = path.components().filter(|c| matches!(c, Component::Normal(_)));
    Ok(Some(parts.collect()))
}

fn refused(mount: &VolumeMount, why: &str) -> MountError {
    MountError::Mount(format!("volumeMount \"{}\" at {}: {why}", mount.name, mount.mount_path))
}

fn at(path: &Path, error: &std::io::Error) -> MountError {
    MountError::Mount(format!("{}: {error}", path.display()))
}
