//! A container's log: one file in the CRI format, `<RFC3339Nano> stdout|stderr F|P message`.
//!
//! The file is opened when something is written and closed again after a while of silence, so that
//! a quiet container costs nothing. Lines longer than [`MAX_LINE`] are split (`P` marks all parts
//! but the last, and a last line that has no end). A file that has grown to its limit is renamed to `.1`, that to `.2`, and so on;
//! the oldest goes. How fast may be written is for runtimes to decide.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::LogLimit;

/// Longest message of an entry, in bytes: as containerd and CRI-O split lines.
pub const MAX_LINE: usize = 16 << 10;
/// The kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
const LIMIT: LogLimit = LogLimit { bytes: 10 << 20, files: 5 };
/// Readers look for no more rotated files.
const MOST_FILES: u32 = 32;
const QUIET: Duration = Duration::from_secs(5);

/// Which of the two streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// A log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    limit: LogLimit,
    file: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    open: Option<Open>,
    /// When somebody was told last that it cannot be written.
    complained: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    used: Instant,
}

impl LogFile {
    /// The log at `path`; nothing is opened yet. An empty path swallows everything.
    pub fn new(path: PathBuf, limit: Option<LogLimit>) -> LogFile {
        let limit = limit.unwrap_or(LIMIT);
        let limit = LogLimit { bytes: limit.bytes.max(1), files: limit.files.clamp(1, MOST_FILES) };
        LogFile { path, limit, file: Mutex::default() }
    }

    /// Whether everything is swallowed.
    pub fn is_nowhere(&self) -> bool {
        self.path.as_os_str().is_empty()
    }

    /// Closes the file if nothing was written for a while.
    pub fn close_if_quiet(&self) {
        // Whoever has it writes.
        let Ok(mut file) = self.file.try_lock() else { return };
        if file.open.as_ref().is_some_and(|open| open.used.elapsed() > QUIET) {
            file.open = None;
        }
    }

    /// Appends entries that are complete, as long as the disk takes. A log that cannot be written must not stop its workload:
    /// the entries are lost, and the next try opens the file anew.
    pub fn append(&self, entries: &[u8]) {
        if self.is_nowhere() {
            return;
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = entries;
        let result = (|| {
            while !left.is_empty() {
                if file.open.as_ref().is_some_and(|open| open.size >= self.limit.bytes) {
                    file.open = None;
                    rotate(&self.path, self.limit.files)?;
                }
                let open = match &mut file.open {
                    Some(open) => open,
                    none => none.insert(Open::at(&self.path)?),
                };
                // What does not fit goes into the next file, but for the entry that fills this one.
                let room = self.limit.bytes.saturating_sub(open.size) as usize;
                let end = left.iter().skip(room).position(|byte| *byte == b'\n');
                let (now, later) = left.split_at(end.map_or(left.len(), |end| room + end + 1));
                open.file.write_all(now)?;
                open.size += now.len() as u64;
                open.used = Instant::now();
                left = later;
            }
            std::io::Result::Ok(())
        })();
        if let Err(error) = result {
            file.open = None;
            if file.complained.is_none_or(|at| at.elapsed() > QUIET) {
                file.complained = Some(Instant::now());
                tracing::warn!(log = %self.path.display(), %error, "log entries are lost");
            }
        }
    }
}

impl Open {
    fn at(path: &Path) -> std::io::Result<Open> {
        use std::os::unix::fs::OpenOptionsExt;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
        let size = file.metadata()?.len();
        Ok(Open { file, size, used: Instant::now() })
    }
}

fn rotate(path: &Path, files: u32) -> std::io::Result<()> {
    if files == 1 {
        return fs::remove_file(path);
    }
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    for n in (1..files - 1).rev() {
        if numbered(n).exists() {
            fs::rename(numbered(n), numbered(n + 1))?;
        }
    }
    fs::rename(path, numbered(1))
}

/// Makes entries of lines; holds the beginning of a line until its end comes.
#[derive(Default)]
pub struct Lines {
    part: Vec<u8>,
}

impl Lines {
    /// Takes output as it comes; gives the entries that are complete.
    pub fn push(&mut self, stream: Stream, mut bytes: &[u8]) -> Vec<u8> {
        let mut entries = Vec::new();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend(&mut entries, stream, &bytes[..end]);
            entry(&mut entries, stream, b'F', &self.part);
            self.part.clear();
            bytes = &bytes[end + 1..];
        }
        self.extend(&mut entries, stream, bytes);
        entries
    }

    /// The entry of a last line that has no end, if there is one: a part, so that readers add none.
    pub fn finish(&mut self, stream: Stream) -> Vec<u8> {
        let mut entries = Vec::new();
        if !self.part.is_empty() {
            entry(&mut entries, stream, b'P', &self.part);
            self.part.clear();
        }
        entries
    }

    fn extend(&mut self, entries: &mut Vec<u8>, stream: Stream, mut bytes: &[u8]) {
        while self.part.len() + bytes.len() > MAX_LINE {
            let (now, later) = bytes.split_at(MAX_LINE - self.part.len());
            self.part.extend_from_slice(now);
            entry(entries, stream, b'P', &self.part);
            self.part.clear();
            bytes = later;
        }
        self.part.extend_from_slice(bytes);
    }
}

fn entry(entries: &mut Vec<u8>, stream: Stream, tag: u8, message: &[u8]) {
    let stream = match stream {
        Stream::Out => "stdout",
        Stream::Err => "stderr",
    };
    // Writing to a Vec cannot fail.
    let _ = write!(entries, "{:.9} {stream} {} ", jiff::Timestamp::now(), tag as char);
    entries.extend_from_slice(message);
    entries.push(b'\n');
}

#[cfg(test)]
mod tests;
