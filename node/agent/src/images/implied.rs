//! Folders that a layer has something in without describing them. In the image they are what the layers below say of them, as
//! they would be were each layer unpacked onto those below it; overlayfs shows what the highest layer happens to have.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use coracle_sandbox::FolderAttributes;

/// An unpacked layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) folder: PathBuf,
    /// Folders that it does not describe.
    pub(super) implied: Vec<String>,
}

/// What a layer has at a path.
enum Found {
    /// Nothing: what is below counts.
    Nothing,
    /// Something that hides what is below.
    Other,
    /// A folder; `opaque` if what is below does not count.
    Folder { about: Metadata, opaque: bool },
}

/// The folders that are not as the highest layer has them. `layers` are the lowest first. Blocks.
pub(super) fn attributes(layers: &[Layer]) -> Vec<FolderAttributes> {
    let implied: BTreeSet<&String> = layers.iter().flat_map(|layer| &layer.implied).collect();
    let known = implied.into_iter().filter_map(|path| {
        let mut is_highest = true;
        for layer in layers.iter().rev() {
            match look(&layer.folder, Path::new(path)) {
                Found::Nothing => continue,
                Found::Other => return None,
                Found::Folder { about, .. } if !layer.implied.contains(path) => {
                    let own = FolderAttributes {
                        path: Path::new("/").join(path),
                        user: about.uid(),
                        group: about.gid(),
                        mode: about.mode() & 0o7777,
                    };
                    return (!is_highest).then_some(own);
                }
                Found::Folder { opaque: true, .. } => return None,
                Found::Folder { .. } => is_highest = false,
            }
        }
        None
    });
    known.collect()
}

/// Never follows a link: a layer's may lead anywhere on this machine.
fn look(layer: &Path, path: &Path) -> Found {
    let (mut at, mut opaque, mut about) = (layer.to_owned(), false, None);
    for part in path.components() {
        let Component::Normal(part) = part else { return Found::Other };
        at.push(part);
        match std::fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {
                opaque |= is_opaque(&at);
                about = Some(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !opaque => {
                return Found::Nothing;
            }
            // A whiteout, among others.
            Ok(_) | Err(_) => return Found::Other,
        }
    }
    about.map_or(Found::Other, |about| Found::Folder { about, opaque })
}

/// Whether overlayfs shows nothing of what lower layers have there.
fn is_opaque(folder: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(folder.as_os_str().as_bytes()) else { return false };
    let mut value = [0u8; 1];
    // SAFETY: strings end with NUL, and no more than one byte is written.
    let length = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            c"trusted.overlay.opaque".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    length == 1 && value == *b"y"
}

#[cfg(test)]
mod tests;
