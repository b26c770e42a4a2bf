//! Unpacked layers on this disk: a folder each, by diff id, shared by all images that have it.
//!
//! ```text
//! DIR/layers/<hex>          a layer, unpacked
//! DIR/layers/<hex>.json     what is known of it; written after it, removed before it
//! DIR/layers/.new-<run>-…   one that is being unpacked, by this run of the agent
//! DIR/layers/.gone-…        one that is being removed
//! ```
//! Blobs are synced before they are named, since they are verified only once. A layer is thousands of files, and its blob is
//! here: it is synced after it is named, and if the machine goes down before that, it is unpacked anew.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Store, StoreError, Stored, hex_of, is_hex, names, read_json};
use crate::images::unpack::Unpacked;

/// How folders begin that are not layers yet.
const NEW: &str = ".new-";
/// How folders begin that are no layers any more.
const GONE: &str = ".gone-";

/// What is known of an unpacked layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    /// Of what it unpacked to.
    diff_id: String,
    #[serde(flatten)]
    unpacked: Unpacked,
    /// The boot of the machine in which it was unpacked.
    boot: String,
    /// It is on the disk, and not only in the kernel's memory.
    synced: bool,
}

impl Stored {
    /// Diff ids of its layers; none if it is no image of files.
    pub(in crate::images) fn diff_ids(&self) -> impl Iterator<Item = &String> {
        self.files.iter().flat_map(|files| &files.layers).map(|layer| &layer.diff_id)
    }
}

impl Store {
    fn layers_dir(&self) -> PathBuf {
        self.inner.dir.join("layers")
    }

    fn layer_path(&self, diff_id: &str) -> PathBuf {
        self.layers_dir().join(hex_of(diff_id))
    }

    fn layer_record(&self, diff_id: &str) -> PathBuf {
        self.layers_dir().join(format!("{}.json", hex_of(diff_id)))
    }

    pub(super) fn load_layers(&self) -> io::Result<()> {
        let boot = boot();
        let dir = self.layers_dir();
        let files: HashSet<String> = names(&dir)?.into_iter().collect();
        for file in &files {
            let path = dir.join(file);
            if let Some(hex) = file.strip_suffix(".json") {
                let record = read_json::<LayerRecord>(&path).filter(|record| {
                    record.diff_id == format!("sha256:{hex}")
                        && files.contains(hex)
                        && (record.synced || record.boot == boot)
                });
                match record {
                    Some(record) => {
                        drop(self.state().layers.insert(record.diff_id.clone(), record))
                    }
                    None => fs::remove_file(&path)?,
                }
            }
        }
        // Some would take long to remove: that is for `sweep`.
        for file in files.iter().filter(|file| is_hex(file)) {
            if !self.state().layers.contains_key(&format!("sha256:{file}")) {
                self.discard(&dir.join(file))?;
            }
        }
        Ok(())
    }

    /// The folder of an unpacked layer.
    pub(in crate::images) fn layer(&self, diff_id: &str) -> Option<PathBuf> {
        self.state().layers.contains_key(diff_id).then(|| self.layer_path(diff_id))
    }

    /// Folders that an unpacked layer has and does not describe.
    pub(in crate::images) fn implied(&self, diff_id: &str) -> Vec<String> {
        let state = self.state();
        state.layers.get(diff_id).map(|known| known.unpacked.implied.clone()).unwrap_or_default()
    }

    /// An empty folder to unpack a layer into.
    pub(in crate::images) fn new_layer(&self) -> Result<PathBuf, StoreError> {
        let name = format!("{NEW}{}-{}", self.inner.run, uuid::Uuid::new_v4());
        let path = self.layers_dir().join(name);
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(StoreError { path, source }),
        }
    }

    /// Makes the folder `fresh` the layer of this diff id.
    ///
    /// Blocks for a few file operations; [`Store::sync_layer`] is to follow.
    pub(in crate::images) fn keep_layer(
        &self,
        diff_id: &str,
        fresh: &Path,
        unpacked: Unpacked,
    ) -> Result<PathBuf, StoreError> {
        let path = self.layer_path(diff_id);
        fs::rename(fresh, &path).map_err(|source| StoreError { path: path.clone(), source })?;
        let diff_id = diff_id.to_owned();
        let record = LayerRecord { diff_id, unpacked, boot: boot(), synced: false };
        self.write(&self.layer_record(&record.diff_id), &record)?;
        self.state().layers.insert(record.diff_id.clone(), record);
        Ok(path)
    }

    /// Waits until a layer is on the disk, and remembers that.
    pub(in crate::images) fn sync_layer(&self, diff_id: &str) -> Result<(), StoreError> {
        let path = self.layer_path(diff_id);
        let error = |source: io::Error| StoreError { path: path.clone(), source };
        let folder = File::open(&path).map_err(error)?;
        nix::unistd::syncfs(&folder).map_err(|errno| error(errno.into()))?;
        let record = {
            let mut state = self.state();
            let Some(record) = state.layers.get_mut(diff_id) else { return Ok(()) };
            record.synced = true;
            record.clone()
        };
        self.write(&self.layer_record(diff_id), &record)
    }

    /// Removes these layers, but for those that an image has or somebody is at work with; bytes freed.
    pub(super) fn remove_layers<'a>(
        &self,
        diff_ids: impl Iterator<Item = &'a String>,
    ) -> Result<u64, StoreError> {
        let mut freed = 0;
        for diff_id in diff_ids {
            let record = {
                let mut state = self.state();
                if state.needs_layer(diff_id) {
                    continue;
                }
                let Some(record) = state.layers.remove(diff_id) else { continue };
                // Under the lock: whoever unpacks it anew comes after.
                self.unlink(&self.layer_record(diff_id))?;
                let path = self.layer_path(diff_id);
                self.discard(&path).map_err(|source| StoreError { path, source })?;
                record
            };
            freed += record.unpacked.bytes;
        }
        self.remove_discarded()?;
        Ok(freed)
    }

    /// Removes layers that no image has, if they are older than `age`, and what was left behind; bytes freed.
    pub(super) fn sweep_layers(&self, age: Duration) -> Result<u64, StoreError> {
        let unneeded: Vec<String> = {
            let state = self.state();
            let layers = state.layers.keys().filter(|diff_id| !state.needs_layer(diff_id));
            layers.cloned().collect()
        };
        let old = |diff_id: &&String| {
            let modified = fs::metadata(self.layer_record(diff_id)).and_then(|m| m.modified());
            modified.unwrap_or(SystemTime::UNIX_EPOCH).elapsed().unwrap_or_default() >= age
        };
        self.remove_layers(unneeded.iter().filter(old))
    }

    /// Out of the way, to be removed.
    fn discard(&self, path: &Path) -> io::Result<()> {
        let to = self.layers_dir().join(format!("{GONE}{}", uuid::Uuid::new_v4()));
        match fs::rename(path, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes what was discarded, and what earlier runs were unpacking.
    pub(in crate::images) fn remove_discarded(&self) -> Result<(), StoreError> {
        let dir = self.layers_dir();
        let own = format!("{NEW}{}-", self.inner.run);
        let found = names(&dir).map_err(|source| StoreError { path: dir.clone(), source })?;
        for file in found {
            if file.starts_with(GONE) || (file.starts_with(NEW) && !file.starts_with(&own)) {
                remove_all(&dir.join(file))?;
            }
        }
        Ok(())
    }

    /// Removes a folder that a layer was to be unpacked into.
    pub(in crate::images) fn remove_new_layer(&self, path: &Path) -> Result<(), StoreError> {
        remove_all(path)
    }
}

impl super::State {
    fn needs_layer(&self, diff_id: &str) -> bool {
        self.leases.contains_key(diff_id)
            || self.images.values().any(|image| image.diff_ids().any(|id| id == diff_id))
    }
}

fn remove_all(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Tells this boot of the machine from others.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests;
