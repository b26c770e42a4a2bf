//! What is on disk.
//!
//! ```text
//! blobs/sha256/<hex>                    content, of blobs and manifests alike; never changed once named
//! repositories/<name>/_blobs/<hex>      the repository holds this blob (empty)
//! repositories/<name>/_manifests/<hex>  the repository holds this manifest (its media type)
//! repositories/<name>/_tags/<tag>       a tag (the manifest's digest)
//! uploads/                              files that have no name yet
//! ```
//!
//! Every file is written under `uploads/`, made durable, then renamed: what has a name is whole. Content goes before
//! what names it, so that a crash leaves at most content that nothing names. Content goes away with the last
//! repository's mention of it; `changes` orders that against new mentions. No component of a repository's name may start
//! with an underscore, so the folders within cannot be mistaken for repositories.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::error::Refusal;
use super::names::{Digest, Name, Reference, Tag};

/// Longest content that is read whole: a manifest.
pub(super) const MAX_MANIFEST: usize = 4 << 20;
/// Where a repository mentions content.
const HOLDS: [&str; 2] = ["_blobs", "_manifests"];
/// How deep repositories nest: their names have at most 255 characters.
const MAX_DEPTH: usize = 128;

/// The registry's folder.
pub(super) struct Disk {
    root: PathBuf,
    changes: Mutex<()>,
}

/// A manifest as stored.
pub(super) struct Manifest {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) content: Vec<u8>,
}

impl Disk {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let uploads = root.join("uploads");
        match fs::remove_dir_all(&uploads) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for folder in [uploads, root.join("blobs/sha256"), root.join("repositories")] {
            make_folder(&folder)?;
        }
        let disk = Self { root: root.to_owned(), changes: Mutex::new(()) };
        disk.sweep()?;
        Ok(disk)
    }

    /// Removes content that nothing names, which a crash or a full disk may have left.
    fn sweep(&self) -> io::Result<()> {
        let root = self.root.join("repositories");
        let mut held = HashSet::new();
        for name in self.walk()? {
            for kind in HOLDS {
                held.extend(entries(&root.join(&name).join(kind))?);
            }
        }
        let blobs = self.root.join("blobs/sha256");
        for hex in entries(&blobs)?.iter().filter(|hex| !held.contains(*hex)) {
            fs::remove_file(blobs.join(hex))?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn content(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn repository(&self, name: &Name) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }

    /// A path for a file that has no name yet.
    pub(super) fn unnamed(&self) -> PathBuf {
        self.root.join("uploads").join(Uuid::new_v4().to_string())
    }

    /// The file of a blob that `name` holds, and its length.
    pub(super) fn blob(&self, name: &Name, digest: &Digest) -> Result<(File, u64), Refusal> {
        let unknown = || Refusal::no_blob(name, digest);
        let held =
            HOLDS.iter().any(|kind| self.repository(name).join(kind).join(digest.hex()).exists());
        if !held {
            return Err(unknown());
        }
        let open = || {
            let file = File::open(self.content(digest))?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        open().map_err(|error: io::Error| match error.kind() {
            ErrorKind::NotFound => unknown(),
            _ => Refusal::disk("reading a blob", &error),
        })
    }

    /// Names the finished file at `path`, whose content has `digest`, and lets `name` hold it as a blob.
    pub(super) fn keep_blob(
        &self,
        name: &Name,
        digest: &Digest,
        path: &Path,
    ) -> Result<(), Refusal> {
        let keep = || {
            let _changing = self.lock();
            rename(path, &self.content(digest))?;
            self.write(&self.repository(name).join("_blobs").join(digest.hex()), b"")
        };
        keep().map_err(|error| Refusal::disk("storing a blob", &error))
    }

    /// Lets `name` hold a blob that `from` holds.
    pub(super) fn mount(&self, name: &Name, from: &Name, digest: &Digest) -> Result<(), Refusal> {
        let _changing = self.lock();
        self.blob(from, digest)?;
        self.write(&self.repository(name).join("_blobs").join(digest.hex()), b"")
            .map_err(|error| Refusal::disk("mounting a blob", &error))
    }

    /// Ends `name`'s hold of a blob; whether it had one.
    pub(super) fn drop_blob(&self, name: &Name, digest: &Digest) -> Result<bool, Refusal> {
        self.unhold(name, "_blobs", digest)
            .map_err(|error| Refusal::disk("deleting a blob", &error))
    }

    /// The digest that `reference` stands for, if `name` holds such a manifest.
    pub(super) fn resolve(
        &self,
        name: &Name,
        reference: &Reference,
    ) -> Result<Option<Digest>, Refusal> {
        let tag = match reference {
            Reference::Digest(digest) => return Ok(Some(*digest)),
            Reference::Tag(tag) => tag,
        };
        let text = self.text(&self.repository(name).join("_tags").join(tag.as_str()))?;
        Ok(text.and_then(|text| Digest::parse(&text).ok()))
    }

    /// The manifest that `reference` stands for.
    pub(super) fn manifest(
        &self,
        name: &Name,
        reference: &Reference,
    ) -> Result<Option<Manifest>, Refusal> {
        let Some(digest) = self.resolve(name, reference)? else { return Ok(None) };
        let held = self.repository(name).join("_manifests").join(digest.hex());
        let Some(media_type) = self.text(&held)? else { return Ok(None) };
        match fs::read(self.content(&digest)) {
            Ok(content) => Ok(Some(Manifest { digest, media_type, content })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Refusal::disk("reading a manifest", &error)),
        }
    }

    /// Stores a manifest, under `tag` if there is one.
    pub(super) fn keep_manifest(
        &self,
        name: &Name,
        manifest: &Manifest,
        tag: Option<&Tag>,
    ) -> Result<(), Refusal> {
        let repository = self.repository(name);
        let digest = &manifest.digest;
        let keep = || {
            let _changing = self.lock();
            self.write(&self.content(digest), &manifest.content)?;
            let held = repository.join("_manifests").join(digest.hex());
            self.write(&held, manifest.media_type.as_bytes())?;
            tag.map_or(Ok(()), |tag| {
                let path = repository.join("_tags").join(tag.as_str());
                self.write(&path, digest.to_string().as_bytes())
            })
        };
        keep().map_err(|error| Refusal::disk("storing a manifest", &error))
    }

    /// Deletes a tag, or a manifest with every tag of it; whether it was there.
    pub(super) fn drop_manifest(
        &self,
        name: &Name,
        reference: &Reference,
    ) -> Result<bool, Refusal> {
        let refusal = |error| Refusal::disk("deleting a manifest", &error);
        let digest = match reference {
            Reference::Tag(tag) => {
                return remove(&self.repository(name).join("_tags").join(tag.as_str()))
                    .map_err(refusal);
            }
            Reference::Digest(digest) => digest,
        };
        for tag in self.tags(name)? {
            if self.resolve(name, &Reference::Tag(tag.clone()))? == Some(*digest) {
                let path = self.repository(name).join("_tags").join(tag.as_str());
                remove(&path).map_err(refusal)?;
            }
        }
        self.unhold(name, "_manifests", digest).map_err(refusal)
    }

    /// The tags of a repository, sorted.
    pub(super) fn tags(&self, name: &Name) -> Result<Vec<Tag>, Refusal> {
        let files = entries(&self.repository(name).join("_tags"))
            .map_err(|error| Refusal::disk("listing tags", &error))?;
        let mut tags: Vec<Tag> = files.iter().filter_map(|file| Tag::parse(file)).collect();
        tags.sort();
        Ok(tags)
    }

    /// The manifests of a repository.
    pub(super) fn manifests(&self, name: &Name) -> Result<Vec<Digest>, Refusal> {
        let files = entries(&self.repository(name).join("_manifests"))
            .map_err(|error| Refusal::disk("listing manifests", &error))?;
        Ok(files.iter().filter_map(|file| Digest::of_hex(file)).collect())
    }

    /// The repositories that hold a manifest, sorted.
    pub(super) fn repositories(&self) -> Result<Vec<String>, Refusal> {
        let all = self.walk().map_err(|error| Refusal::disk("listing repositories", &error))?;
        let mut names = Vec::new();
        for name in all {
            let Ok(parsed) = Name::parse(&name) else { continue };
            if !self.manifests(&parsed)?.is_empty() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Every folder that may be a repository.
    fn walk(&self) -> io::Result<Vec<String>> {
        let root = self.root.join("repositories");
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(name) = open.pop() {
            for entry in entries(&root.join(&name))? {
                if !entry.starts_with('_') && name.split('/').count() < MAX_DEPTH {
                    let joined = if name.is_empty() { entry } else { format!("{name}/{entry}") };
                    open.push(joined);
                }
            }
            found.push(name);
        }
        found.retain(|name| !name.is_empty());
        Ok(found)
    }

    /// Removes a repository's mention of content, and the content if it was the last.
    fn unhold(&self, name: &Name, kind: &str, digest: &Digest) -> io::Result<bool> {
        let _changing = self.lock();
        let hex = digest.hex();
        if !remove(&self.repository(name).join(kind).join(&hex))? {
            return Ok(false);
        }
        let root = self.root.join("repositories");
        let held = self
            .walk()?
            .iter()
            .any(|other| HOLDS.iter().any(|kind| root.join(other).join(kind).join(&hex).exists()));
        if !held {
            remove(&self.content(digest))?;
        }
        Ok(true)
    }

    /// A small file's text; `None` if there is no such file.
    fn text(&self, path: &Path) -> Result<Option<String>, Refusal> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Refusal::disk("reading the repository", &error)),
        }
    }

    /// Writes a whole file, durably, replacing what was there in one step.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        let unnamed = self.unnamed();
        let written = write_new(&unnamed, content).and_then(|()| rename(&unnamed, path));
        if written.is_err() {
            let _ = fs::remove_file(&unnamed);
        }
        written
    }
}

/// Options for a new file that only this user may read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = private().open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Renames, and makes the new name durable.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    to.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a folder with its parents, each durable.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        // Made by another request in the meantime.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_folder).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The names in a folder; none if it does not exist.
fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let all = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        all => all?,
    };
    all.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
