//! Files that appear, change and go all at once, as the kubelet's AtomicWriter writes them.
//!
//! ```text
//! VOLUME/..2026_11_21_06_12_59.4711/ca.crt     the content
//! VOLUME/..data -> ..2026_11_21_06_12_59.4711  replaced by one rename
//! VOLUME/ca.crt -> ..data/ca.crt               what readers open
//! ```
//!
//! All links are relative and stay inside the volume, so that a guest that sees nothing but the volume can follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use super::Owner;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its mode, as the Pod asks for it.
    pub mode: u32,
}

/// Files by path, relative to the volume.
pub(super) type Payload = BTreeMap<PathBuf, File>;

/// Makes `dir` hold exactly `payload`, for `owner`; false if it already did.
pub(super) fn write(dir: &Path, payload: &Payload, owner: Owner) -> std::io::Result<bool> {
    folder(dir, owner)?;
    let data = dir.join(DATA);
    let old = std::fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload, owner)?
    {
        return Ok(false);
    }
    let stamp = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let fresh = dir.join(&stamp);
    folder(&fresh, owner)?;
    for (path, file) in payload {
        let path = fresh.join(path);
        if let Some(parent) = path.parent().and_then(|p| p.strip_prefix(&fresh).ok()) {
            let mut at = fresh.clone();
            for part in parent.components() {
                at.push(part);
                folder(&at, owner)?;
            }
        }
        let mut options = std::fs::OpenOptions::new();
        let mut out = options.write(true).create_new(true).mode(0o600).open(&path)?;
        out.write_all(&file.bytes)?;
        owner.show(&path, file.mode)?;
    }
    let temporary = dir.join(DATA_NEW);
    let _ = std::fs::remove_file(&temporary);
    symlink(&stamp, &temporary)?;
    std::fs::rename(&temporary, &data)?;

    let top: BTreeSet<&Path> = payload.keys().filter_map(|p| first(p)).collect();
    for name in &top {
        let link = dir.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let hidden = name.as_os_str().as_encoded_bytes().starts_with(b"..");
        if !hidden && !top.contains(name.as_path()) {
            std::fs::remove_file(entry.path())?;
        } else if hidden && name != Path::new(DATA) && name != Path::new(&stamp) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

/// What a file of the volume holds now.
pub(super) fn read(dir: &Path, path: &Path) -> Option<Vec<u8>> {
    std::fs::read(dir.join(DATA).join(path)).ok()
}

/// Whether something was ever written there.
pub(super) fn exists(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir.join(DATA)).is_ok()
}

/// A folder of the agent's that the owner alone may enter besides; may exist.
pub(super) fn folder(path: &Path, owner: Owner) -> std::io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => owner.show_folder(path),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

fn first(path: &Path) -> Option<&Path> {
    path.components().find_map(|c| match c {
        Component::Normal(name) => Some(Path::new(name)),
        _ => None,
    })
}

fn same(dir: &Path, payload: &Payload, owner: Owner) -> std::io::Result<bool> {
    let mut found = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let path = entry.path();
            let Some(file) = path.strip_prefix(dir).ok().and_then(|p| payload.get(p)) else {
                return Ok(false);
            };
            let meta = entry.metadata()?;
            if meta.len() != file.bytes.len() as u64
                || meta.permissions().mode() & 0o777 != owner.shown(file.mode)
                || std::fs::read(&path)? != file.bytes
            {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == payload.len())
}
