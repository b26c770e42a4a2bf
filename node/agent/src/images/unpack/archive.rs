//! A tar archive, read as a stream: POSIX (ustar and PAX), GNU and the old format, with long names, large numbers, extended
//! attributes and sparse files.
//!
//! Written for hostile archives: each length is bounded before anything is read or kept by it, and what cannot be understood
//! is an error, never skipped. Nothing here touches the disk.

mod header;
mod sparse;

use std::io::{self, Read};

use self::header::{BLOCK, Header, number, text};
use self::sparse::Piece;

/// Largest header extension (PAX, GNU long names), in bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// Header extensions before one entry.
const MAX_EXTENSIONS: usize = 16;
/// Longest path, in bytes: the kernel's.
pub(super) const MAX_PATH: usize = 4096;
/// Extended attributes of one entry.
const MAX_XATTRS: usize = 64;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Folder,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry, without its content. Paths are as the archive has them.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// What a link leads to.
    pub(super) link: Vec<u8>,
    /// Permissions, with setuid, setgid and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub(super) modified: (i64, i64),
    /// Major and minor number.
    pub(super) device: (u32, u32),
    /// Bytes of the file, holes included.
    pub(super) size: u64,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where in the file its content lies; in order.
    pieces: Vec<Piece>,
}

/// Why an archive is not read on.
#[derive(Debug)]
pub(super) enum Damage {
    /// What it is read from, or a decompressor.
    Read(io::Error),
    /// Not what an archive looks like, or over a limit; after the entry before, or in this one.
    Format(String),
}

impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

pub(super) fn damaged(why: impl Into<String>) -> Damage {
    Damage::Format(why.into())
}

/// An archive that is being read.
pub(super) struct Archive<R> {
    reader: R,
    /// Bytes of the present entry's content, and of the padding after it, that were not read yet.
    content: u64,
    padding: u64,
}

/// What extensions say of the entry after them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, i64)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::Pax,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, content: 0, padding: 0 }
    }

    /// What it was read from, to read the rest.
    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    pub(super) fn reader(&self) -> &R {
        &self.reader
    }

    /// The next entry; `None` at the end. What was not read of the present one's content is left out.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Damage> {
        let mut extended = Extended::default();
        for _ in 0..=MAX_EXTENSIONS {
            self.skip_content()?;
            let Some(header) = self.header()? else { return Ok(None) };
            match header.kind() {
                b'L' => extended.path = Some(text(&self.extension(&header)?)),
                b'K' => extended.link = Some(text(&self.extension(&header)?)),
                b'x' => extended.take(&self.extension(&header)?)?,
                // Comments, as `git archive` writes them.
                b'g' => drop(self.extension(&header)?),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
        Err(damaged(format!("more than {MAX_EXTENSIONS} header extensions for one entry")))
    }

    /// Hands on the present entry's content, piece by piece: where it belongs in the file, and bytes.
    pub(super) fn content(
        &mut self,
        entry: &Entry,
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>, Damage> {
        let mut buffer = vec![0; 64 << 10];
        for piece in &entry.pieces {
            let (mut offset, mut left) = (piece.offset, piece.length);
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = self.reader.read(&mut buffer[..most])?;
                if count == 0 {
                    return Err(Damage::Read(io::ErrorKind::UnexpectedEof.into()));
                }
                self.content = self.content.saturating_sub(count as u64);
                if let Err(error) = take(offset, &buffer[..count]) {
                    return Ok(Err(error));
                }
                offset += count as u64;
                left -= count as u64;
            }
        }
        Ok(Ok(()))
    }

    fn header(&mut self) -> Result<Option<Header>, Damage> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..])? {
                // Some writers leave out the two empty blocks.
                0 if filled == 0 => return Ok(None),
                0 => return Err(damaged("it ends in the middle of a header")),
                count => filled += count,
            }
        }
        Header::new(block)
    }

    fn skip_content(&mut self) -> Result<(), Damage> {
        let rest = self.content + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(rest), &mut io::sink())?;
        if skipped < self.content {
            return Err(Damage::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    fn begin_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Damage> {
        let size = header.size()?;
        if size > MAX_EXTENSION {
            return Err(damaged(format!("a header extension of more than {MAX_EXTENSION} bytes")));
        }
        self.begin_content(size);
        let mut content = Vec::new();
        let count = (&mut self.reader).take(size).read_to_end(&mut content)? as u64;
        self.content -= count;
        if count < size {
            return Err(Damage::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(content)
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, Damage> {
        let path = extended.sparse.name.clone().or(extended.path).unwrap_or_else(|| header.path());
        let link = extended.link.unwrap_or_else(|| header.link());
        for path in [&path, &link] {
            if path.len() > MAX_PATH {
                return Err(damaged(format!(
                    "a path of more than {MAX_PATH} bytes, which begins with \"{}\"",
                    String::from_utf8_lossy(&path[..60])
                )));
            }
        }
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let kind = match header.kind() {
            b'0' | b'\0' | b'7' if path.ends_with(b"/") => Kind::Folder,
            b'0' | b'\0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => {
                let other = char::from(other).escape_default();
                return Err(damaged(format!(
                    "entry \"{}\" is of the unknown type '{other}'",
                    shown()
                )));
            }
        };
        let in_entry = |damage| match damage {
            Damage::Format(why) => damaged(format!("entry \"{}\": {why}", shown())),
            read @ Damage::Read(_) => read,
        };
        let owner = |given: Option<u64>, header: Result<u64, Damage>, what: &str| {
            let number = given.map_or(header, Ok)?;
            // The last number means "leave it" to the kernel.
            u32::try_from(number)
                .ok()
                .filter(|number| *number != u32::MAX)
                .ok_or_else(|| damaged(format!("{what} {number} is out of range")))
        };
        let mut entry = Entry {
            kind,
            link,
            mode: header.mode().map_err(in_entry)? & 0o7777,
            uid: owner(extended.uid, header.uid(), "owner").map_err(in_entry)?,
            gid: owner(extended.gid, header.gid(), "group").map_err(in_entry)?,
            modified: match extended.modified {
                Some(modified) => modified,
                None => (header.modified().map_err(in_entry)?, 0),
            },
            device: (0, 0),
            size: 0,
            xattrs: extended.xattrs,
            pieces: Vec::new(),
            path: path.clone(),
        };
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            entry.device = header.device().map_err(in_entry)?;
        }
        // As in Go's archive/tar, which writes most layers: what can have no content has none, whatever the size says.
        if kind != Kind::File {
            return Ok(entry);
        }
        let stored = extended.size.map_or_else(|| header.size(), Ok).map_err(in_entry)?;
        self.begin_content(stored);
        let map = if header.kind() == b'S' {
            Some(sparse::old_gnu(header, &mut self.reader).map_err(in_entry)?)
        } else {
            let (map, read) =
                extended.sparse.map(&mut (&mut self.reader).take(stored)).map_err(in_entry)?;
            self.content -= read;
            map
        };
        (entry.pieces, entry.size) = match map {
            Some((pieces, size)) => {
                sparse::check(&pieces, size, self.content).map_err(in_entry)?;
                (pieces, size)
            }
            None => (vec![Piece { offset: 0, length: stored }], stored),
        };
        Ok(entry)
    }
}

impl Extended {
    /// Takes the records of a PAX header in: `LENGTH KEY=VALUE\n`.
    fn take(&mut self, content: &[u8]) -> Result<(), Damage> {
        let bad = || damaged("a damaged PAX header");
        let mut rest = content;
        while !rest.is_empty() {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length = number(&rest[..space]).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|l| *l > space + 1 && *l <= rest.len()).ok_or_else(bad)?;
            let record = rest[space + 1..length].strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let whole = |value: &[u8]| {
            let key = String::from_utf8_lossy(key);
            number(value).ok_or_else(|| damaged(format!("a PAX header whose {key} is no number")))
        };
        // Go's own archives say "unset" by an empty value.
        let set = !value.is_empty();
        match key {
            b"path" => self.path = set.then(|| text(value)),
            b"linkpath" => self.link = set.then(|| text(value)),
            b"size" if set => self.size = Some(whole(value)?),
            b"uid" if set => self.uid = Some(whole(value)?),
            b"gid" if set => self.gid = Some(whole(value)?),
            b"mtime" if set => {
                let time = header::time(value);
                self.modified =
                    Some(time.ok_or_else(|| damaged("a PAX header whose mtime is no time"))?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if self.xattrs.len() >= MAX_XATTRS {
                        return Err(damaged(format!(
                            "more than {MAX_XATTRS} extended attributes on one entry"
                        )));
                    }
                    self.xattrs.push((name.to_owned(), value.to_owned()));
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
