//! The access log: a line of JSON for each request to an Ingress that asks for it.
//!
//! Requests do not wait for the disk: lines go to a thread, and are dropped and counted where it cannot keep up.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

/// Lines that wait to be written.
const QUEUE: usize = 8192;
/// Size from which a file is put aside as `access.log.1`, in place of the one before.
const MOST_BYTES: u64 = 64 << 20;
/// How long a written line may stay in memory.
const FLUSH: Duration = Duration::from_millis(200);

/// What a line says.
#[derive(Serialize)]
pub(crate) struct Line {
    /// When the request's head had come.
    pub(crate) time: Timestamp,
    /// The client's address, or what a trusted proxy says of it.
    pub(crate) remote: String,
    pub(crate) ingress: Arc<str>,
    pub(crate) backend: String,
    /// Who answered, if anybody did.
    pub(crate) endpoint: Option<std::net::SocketAddr>,
    pub(crate) method: String,
    pub(crate) scheme: &'static str,
    pub(crate) host: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) protocol: String,
    pub(crate) status: u16,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) duration_ms: f64,
    /// The answer was broken off.
    pub(crate) broken: bool,
    pub(crate) user_agent: Option<String>,
}

/// Where lines go; cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessLog {
    lines: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the log in a folder, with a thread that writes.
    pub(crate) fn open(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join("access.log");
        let file = open(&path)?;
        let (lines, receiver) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let told = lost.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .stack_size(128 << 10)
            .spawn(move || write(path, file, receiver, &told))?;
        Ok(Self { lines, lost })
    }

    pub(crate) fn write(&self, line: Line) {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn write(path: PathBuf, file: File, lines: Receiver<Line>, lost: &AtomicU64) {
    let mut size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut file = BufWriter::new(file);
    let (mut told, mut unwritten) = (0, false);
    loop {
        // Nobody is woken while nothing happens.
        let next = match unwritten {
            true => lines.recv_timeout(FLUSH),
            false => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(line) => {
                unwritten = true;
                let mut text = serde_json::to_vec(&line).unwrap_or_default();
                text.push(b'\n');
                size += text.len() as u64;
                // A disk that is full is no reason to serve nobody.
                let _ = file.write_all(&text);
            }
            Err(RecvTimeoutError::Timeout) => {
                unwritten = false;
                let _ = file.flush();
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if size > MOST_BYTES {
            let _ = file.flush();
            let _ = std::fs::rename(&path, path.with_extension("log.1"));
            if let Ok(fresh) = open(&path) {
                (file, size) = (BufWriter::new(fresh), 0);
            }
        }
        let now = lost.load(Relaxed);
        if now != told {
            tracing::warn!(lines = now - told, "the access log could not keep up");
            told = now;
        }
    }
}
