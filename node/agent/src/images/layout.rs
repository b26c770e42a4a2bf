//! An OCI image layout, as a folder or as a tar archive of one: what `skopeo copy … oci:`, `oras`, `buildah` and
//! `docker save` write, and `coracle push` takes.
//!
//! Content is read by digest; the registry that it goes to verifies it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::manifest::{Descriptor, MAX_MANIFEST, Manifest};
use super::reference::is_sha256;

/// The annotation by which a layout names its images.
const NAME: &str = "org.opencontainers.image.ref.name";
/// Most entries of an archive.
const MAX_ENTRIES: usize = 100_000;

/// Where a layout's files are.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    /// Of an archive: offset and length by path.
    entries: Option<HashMap<String, (u64, u64)>>,
}

/// Why a layout cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file.
    #[error("{path}: {source}")]
    Read {
        /// The file, or the archive and what is wanted of it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its index or a manifest.
    #[error("{path}: {why}")]
    Unreadable {
        /// The layout.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It has several images, and none is called so.
    #[error("{path} holds several images: push under one of the tags {known}")]
    Several {
        /// The layout.
        path: PathBuf,
        /// What they are called.
        known: String,
    },
}

/// A part of a file.
#[derive(Debug)]
pub struct Part {
    file: File,
    /// Its length.
    pub size: u64,
}

impl Part {
    /// The next bytes, at most `most`; none at the end.
    pub fn next(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut piece = Vec::new();
        let count = (&mut self.file).take(self.size.min(most as u64)).read_to_end(&mut piece)?;
        self.size -= count as u64;
        if count == 0 && self.size > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(piece)
    }
}

impl Layout {
    /// The layout at `path`, a folder or a tar archive; `None` if it is neither.
    pub fn open(path: &Path) -> Result<Option<Self>, LayoutError> {
        let error = |source| LayoutError::Read { path: path.to_owned(), source };
        if path.is_dir() {
            let found = path.join("index.json").is_file();
            return Ok(found.then(|| Self { path: path.to_owned(), entries: None }));
        }
        let mut file = File::open(path).map_err(error)?;
        let mut begin = Vec::new();
        (&mut file).take(512).read_to_end(&mut begin).map_err(error)?;
        if begin.get(257..262) != Some(b"ustar") {
            return Ok(None);
        }
        file.rewind().map_err(error)?;
        let mut entries = HashMap::new();
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries_with_seek().map_err(error)? {
            let entry = entry.map_err(error)?;
            if entries.len() >= MAX_ENTRIES {
                let why = format!("it has more than {MAX_ENTRIES} files");
                return Err(LayoutError::Unreadable { path: path.to_owned(), why });
            }
            if entry.header().entry_type().is_file() {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let name = name.trim_start_matches("./").to_owned();
                entries.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        let found = entries.contains_key("index.json");
        Ok(found.then(|| Self { path: path.to_owned(), entries: Some(entries) }))
    }

    /// The image to push as `tag`: the only one, or the one of several that is called so.
    pub fn image(&self, tag: &str) -> Result<Descriptor, LayoutError> {
        let bytes = self.small("index.json")?;
        let index = self.manifest_of(&bytes)?;
        let name = |d: &Descriptor| d.annotations.as_ref()?.get(NAME).cloned();
        let called = |name: String| name == tag || name.rsplit(':').next() == Some(tag);
        match index.manifests.as_slice() {
            [] => Err(self.unreadable("its index names no image")),
            [only] => Ok(only.clone()),
            several => {
                several.iter().find(|d| name(d).is_some_and(called)).cloned().ok_or_else(|| {
                    let known: Vec<String> = several.iter().filter_map(name).take(16).collect();
                    LayoutError::Several { path: self.path.clone(), known: known.join(", ") }
                })
            }
        }
    }

    /// A manifest, as it is and as it reads.
    pub fn manifest(&self, descriptor: &Descriptor) -> Result<(Vec<u8>, Manifest), LayoutError> {
        let bytes = self.small(&self.blob_path(&descriptor.digest)?)?;
        let manifest = self.manifest_of(&bytes)?;
        Ok((bytes, manifest))
    }

    /// A blob.
    pub fn blob(&self, digest: &str) -> Result<Part, LayoutError> {
        self.part(&self.blob_path(digest)?)
    }

    fn blob_path(&self, digest: &str) -> Result<String, LayoutError> {
        if !is_sha256(digest) {
            return Err(self.unreadable(&format!("\"{digest}\" is no sha256 digest")));
        }
        Ok(format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")))
    }

    fn manifest_of(&self, bytes: &[u8]) -> Result<Manifest, LayoutError> {
        Manifest::read(bytes).map_err(|why| self.unreadable(&why.to_string()))
    }

    fn small(&self, name: &str) -> Result<Vec<u8>, LayoutError> {
        let mut part = self.part(name)?;
        if part.size > MAX_MANIFEST as u64 {
            return Err(self.unreadable(&format!("{name} is over {MAX_MANIFEST} bytes")));
        }
        let path = self.path.join(name);
        let size = usize::try_from(part.size).unwrap_or(MAX_MANIFEST);
        part.next(size).map_err(|source| LayoutError::Read { path, source })
    }

    fn part(&self, name: &str) -> Result<Part, LayoutError> {
        let error = |source| LayoutError::Read { path: self.path.join(name), source };
        let Some(entries) = &self.entries else {
            let file = File::open(self.path.join(name)).map_err(error)?;
            let size = file.metadata().map_err(error)?.len();
            return Ok(Part { file, size });
        };
        let (offset, size) =
            *entries.get(name).ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
        let mut file = File::open(&self.path).map_err(error)?;
        file.seek(SeekFrom::Start(offset)).map_err(error)?;
        Ok(Part { file, size })
    }

    fn unreadable(&self, why: &str) -> LayoutError {
        LayoutError::Unreadable { path: self.path.clone(), why: why.to_owned() }
    }
}
