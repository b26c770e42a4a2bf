//! A container's log: one file in the CRI format, `<RFC3339Nano> stdout|stderr F|P message`.
//!
//! The file is opened when something is written and closed again after a while of silence, so that
//! a quiet container costs nothing. Lines longer than [`MAX_LINE`] are split (`P` marks all parts
//! but the last). A file over [`ROTATE_AT`] is renamed to `.1`, that to `.2`, and so on.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// As containerd and CRI-O split lines.
const MAX_LINE: usize = 16 << 10;
const ROTATE_AT: u64 = 10 << 20;
const KEEP: u32 = 5;
const QUIET: Duration = Duration::from_secs(5);

/// Which of the two streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// A log file.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    used: Instant,
}

impl Log {
    /// The log at `path`; nothing is opened yet. An empty path swallows everything.
    pub(crate) fn new(path: PathBuf) -> Arc<Log> {
        Arc::new(Log { path, open: Mutex::new(None) })
    }

    /// Writes text of several lines; the last needs no newline.
    pub(crate) fn write(&self, stream: Stream, text: &str) {
        let mut lines = Lines::default();
        lines.push(self, stream, text.as_bytes());
        lines.finish(self, stream);
    }

    /// Closes the file if nothing was written for a while.
    pub(crate) fn close_if_quiet(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|open| open.used.elapsed() > QUIET) {
            *open = None;
        }
    }

    /// Appends entries that are complete. A log that cannot be written must not stop its workload:
    /// the entries are lost, and the next try opens the file anew.
    fn append(&self, entries: &[u8]) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        let mut guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let result = (|| {
            if guard.as_ref().is_some_and(|open| open.size >= ROTATE_AT) {
                *guard = None;
                rotate(&self.path)?;
            }
            let open = match &mut *guard {
                Some(open) => open,
                none => none.insert(Open::at(&self.path)?),
            };
            open.file.write_all(entries)?;
            open.size += entries.len() as u64;
            open.used = Instant::now();
            std::io::Result::Ok(())
        })();
        if let Err(error) = result {
            tracing::warn!(log = %self.path.display(), %error, "log entries are lost");
            *guard = None;
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

fn rotate(path: &Path) -> std::io::Result<()> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    for n in (1..KEEP - 1).rev() {
        if numbered(n).exists() {
            fs::rename(numbered(n), numbered(n + 1))?;
        }
    }
    fs::rename(path, numbered(1))
}

/// Makes entries of lines; holds the beginning of a line until its end comes.
#[derive(Default)]
pub(crate) struct Lines {
    part: Vec<u8>,
}

impl Lines {
    /// Takes output as it comes.
    pub(crate) fn push(&mut self, log: &Log, stream: Stream, mut bytes: &[u8]) {
        let mut entries = Vec::new();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend(&mut entries, stream, &bytes[..end]);
            entry(&mut entries, stream, b'F', &self.part);
            self.part.clear();
            bytes = &bytes[end + 1..];
        }
        self.extend(&mut entries, stream, bytes);
        if !entries.is_empty() {
            log.append(&entries);
        }
    }

    /// Writes a last line that had no end.
    pub(crate) fn finish(&mut self, log: &Log, stream: Stream) {
        if !self.part.is_empty() {
            let mut entries = Vec::new();
            entry(&mut entries, stream, b'F', &self.part);
            self.part.clear();
            log.append(&entries);
        }
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

/// An instance's standard output or error. All handles that the guest has on one of them share the
/// beginning of a line.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

struct Shared {
    log: Arc<Log>,
    stream: Stream,
    lines: Mutex<Lines>,
}

impl Output {
    /// Writes into `log` as `stream`.
    pub(crate) fn new(log: Arc<Log>, stream: Stream) -> Output {
        Output(Arc::new(Shared { log, stream, lines: Mutex::default() }))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.lines.get_mut().unwrap_or_else(PoisonError::into_inner).finish(&self.log, self.stream);
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let shared = &self.0;
        let mut lines = shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(&shared.log, shared.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

/// A failure as a guest's author wants to read it: the guest's own backtrace and what caused it, and nothing of the
/// host's.
pub(crate) fn failure(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join("\n")
}

#[cfg(test)]
mod tests;
