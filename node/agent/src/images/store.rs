//! Images on this disk, and what is remembered of them.
//!
//! ```text
//! DIR/blobs/sha256/<hex>   content by digest, whole and verified
//! DIR/parts/<hex>          blobs that are still arriving; kept for the next attempt
//! DIR/images/<hex>.json    an image: what it is made of and how it is run, by its digest
//! DIR/names/<hash>.json    what a name meant when it was last pulled
//! DIR/layers               layers of container images, unpacked: see [`layers`]
//! DIR/key                  makes fingerprints of credentials worthless elsewhere
//! ```
//!
//! Everything gets its name by a rename when it is whole, and what names something is written after it and removed before
//! it. So whenever the agent is killed, what is left is an image, or content that nothing names: the next start drops
//! records that are not whole, and the collector removes the rest. All questions are answered from memory.

mod layers;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hex;
use super::manifest::{ImageConfig, Run};
use super::reference::{ImageName, is_sha256};

/// Most credentials that are remembered for one image and place; the oldest go.
const MAX_CREDENTIALS: usize = 100;

/// An image on this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Of the manifest or index that the name stands for: `imageID`.
    pub(super) digest: String,
    /// Bytes of what was fetched for it.
    pub(super) size: u64,
    /// Content that it consists of, by digest.
    pub(super) blobs: Vec<String>,
    /// Wasm files of it that can be run, by their path in the image; an artifact's own has none.
    pub(super) programs: BTreeMap<String, Program>,
    /// How it is run.
    #[serde(default)]
    pub(super) run: Run,
    /// Of an ordinary image: what else can be found in it.
    #[serde(default)]
    pub(super) files: Option<Files>,
    /// Who may use it, by the place from which they name it.
    #[serde(default)]
    pub(super) access: BTreeMap<String, Access>,
}

/// A Wasm file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Program {
    /// Of the file itself.
    pub(super) digest: String,
    /// The layer's.
    pub(super) media_type: String,
}

/// The layers of an ordinary image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Files {
    /// What it runs on.
    pub(super) architecture: String,
    /// What it runs on.
    pub(super) os: String,
    /// What it runs on: of the architecture.
    #[serde(default)]
    pub(super) variant: String,
    /// Whether it says that its entrypoint is Wasm.
    pub(super) compat: bool,
    /// Lowest first.
    pub(super) layers: Vec<FilesLayer>,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FilesLayer {
    /// As fetched.
    pub(super) digest: String,
    /// How it is packed.
    pub(super) media_type: String,
    /// Digest of what it unpacks to.
    pub(super) diff_id: String,
}

impl Files {
    /// As far as it tells what can be run.
    pub(super) fn config(&self) -> ImageConfig {
        ImageConfig {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
            ..ImageConfig::default()
        }
    }
}

/// Who may use an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Access {
    /// It was pulled without credentials, or with the node's own.
    #[serde(default)]
    pub(super) anyone: bool,
    /// Fingerprints of credentials with which a registry gave it.
    #[serde(default)]
    pub(super) credentials: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct NameRecord {
    name: String,
    digest: String,
}

/// The store could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct StoreError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// The node's images; cheap to clone.
#[derive(Clone)]
pub(super) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    /// Tells this run of the agent from others.
    run: uuid::Uuid,
    key: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    images: HashMap<String, Arc<Stored>>,
    names: HashMap<String, String>,
    used: HashMap<String, SystemTime>,
    leases: HashMap<String, usize>,
    /// Unpacked layers, by diff id.
    layers: HashMap<String, layers::LayerRecord>,
    changes: u64,
}

/// Keeps content from being collected while somebody is at work with it.
pub(super) struct Lease {
    store: Store,
    digests: Vec<String>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for digest in &self.digests {
            if let Some(count) = state.leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(digest);
                }
            }
        }
    }
}

impl Store {
    /// Opens the store in `dir`, which is made if need be.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        for folder in ["blobs/sha256", "parts", "images", "names", "layers"] {
            let path = dir.join(folder);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| StoreError { path, source })?;
        }
        let path = dir.join("key");
        let key = key(&path).map_err(|source| StoreError { path, source })?;
        let run = uuid::Uuid::new_v4();
        let inner = Inner { dir: dir.to_owned(), run, key, state: Mutex::default() };
        let store = Self { inner: Arc::new(inner) };
        let loaded = store.load().and_then(|()| store.load_layers());
        loaded.map_err(|source| StoreError { path: dir.to_owned(), source })?;
        Ok(store)
    }

    fn load(&self) -> io::Result<()> {
        let blobs: HashSet<String> =
            names(&self.inner.dir.join("blobs/sha256"))?.into_iter().collect();
        for file in names(&self.inner.dir.join("parts"))? {
            // Of a process that was killed; blobs that it was fetching go on.
            if !is_hex(&file) {
                fs::remove_file(self.inner.dir.join("parts").join(file))?;
            }
        }
        let mut state = self.state();
        for file in names(&self.inner.dir.join("images"))? {
            let path = self.inner.dir.join("images").join(&file);
            let image = read_json::<Stored>(&path).filter(|image| {
                let whole = |digest: &String| blobs.contains(digest.trim_start_matches("sha256:"));
                format!("{}.json", hex_of(&image.digest)) == file && image.blobs.iter().all(whole)
            });
            let Some(image) = image else {
                tracing::info!(file, "an image that is not whole is forgotten");
                fs::remove_file(&path)?;
                continue;
            };
            let modified = fs::metadata(&path)?.modified()?;
            state.used.insert(image.digest.clone(), modified.min(SystemTime::now()));
            state.images.insert(image.digest.clone(), Arc::new(image));
        }
        for file in names(&self.inner.dir.join("names"))? {
            let path = self.inner.dir.join("names").join(&file);
            match read_json::<NameRecord>(&path) {
                Some(record) if state.images.contains_key(&record.digest) => {
                    state.names.insert(record.name, record.digest);
                }
                _ => fs::remove_file(&path)?,
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its folder.
    pub(super) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Makes fingerprints of credentials.
    pub(super) fn key(&self) -> &[u8] {
        &self.inner.key
    }

    /// Counts changes of what images there are.
    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// The image that a name meant when it was last pulled; by digest, if it was pulled from there under any name.
    pub(super) fn find(&self, name: &ImageName) -> Option<Arc<Stored>> {
        let state = self.state();
        match &name.digest {
            Some(digest) => {
                state.images.get(digest).filter(|i| i.access.contains_key(&name.place())).cloned()
            }
            None => state.images.get(state.names.get(&name.to_string())?).cloned(),
        }
    }

    /// The image of that digest.
    pub(super) fn get(&self, digest: &str) -> Option<Arc<Stored>> {
        self.state().images.get(digest).cloned()
    }

    /// All images, and the names by which they were pulled.
    pub(super) fn list(&self) -> Vec<(Arc<Stored>, Vec<String>)> {
        let state = self.state();
        let mut names: HashMap<&str, Vec<String>> = HashMap::new();
        for (name, digest) in &state.names {
            names.entry(digest).or_default().push(name.clone());
        }
        let images = state.images.values();
        images
            .map(|image| {
                let mut names = names.remove(image.digest.as_str()).unwrap_or_default();
                names.sort();
                (image.clone(), names)
            })
            .collect()
    }

    /// The image was used just now.
    pub(super) fn touch(&self, digest: &str) {
        if let Some(used) = self.state().used.get_mut(digest) {
            *used = SystemTime::now();
        }
    }

    /// When the image was last used.
    pub(super) fn used(&self, digest: &str) -> SystemTime {
        self.state().used.get(digest).copied().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Where the content of a digest is, or will be.
    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.inner.dir.join("blobs/sha256").join(hex_of(digest))
    }

    /// Where it is while it arrives.
    pub(super) fn part(&self, digest: &str) -> PathBuf {
        self.inner.dir.join("parts").join(hex_of(digest))
    }

    /// A file of no name yet.
    pub(super) fn unnamed(&self) -> PathBuf {
        self.inner.dir.join("parts").join(uuid::Uuid::new_v4().to_string())
    }

    /// Keeps `digests` from being collected.
    pub(super) fn lease(&self, digests: Vec<String>) -> Lease {
        let mut state = self.state();
        for digest in &digests {
            *state.leases.entry(digest.clone()).or_default() += 1;
        }
        drop(state);
        Lease { store: self.clone(), digests }
    }

    /// Remembers an image, and that `name` means it. Its content must be there.
    ///
    /// Blocks for a few file operations.
    pub(super) fn keep(&self, image: Stored, name: &ImageName) -> Result<Arc<Stored>, StoreError> {
        let text = name.to_string();
        let image = Arc::new(image);
        {
            // Beside `remove`, which looks and unlinks under the same lock: from here on the content stays.
            let mut state = self.state();
            for blob in &image.blobs {
                let path = self.blob(blob);
                fs::metadata(&path).map_err(|source| StoreError { path, source })?;
            }
            state.images.insert(image.digest.clone(), image.clone());
            state.names.insert(text.clone(), image.digest.clone());
            state.used.insert(image.digest.clone(), SystemTime::now());
            state.changes += 1;
        }
        let path = self.inner.dir.join("images").join(format!("{}.json", hex_of(&image.digest)));
        self.write(&path, &*image)?;
        let record = NameRecord { name: text.clone(), digest: image.digest.clone() };
        self.write(&self.name_path(&text), &record)?;
        Ok(image)
    }

    /// Forgets an image and removes what no other needs: programs' digests, for whoever keeps something by them, and
    /// bytes that were freed.
    ///
    /// Blocks for file operations.
    pub(super) fn remove(&self, digest: &str) -> Result<(Vec<String>, u64), StoreError> {
        let (image, names) = {
            let mut state = self.state();
            let Some(image) = state.images.remove(digest) else { return Ok((Vec::new(), 0)) };
            let names: Vec<String> =
                state.names.iter().filter(|(_, d)| *d == digest).map(|(n, _)| n.clone()).collect();
            for name in &names {
                state.names.remove(name);
            }
            state.used.remove(digest);
            state.changes += 1;
            (image, names)
        };
        for name in names {
            self.unlink(&self.name_path(&name))?;
        }
        self.unlink(&self.inner.dir.join("images").join(format!("{}.json", hex_of(digest))))?;
        let mut freed = 0;
        let mut programs = Vec::new();
        for blob in &image.blobs {
            // Asked one by one: a pull may have begun that needs it.
            let path = self.blob(blob);
            let size = fs::metadata(&path).map_or(0, |m| m.len());
            if self.unlink_unless_needed(&path, blob)? {
                freed += size;
                if image.programs.values().any(|program| program.digest == *blob) {
                    programs.push(blob.clone());
                }
            }
        }
        freed += self.remove_layers(image.diff_ids())?;
        Ok((programs, freed))
    }

    fn unlink_unless_needed(&self, path: &Path, blob: &str) -> Result<bool, StoreError> {
        let state = self.state();
        if state.leases.contains_key(blob)
            || state.images.values().any(|image| image.blobs.iter().any(|b| b == blob))
        {
            return Ok(false);
        }
        self.unlink(path).map(|()| true)
    }

    /// Removes content that nothing names, and what was not fetched to its end, if it is older than `age`; bytes freed.
    ///
    /// Blocks for file operations.
    pub(super) fn sweep(&self, age: Duration) -> Result<u64, StoreError> {
        let needed: HashSet<String> = {
            let state = self.state();
            let blobs = state.images.values().flat_map(|image| &image.blobs);
            blobs.chain(state.leases.keys()).map(|d| hex_of(d).to_owned()).collect()
        };
        let mut freed = 0;
        for folder in ["parts", "blobs/sha256"] {
            let folder = self.inner.dir.join(folder);
            let error = |source| StoreError { path: folder.clone(), source };
            for file in names(&folder).map_err(error)?.into_iter().filter(|file| is_hex(file)) {
                let path = folder.join(&file);
                let Ok(metadata) = fs::metadata(&path) else { continue };
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let old = modified.elapsed().unwrap_or_default() >= age;
                // The table spares most of them the closer look.
                if old
                    && !needed.contains(&file)
                    && self.unlink_unless_needed(&path, &format!("sha256:{file}"))?
                {
                    freed += metadata.len();
                }
            }
        }
        Ok(freed + self.sweep_layers(age)?)
    }

    fn name_path(&self, name: &str) -> PathBuf {
        let hash = hex(&Sha256::digest(name));
        self.inner.dir.join("names").join(format!("{hash}.json"))
    }

    fn unlink(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError { path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), StoreError> {
        let unnamed = self.unnamed();
        let write = || {
            let content = serde_json::to_vec(value)?;
            private().create_new(true).open(&unnamed)?.write_all(&content)?;
            fs::rename(&unnamed, path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&unnamed);
            StoreError { path: path.to_owned(), source }
        })
    }
}

impl Stored {
    /// Whether a Pod that names the image from `place` and brings credentials of these fingerprints may use it.
    pub(super) fn opens_to(&self, place: &str, fingerprints: &[String]) -> bool {
        self.access.get(place).is_some_and(|access| {
            access.anyone || access.credentials.iter().any(|c| fingerprints.contains(c))
        })
    }

    /// Remembers that a registry gave the image to the credential of this fingerprint, or to anyone; whether that is new.
    pub(super) fn grant(&mut self, place: &str, fingerprint: Option<String>) -> bool {
        let access = self.access.entry(place.to_owned()).or_default();
        match fingerprint {
            None => !std::mem::replace(&mut access.anyone, true),
            Some(fingerprint) if access.credentials.contains(&fingerprint) => false,
            Some(fingerprint) => {
                if access.credentials.len() >= MAX_CREDENTIALS {
                    access.credentials.remove(0);
                }
                access.credentials.push(fingerprint);
                true
            }
        }
    }
}

/// Options for a file that only this user may read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn hex_of(digest: &str) -> &str {
    debug_assert!(is_sha256(digest));
    digest.trim_start_matches("sha256:")
}

fn is_hex(file: &str) -> bool {
    file.len() == 64 && file.bytes().all(|b| b.is_ascii_hexdigit())
}

fn key(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Ok(key) if key.len() >= 32 => return Ok(key),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut key = vec![0; 32];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let unnamed = path.with_extension("new");
    private().create(true).truncate(true).open(&unnamed)?.write_all(&key)?;
    fs::rename(&unnamed, path)?;
    Ok(key)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests;
