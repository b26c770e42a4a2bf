//! Where a container sees which folder.
//!
//! A preopen is a directory. A mount of a single file (`subPath`, or a `hostPath` that is a file) becomes a directory of
//! the file's parent that holds the file and its likes: as hard links, so that what is written is shared, or as copies
//! where the volume is read-only. Guests look for the preopen with the longest matching prefix, so mounts may nest.
//!
//! What is in a volume belongs to those who mount it, and they may exchange it at any time. So what a `subPath` names is opened
//! once, [beneath](coracle_sandbox::beneath) the volume, and what is opened is what is used.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Permissions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use coracle_sandbox::beneath::{Folder as Open, Found, leads_out};
use coracle_sandbox::{Mount, Propagation};
use k8s_openapi::api::core::v1::{Container, VolumeMount};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use super::error::MountError;
use super::{Owner, atomic, empty_dir};
use crate::pod::env;

const MOUNTS: &str = ".mounts";
/// Most bytes of a file that is copied to be shown by itself.
const LARGEST_COPY: u64 = 64 << 20;
/// Folders in each other that are copied.
const DEEPEST: usize = 64;

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
    files: BTreeMap<String, Single>,
}

/// A file that is mounted by itself.
struct Single {
    /// Opened by name only.
    file: File,
    path: PathBuf,
    read_only: bool,
    /// Its volume changes as a whole, and the file stays as it was.
    frozen: bool,
    volume: String,
}

/// What a mount shows.
struct Source {
    found: Found,
    path: PathBuf,
    /// Where others can change the path.
    volume: PathBuf,
    /// Is to be copied, since its volume is replaced as a whole.
    part: bool,
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
            let source = match sub_path(mount, env)? {
                Some(sub) => self.resolve(folder, mount, &sub)?,
                None => Source::whole(&folder.path)?,
            };
            let guest = Path::new(&mount.mount_path);
            let Source { found, path, volume, part } = source;
            match found {
                Found::Folder(found) if part => {
                    let copy = views_dir.join(format!("copy-{index}"));
                    self.copy(&found, &copy, DEEPEST).map_err(|e| at(&path, &e))?;
                    let guest_path = guest.into();
                    mounts.push(Mount {
                        host_path: copy,
                        guest_path,
                        read_only,
                        ..Mount::default()
                    });
                }
                Found::Folder(_) => mounts.push(Mount {
                    host_path: path,
                    volume,
                    guest_path: guest.into(),
                    read_only,
                    ..Mount::default()
                }),
                Found::Other(file) => {
                    let (Some(parent), Some(name)) = (guest.parent(), guest.file_name()) else {
                        return Err(refused(mount, "a file cannot be mounted there"));
                    };
                    let name = name.to_string_lossy().into_owned();
                    let frozen = folder.frozen;
                    let volume = mount.name.clone();
                    let read_only = read_only || frozen;
                    let single = Single { file, path, read_only, frozen, volume };
                    views.entry(parent.into()).or_default().files.insert(name, single);
                }
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
            let mount =
                Mount { host_path: path, guest_path: parent, read_only, ..Mount::default() };
            mounts.push(mount);
        }
        Ok(mounts)
    }

    /// What is mounted in a container of its own files: folders and single files alike, as they are.
    pub fn binds(
        &self,
        container: &Container,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, MountError> {
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(folder) = self.by_name.get(&mount.name) else { continue };
            let source = match sub_path(mount, env)? {
                Some(sub) => self.resolve(folder, mount, &sub)?,
                None => Source::whole(&folder.path)?,
            };
            let read_only = folder.read_only || mount.read_only == Some(true);
            let recursive = mount.recursive_read_only.as_deref();
            mounts.push(Mount {
                host_path: source.path,
                volume: source.volume,
                guest_path: mount.mount_path.clone().into(),
                read_only,
                recursive_read_only: read_only
                    && matches!(recursive, Some("Enabled" | "IfPossible")),
                propagation: match mount.mount_propagation.as_deref() {
                    Some("HostToContainer") => Propagation::HostToContainer,
                    Some("Bidirectional") => Propagation::Bidirectional,
                    _ => Propagation::None,
                },
            });
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
    ) -> Result<Source, MountError> {
        let failed = |error: std::io::Error| {
            let why = if leads_out(&error) {
                "the path leads out of the volume".to_owned()
            } else {
                error.to_string()
            };
            MountError::Mount(format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {why}",
                mount.name, self.container
            ))
        };
        let root = Open::open(&folder.path).map_err(failed)?;
        let missing = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
        let found = match root.find(sub) {
            Ok(found) => found,
            // Nothing is made in what is written by others: it is shown as an empty folder.
            Err(e) if missing(&e) && folder.frozen => {
                let empty = self.dir.join(MOUNTS).join(&self.container).join("empty");
                self.folders(&empty).map_err(|e| at(&empty, &e))?;
                return Source::whole(&empty);
            }
            Err(e) if missing(&e) => {
                let (mode, owner) = self.owner.of_sub_paths();
                let made = root.make(sub, mode, owner).map_err(failed)?;
                self.owner.open_up(&made).map_err(failed)?;
                Found::Folder(made)
            }
            Err(e) => return Err(failed(e)),
        };
        let volume = folder.path.clone();
        Ok(Source { found, path: volume.join(sub), volume, part: folder.frozen })
    }

    /// Fills the directory of a view; whether it is only for reading.
    fn show(&self, view: &View, dir: &Path) -> Result<bool, MountError> {
        self.folders(dir).map_err(|e| at(dir, &e))?;
        let all_read_only = view.files.values().all(|single| single.read_only);
        for (name, single) in &view.files {
            let target = dir.join(name);
            let copied = || {
                let copied = self.copy_file(&single.file, &target);
                copied.map_err(|e| at(&single.path, &e))
            };
            // As another link to the file, what is written shows. It would also be writable where its like in this folder are.
            if single.read_only && (single.frozen || !all_read_only) {
                copied()?;
                continue;
            }
            let linked = linkat(
                AT_FDCWD,
                &link(&single.file),
                AT_FDCWD,
                &target,
                AtFlags::AT_SYMLINK_FOLLOW,
            );
            match linked {
                Ok(()) => {}
                Err(_) if single.read_only => copied()?,
                Err(e) => {
                    return Err(MountError::Mount(format!(
                        "volumeMount \"{}\": the single file {} cannot be shown to a Wasm container for writing ({}); mount its folder, or set readOnly: true",
                        single.volume,
                        single.path.display(),
                        std::io::Error::from(e)
                    )));
                }
            }
        }
        Ok(all_read_only)
    }

    fn copy(&self, from: &Open, to: &Path, deeper: usize) -> std::io::Result<()> {
        self.folders(to)?;
        for name in from.entries()? {
            let target = to.join(&name);
            match from.find(Path::new(&name))? {
                Found::Folder(_) if deeper == 0 => {
                    return Err(std::io::Error::other("too many folders in each other"));
                }
                Found::Folder(folder) => self.copy(&folder, &target, deeper - 1)?,
                Found::Other(file) => self.copy_file(&file, &target)?,
            }
        }
        Ok(())
    }

    fn copy_file(&self, from: &File, to: &Path) -> std::io::Result<()> {
        let meta = from.metadata()?;
        if !meta.is_file() {
            return Err(std::io::Error::other("it is neither a file nor a folder"));
        }
        let from = File::open(link(from))?;
        let mut target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
        let copied = std::io::copy(&mut from.take(LARGEST_COPY + 1), &mut target)?;
        if copied > LARGEST_COPY {
            return Err(std::io::Error::other(format!(
                "it is larger than the {LARGEST_COPY} bytes that are copied to be shown by themselves; mount its folder"
            )));
        }
        target.set_permissions(Permissions::from_mode(meta.permissions().mode() & 0o777))?;
        self.owner.give(to)
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

impl Source {
    /// All of a volume, or what the agent made itself.
    fn whole(path: &Path) -> Result<Source, MountError> {
        let opened = || {
            let file = File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
            if file.metadata()?.is_dir() {
                Open::open(path).map(Found::Folder)
            } else {
                Ok(Found::Other(file))
            }
        };
        let found = opened().map_err(|e: std::io::Error| at(path, &e))?;
        Ok(Source { found, path: path.to_owned(), volume: PathBuf::new(), part: false })
    }
}

/// A path of the very file that is open, whatever has its name by now.
fn link(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
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
    let parts: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    Ok(Some(parts).filter(|p| !p.as_os_str().is_empty()))
}

fn refused(mount: &VolumeMount, why: &str) -> MountError {
    MountError::Mount(format!("volumeMount \"{}\" at {}: {why}", mount.name, mount.mount_path))
}

fn at(path: &Path, error: &std::io::Error) -> MountError {
    MountError::Mount(format!("{}: {error}", path.display()))
}
