//! Looks into an ordinary image's layers for one file, without unpacking them.
//!
//! Every layer is streamed once through its hash, so that what is read is what the image's configuration promises (its
//! diff ids), and only names are kept: an [`Tree`] of the merged files, whiteouts applied. Links are followed in that
//! tree, never on this machine's disk, so no archive can lead anywhere; then the file is copied out of the one layer that
//! holds it. Bytes, entries, names and depths have limits. Headers are read raw: long names come as entries of any size,
//! and the `tar` crate would read them whole.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::hex;
use super::manifest::{MAX_WASM, Packing};
use super::stream::Unpacking;

/// Most bytes that all layers of an image unpack to.
const MAX_UNPACKED: u64 = 2 << 30;
/// Most entries of all layers.
const MAX_ENTRIES: usize = 200_000;
/// Longest path, in bytes.
const MAX_PATH: usize = 4096;
/// Deepest path.
const MAX_DEPTH: usize = 255;
/// Largest header extension (PAX, GNU long names), in bytes.
const MAX_EXTENSION: u64 = 64 << 10;
/// Most links that are followed, as in Linux.
const MAX_LINKS: usize = 40;

/// A layer on this disk.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// The file.
    pub(super) path: PathBuf,
    /// Its digest, for messages.
    pub(super) digest: String,
    /// How it is packed.
    pub(super) packing: Packing,
    /// Digest of what it unpacks to.
    pub(super) diff_id: String,
}

/// Why a file was not found.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The disk, or a damaged archive.
    #[error("layer {digest}: {source}")]
    Read {
        /// The layer.
        digest: String,
        /// What happened.
        source: io::Error,
    },
    /// The layer is not what the configuration says.
    #[error("layer {digest} unpacks to {found}, and the image's configuration says {wanted}")]
    DiffId {
        /// The layer.
        digest: String,
        /// What came.
        found: String,
        /// What should have.
        wanted: String,
    },
    /// Over a limit.
    #[error("its layers {0}")]
    Limit(String),
    /// A name that leaves the image.
    #[error("layer {digest} names a file \"{path}\", which leads out of the image")]
    Escape {
        /// The layer.
        digest: String,
        /// The name.
        path: String,
    },
    /// There is no such file.
    #[error("it has no file {0}")]
    NotFound(String),
    /// Something else than a file.
    #[error("its {0} is no file")]
    NotFile(String),
    /// A file, but not Wasm.
    #[error("its {0} is not WebAssembly: it does not begin with \\0asm")]
    NotWasm(String),
    /// The copy could not be written.
    #[error("{path}: {source}")]
    Write {
        /// The copy.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Finds `path` in the layers, lowest first, and copies it to `to`, which must not exist; its digest and size.
///
/// Blocks: it reads and hashes all layers.
pub(super) fn extract(
    layers: &[Layer],
    path: &str,
    to: &std::path::Path,
) -> Result<(String, u64), LayerError> {
    let mut tree = Tree::default();
    let mut budget = MAX_UNPACKED;
    for (index, layer) in layers.iter().enumerate() {
        tree.add(index, layer, &mut budget)?;
    }
    let (layer, ordinal) = tree.find(path)?;
    copy(&layers[layer], ordinal, path, to)
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    File { ordinal: usize },
    Folder,
    Symlink(String),
    Other,
}

#[derive(Debug)]
struct Node {
    layer: usize,
    kind: Kind,
}

/// The merged names of some layers, without a leading slash.
#[derive(Default)]
struct Tree {
    nodes: BTreeMap<String, Node>,
    entries: usize,
}

impl Tree {
    fn add(&mut self, index: usize, layer: &Layer, budget: &mut u64) -> Result<(), LayerError> {
        let error = |source| LayerError::Read { digest: layer.digest.clone(), source };
        let mut reader = open(layer, *budget).map_err(error)?;
        let mut whiteouts = HashSet::new();
        let result = each_entry(&mut reader, |entry, _| {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Stop::Limit(format!("hold more than {MAX_ENTRIES} files")));
            }
            let Some(path) = clean(&entry.path)? else { return Ok(true) };
            self.place(index, &path, entry, &mut whiteouts)?;
            Ok(true)
        });
        let escape = |path: String| LayerError::Escape { digest: layer.digest.clone(), path };
        let drained = match result {
            // To the end, or the hash would not be of the whole.
            Ok(()) => io::copy(&mut reader, &mut io::sink()).map(drop),
            Err(Stop::Io(source)) => Err(source),
            Err(Stop::Limit(why)) => return Err(LayerError::Limit(why)),
            Err(Stop::Escape(path)) => return Err(escape(path)),
        };
        if reader.exhausted() {
            return Err(LayerError::Limit(format!("unpack to more than {MAX_UNPACKED} bytes")));
        }
        drained.map_err(error)?;
        *budget = reader.left();
        let found = reader.digest();
        if found != layer.diff_id {
            let (digest, wanted) = (layer.digest.clone(), layer.diff_id.clone());
            return Err(LayerError::DiffId { digest, found, wanted });
        }
        Ok(())
    }

    fn place(
        &mut self,
        layer: usize,
        path: &str,
        entry: &Entry,
        whiteouts: &mut HashSet<String>,
    ) -> Result<(), Stop> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(hidden) = name.strip_prefix(".wh.") {
            // Each once: an archive of nothing but whiteouts must not take quadratic time.
            if whiteouts.insert(path.to_owned()) {
                match hidden {
                    ".wh..opq" => self.hide(parent, layer, true),
                    _ if parent.is_empty() => self.hide(hidden, layer, false),
                    _ => self.hide(&format!("{parent}/{hidden}"), layer, false),
                }
            }
            return Ok(());
        }
        let kind = match &entry.kind {
            EntryKind::File => Kind::File { ordinal: entry.ordinal },
            EntryKind::Folder => Kind::Folder,
            EntryKind::Symlink(to) => Kind::Symlink(to.clone()),
            EntryKind::Link(to) => match clean(to)?.and_then(|to| self.nodes.get(&to)) {
                Some(Node { kind: Kind::File { ordinal }, layer: of }) => {
                    let node = Node { layer: *of, kind: Kind::File { ordinal: *ordinal } };
                    self.nodes.insert(path.to_owned(), node);
                    return Ok(());
                }
                _ => Kind::Other,
            },
            EntryKind::Other => Kind::Other,
        };
        if kind != Kind::Folder
            && matches!(self.nodes.get(path), Some(Node { kind: Kind::Folder, .. }))
        {
            self.hide(path, usize::MAX, true);
        }
        self.nodes.insert(path.to_owned(), Node { layer, kind });
        Ok(())
    }

    /// Removes what lies at and below `path` and comes from layers below `layer`; with `inside`, only what lies below it.
    fn hide(&mut self, path: &str, layer: usize, inside: bool) {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let below = self.nodes.range(prefix.clone()..).take_while(|(p, _)| p.starts_with(&prefix));
        let gone: Vec<String> =
            below.filter(|(_, node)| node.layer < layer).map(|(p, _)| p.clone()).collect();
        for path in gone {
            self.nodes.remove(&path);
        }
        if !inside && self.nodes.get(path).is_some_and(|node| node.layer < layer) {
            self.nodes.remove(path);
        }
    }

    /// Layer and place in it of the file at `path`, links followed as if the image were the whole world.
    fn find(&self, path: &str) -> Result<(usize, usize), LayerError> {
        let not_found = || LayerError::NotFound(path.to_owned());
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut at: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(part),
            }
            let here = at.join("/");
            if at.len() > MAX_DEPTH || here.len() > MAX_PATH {
                return Err(not_found());
            }
            match self.nodes.get(&here).map(|node| &node.kind) {
                Some(Kind::Symlink(to)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(not_found());
                    }
                    at.pop();
                    if to.starts_with('/') {
                        at.clear();
                    }
                    todo.extend(to.split('/').rev().map(str::to_owned));
                }
                // Folders are often not in the archive at all.
                Some(Kind::Folder) | None => {}
                Some(_) if todo.iter().any(|p| !matches!(p.as_str(), "" | ".")) => {
                    return Err(not_found());
                }
                Some(_) => {}
            }
        }
        match self.nodes.get(&at.join("/")) {
            Some(Node { layer, kind: Kind::File { ordinal } }) => Ok((*layer, *ordinal)),
            Some(_) => Err(LayerError::NotFile(path.to_owned())),
            None => Err(not_found()),
        }
    }
}

fn copy(
    layer: &Layer,
    ordinal: usize,
    path: &str,
    to: &std::path::Path,
) -> Result<(String, u64), LayerError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let error = |source| LayerError::Read { digest: layer.digest.clone(), source };
    let written = |source| LayerError::Write { path: to.to_owned(), source };
    let mut reader = open(layer, MAX_UNPACKED).map_err(error)?;
    let mut found = None;
    let result = each_entry(&mut reader, |entry, content| {
        if entry.ordinal != ordinal {
            return Ok(true);
        }
        if entry.size > MAX_WASM {
            let why = format!("hold a {path} of more than {MAX_WASM} bytes");
            return Err(Stop::Limit(why));
        }
        let mut copy = || {
            let mut options = File::options();
            let mut file = options.write(true).create_new(true).mode(0o600).open(to)?;
            let mut hash = Sha256::new();
            let mut buffer = vec![0; 64 << 10];
            let mut begin: Vec<u8> = Vec::with_capacity(4);
            let mut size = 0;
            loop {
                let count = match content.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(source) => return Ok(Err(source)),
                };
                let missing = 4 - begin.len();
                begin.extend(&buffer[..count.min(missing)]);
                hash.update(&buffer[..count]);
                file.write_all(&buffer[..count])?;
                size += count as u64;
            }
            file.sync_all()?;
            Ok(Ok((format!("sha256:{}", hex(&hash.finalize())), size, begin)))
        };
        found = Some(copy());
        Ok(false)
    });
    match (found, result) {
        (Some(Ok(Ok((digest, size, begin)))), _) if begin == b"\0asm" => Ok((digest, size)),
        (Some(Ok(Ok(_))), _) => Err(LayerError::NotWasm(path.to_owned())),
        (Some(Ok(Err(source))), _) => Err(error(source)),
        (Some(Err(source)), _) => Err(written(source)),
        (None, Err(Stop::Limit(why))) => Err(LayerError::Limit(why)),
        (None, Err(Stop::Io(source))) => Err(error(source)),
        (None, _) => Err(LayerError::NotFound(path.to_owned())),
    }
}

fn open(layer: &Layer, budget: u64) -> io::Result<Unpacking> {
    Unpacking::new(File::open(&layer.path)?, layer.packing, budget)
}

/// Why reading an archive stopped early.
enum Stop {
    Io(io::Error),
    Limit(String),
    Escape(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
enum EntryKind {
    File,
    Folder,
    Symlink(String),
    Link(String),
    Other,
}

struct Entry {
    /// Counts the archive's entries.
    ordinal: usize,
    path: String,
    kind: EntryKind,
    size: u64,
}

/// Hands every entry and its content to `take`, until that says `false`.
fn each_entry(
    reader: &mut Unpacking,
    mut take: impl FnMut(&Entry, &mut dyn Read) -> Result<bool, Stop>,
) -> Result<(), Stop> {
    let mut archive = tar::Archive::new(reader);
    let mut long_path: Option<String> = None;
    let mut long_link: Option<String> = None;
    for (ordinal, entry) in archive.entries()?.raw(true).enumerate() {
        // Not only files count: an archive of headers alone is as long to read.
        if ordinal > 2 * MAX_ENTRIES {
            return Err(Stop::Limit(format!("hold more than {MAX_ENTRIES} files")));
        }
        let mut entry = entry?;
        let size = entry.size();
        let kind = entry.header().entry_type();
        match kind {
            tar::EntryType::GNULongName => {
                long_path = Some(text(&extension(&mut entry, size)?)?);
                continue;
            }
            tar::EntryType::GNULongLink => {
                long_link = Some(text(&extension(&mut entry, size)?)?);
                continue;
            }
            tar::EntryType::XHeader => {
                let content = extension(&mut entry, size)?;
                for (key, value) in pax(&content)? {
                    match key.as_str() {
                        "path" => long_path = Some(text(value)?),
                        "linkpath" => long_link = Some(text(value)?),
                        // Only for files that are over the limits anyway; others use it to be read differently
                        // by different programs.
                        "size" => {
                            return Err(Stop::Limit(
                                "hold a file whose size is given twice".into(),
                            ));
                        }
                        _ => {}
                    }
                }
                continue;
            }
            tar::EntryType::XGlobalHeader => continue,
            _ => {}
        }
        let header = entry.header();
        let path = match long_path.take() {
            Some(path) => path,
            None => text(&header.path_bytes())?,
        };
        let link = match long_link.take() {
            Some(link) => link,
            None => text(&header.link_name_bytes().unwrap_or_default())?,
        };
        let kind = match kind {
            tar::EntryType::Regular | tar::EntryType::Continuous if path.ends_with('/') => {
                EntryKind::Folder
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => EntryKind::File,
            tar::EntryType::Directory => EntryKind::Folder,
            tar::EntryType::Symlink => EntryKind::Symlink(link),
            tar::EntryType::Link => EntryKind::Link(link),
            _ => EntryKind::Other,
        };
        if !take(&Entry { ordinal, path, kind, size }, &mut entry)? {
            break;
        }
    }
    Ok(())
}

fn extension(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, Stop> {
    if size > MAX_EXTENSION {
        return Err(Stop::Limit(format!("hold a header of more than {MAX_EXTENSION} bytes")));
    }
    let mut content = Vec::new();
    entry.take(MAX_EXTENSION).read_to_end(&mut content)?;
    Ok(content)
}

/// The records of a PAX header: `LENGTH KEY=VALUE\n`.
fn pax(content: &[u8]) -> Result<Vec<(String, &[u8])>, Stop> {
    let damaged = || Stop::Io(io::Error::new(io::ErrorKind::InvalidData, "a damaged PAX header"));
    let mut records = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ').ok_or_else(damaged)?;
        let length = std::str::from_utf8(&rest[..space]).ok().and_then(|l| l.parse::<usize>().ok());
        let length = length.filter(|l| *l > space + 1 && *l <= rest.len()).ok_or_else(damaged)?;
        let record = rest[space + 1..length].strip_suffix(b"\n").ok_or_else(damaged)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(damaged)?;
        records
            .push((String::from_utf8_lossy(&record[..equals]).into_owned(), &record[equals + 1..]));
        rest = &rest[length..];
    }
    Ok(records)
}

fn text(bytes: &[u8]) -> Result<String, Stop> {
    let bytes = bytes.split(|b| *b == 0).next().unwrap_or_default();
    if bytes.len() > MAX_PATH {
        return Err(Stop::Limit(format!("hold a path of more than {MAX_PATH} bytes")));
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// A path without empty parts and dots; `None` for the root itself.
fn clean(path: &str) -> Result<Option<String>, Stop> {
    let parts: Vec<&str> = path.split('/').filter(|p| !matches!(*p, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(Stop::Escape(path.to_owned()));
    }
    if parts.len() > MAX_DEPTH {
        return Err(Stop::Limit(format!("hold a path deeper than {MAX_DEPTH}")));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

#[cfg(test)]
mod tests;
