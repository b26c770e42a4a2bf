//! Unpacks one layer of a container image into a folder, as overlayfs wants it: `coracle host unpack`.
//!
//! The agent is root and a layer is a stranger's archive, so a process of its own does this, which has given up everything
//! else ([`confine`]) before it reads the first byte: decompressors and the reader of archives ([`archive`]) run where all
//! that can be reached is the folder. What is written into it goes through [`tree`]. The agent's side is [`process`].
//!
//! The layer comes on standard input. The answer is one line of JSON on standard output: [`Unpacked`], or, with exit code
//! 1, [`Refusal`]. When nobody reads that answer any more, the agent has ended, and so does this.

mod archive;
mod confine;
pub(super) mod process;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use self::archive::{Archive, Damage, Entry};
use self::tree::{Refused, Tree};
use super::manifest::Packing;
use super::stream::Unpacking;

pub use process::UnpackCommand;

/// Entries between two looks whether the agent is still there.
const LOOK: u64 = 256;
/// What a hole of a file is made of: blocks of file systems are no smaller.
const BLOCK: usize = 4096;
/// Bytes of all names together that are remembered until the end.
const MAX_NAMES: usize = 64 << 20;
/// Folders that are told of in [`Unpacked::implied`].
const MAX_IMPLIED: usize = 10_000;

/// What to unpack, and where to.
#[derive(Debug, Clone)]
pub struct Job {
    /// An empty folder.
    pub into: PathBuf,
    /// How the layer is packed.
    pub packing: Packing,
    /// Digest that it must unpack to.
    pub diff_id: String,
    /// How much it may be.
    pub limits: Limits,
}

/// Bounds on a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that it unpacks to, and bytes that its files seem to have.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 8 << 30, entries: 500_000 }
    }
}

/// A layer that is unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Bytes on the disk, roughly: of files, without their holes.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Folders in which it has something and which it does not describe: what lies below them says whose they are.
    #[serde(default)]
    pub implied: Vec<String>,
}

/// Whose fault it is that a layer was not unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The layer's: it will not get better.
    Layer,
    /// The node's disk: full, or broken.
    Disk,
    /// The agent may not do it here.
    Rights,
}

/// Why a layer was not unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Whose fault it is.
    pub fault: Fault,
    /// What happened; names the entry.
    pub message: String,
}

impl Refusal {
    fn layer(message: impl Into<String>) -> Self {
        Self { fault: Fault::Layer, message: message.into() }
    }

    fn system(doing: &str, errno: Errno) -> Self {
        let told = errno.desc();
        match errno {
            Errno::ENOSPC | Errno::EDQUOT => Self {
                fault: Fault::Disk,
                message: format!(
                    "{doing}: no space left on device ({told}): make room on the node's disk of images"
                ),
            },
            Errno::EIO | Errno::EROFS | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => {
                Self { fault: Fault::Disk, message: format!("{doing}: {told}") }
            }
            Errno::EPERM | Errno::EACCES => Self {
                fault: Fault::Rights,
                message: format!(
                    "{doing}: {told}; unpacking container images needs root with CAP_CHOWN, CAP_MKNOD, CAP_SETFCAP and CAP_SYS_ADMIN"
                ),
            },
            _ => Self::layer(format!("{doing}: {told}")),
        }
    }
}

/// Unpacks standard input, confined. Call it from a process's only thread; it is of no other use afterwards.
///
/// # Errors
/// What is wrong with the layer, the disk or the process's rights.
pub fn unpack_confined(job: &Job) -> Result<Unpacked, Refusal> {
    confine::bound(&job.limits).map_err(|errno| Refusal::system("bound the process", errno))?;
    let root = confine::enter(&job.into)?;
    let watch = || !confine::is_abandoned(io::stdout().as_fd());
    unpack(job, root, File::from(dup(io::stdin().as_fd())?), watch)
}

fn dup(fd: impl AsFd) -> Result<OwnedFd, Refusal> {
    let dup = fd.as_fd().try_clone_to_owned();
    dup.map_err(|e| Refusal { fault: Fault::Disk, message: format!("standard input: {e}") })
}

/// Unpacks `packed` below `root`, as long as `go_on` says so.
fn unpack(
    job: &Job,
    root: OwnedFd,
    packed: impl Read + 'static,
    go_on: impl Fn() -> bool,
) -> Result<Unpacked, Refusal> {
    let limits = job.limits;
    let unread = |error: io::Error| Refusal::layer(format!("cannot be unpacked: {error}"));
    let stream = Unpacking::new(packed, job.packing, limits.bytes).map_err(unread)?;
    let mut work = Work {
        archive: Archive::new(stream),
        tree: Tree::new(root),
        unpacked: Unpacked::default(),
        seeming: 0,
        names: 0,
        limits,
        last: None,
    };
    while let Some(entry) = work.next()? {
        if work.unpacked.entries.is_multiple_of(LOOK) && !go_on() {
            return Err(Refusal { fault: Fault::Disk, message: "the agent has ended".to_owned() });
        }
        work.add(&entry, &go_on)?;
    }
    work.end(&job.diff_id)
}

/// A layer on its way.
struct Work {
    archive: Archive<Unpacking>,
    tree: Tree,
    unpacked: Unpacked,
    /// Bytes that the files made so far seem to have.
    seeming: u64,
    names: usize,
    limits: Limits,
    /// The entry that was read last, to say where an archive is damaged.
    last: Option<String>,
}

impl Work {
    fn next(&mut self) -> Result<Option<Entry>, Refusal> {
        let entry = self.archive.next().map_err(|damage| self.damaged(damage))?;
        let Some(entry) = entry else { return Ok(None) };
        let shown = shown(&entry);
        self.unpacked.entries += 1;
        if self.unpacked.entries > self.limits.entries {
            let most = self.limits.entries;
            return Err(Refusal::layer(format!("has more than {most} entries (at \"{shown}\")")));
        }
        self.names += entry.path.len();
        if self.names > MAX_NAMES {
            let why = format!("has names of more than {MAX_NAMES} bytes together (at \"{shown}\")");
            return Err(Refusal::layer(why));
        }
        self.seeming = self.seeming.saturating_add(entry.size);
        if self.seeming > self.limits.bytes {
            return Err(self.too_much(&shown));
        }
        self.last = Some(shown);
        Ok(Some(entry))
    }

    fn add(&mut self, entry: &Entry, go_on: &impl Fn() -> bool) -> Result<(), Refusal> {
        let failed = |refused| refusal(entry, refused);
        let Some(fd) = self.tree.add(entry).map_err(failed)? else { return Ok(()) };
        let file = File::from(fd);
        let mut written = 0;
        let mut since = 0;
        let content = self.archive.content(entry, |offset, bytes| {
            since += bytes.len();
            if since > 64 << 20 {
                since = 0;
                if !go_on() {
                    return Err(io::Error::other("the agent has ended"));
                }
            }
            write(&file, offset, bytes, &mut written)
        });
        match content {
            Err(damage) => return Err(self.damaged(damage)),
            Ok(Err(error)) => return Err(unwritten(entry, &error)),
            Ok(Ok(())) => {}
        }
        // What ends in a hole was not written to its end.
        file.set_len(entry.size).map_err(|error| unwritten(entry, &error))?;
        self.unpacked.bytes += written;
        self.tree.finish(file.as_fd(), entry).map_err(failed)
    }

    fn end(self, diff_id: &str) -> Result<Unpacked, Refusal> {
        let Self { archive, tree, mut unpacked, limits, last, .. } = self;
        let mut stream = archive.into_inner();
        // To the end, or the digest would not be of the whole.
        if let Err(error) = io::copy(&mut stream, &mut io::sink()) {
            let most = limits.bytes;
            return Err(if stream.exhausted() {
                Refusal::layer(format!("unpacks to more than {most} bytes (after its last entry)"))
            } else {
                damage_of_stream(&error, last.as_deref())
            });
        }
        let found = stream.digest();
        if found != diff_id {
            let why = format!("unpacks to {found}, and the image's configuration says {diff_id}");
            return Err(Refusal::layer(why));
        }
        let implied = tree.end().map_err(|refused| match refused {
            Refused::Entry(why) => Refusal::layer(why),
            Refused::System(doing, errno) => Refusal::system(doing, errno),
        })?;
        let implied = implied.into_iter().filter_map(|path| String::from_utf8(path).ok());
        unpacked.implied = implied.take(MAX_IMPLIED).collect();
        Ok(unpacked)
    }

    fn damaged(&self, damage: Damage) -> Refusal {
        let after = |last: &Option<String>| match last {
            Some(last) => format!(" (after entry \"{last}\")"),
            None => " (at its beginning)".to_owned(),
        };
        match damage {
            Damage::Format(why) => {
                Refusal::layer(format!("is a damaged archive: {why}{}", after(&self.last)))
            }
            Damage::Read(_) if self.archive.reader().exhausted() => {
                self.too_much(self.last.as_deref().unwrap_or_default())
            }
            Damage::Read(error) => damage_of_stream(&error, self.last.as_deref()),
        }
    }

    fn too_much(&self, shown: &str) -> Refusal {
        let most = self.limits.bytes;
        Refusal::layer(format!("unpacks to more than {most} bytes (at entry \"{shown}\")"))
    }
}

/// What it is read from ended too early, or makes no sense to its decompressor.
fn damage_of_stream(error: &io::Error, last: Option<&str>) -> Refusal {
    let place = match last {
        Some(last) => format!("after entry \"{last}\""),
        None => "at its beginning".to_owned(),
    };
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is truncated".to_owned(),
        _ => error.to_string(),
    };
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EIO) => Refusal::system("read the layer", Errno::EIO),
        _ => Refusal::layer(format!("cannot be unpacked: {why} ({place})")),
    }
}

/// Writes, but for blocks of zeros: they stay holes.
fn write(file: &File, offset: u64, bytes: &[u8], written: &mut u64) -> io::Result<()> {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let to_next = BLOCK - (at % BLOCK as u64) as usize;
        let (block, after) = rest.split_at(to_next.min(rest.len()));
        if block.len() < BLOCK || block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at)?;
            *written += block.len() as u64;
        }
        at += block.len() as u64;
        rest = after;
    }
    Ok(())
}

fn shown(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.path).into_owned()
}

fn refusal(entry: &Entry, refused: Refused) -> Refusal {
    let shown = shown(entry);
    match refused {
        Refused::Entry(why) => Refusal::layer(format!("has an entry \"{shown}\" that {why}")),
        Refused::System(doing, errno) => {
            Refusal::system(&format!("entry \"{shown}\": {doing}"), errno)
        }
    }
}

fn unwritten(entry: &Entry, error: &io::Error) -> Refusal {
    let doing = format!("entry \"{}\": write the file", shown(entry));
    match error.raw_os_error() {
        Some(errno) => Refusal::system(&doing, Errno::from_raw(errno)),
        None => Refusal { fault: Fault::Disk, message: format!("{doing}: {error}") },
    }
}

#[cfg(test)]
mod tests;
