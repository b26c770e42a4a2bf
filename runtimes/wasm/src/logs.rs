//! A container's log: what becomes of output before it is in the [file](LogFile).
//!
//! **Nobody waits for the disk** but threads that do nothing else: what is to be written is queued, and a thread that may
//! block writes it, one for each log that has something to say. When the disk stalls, queues fill up, and guests wait as on a
//! full pipe.
//!
//! **A flood harms its own container only.** A guest that writes faster than its [`Budget`] waits,
//! as on a full pipe: nothing is lost. What the host itself writes (backtraces, access logs) has a
//! budget of its own; beyond it, messages are left out and counted, since requests cannot wait for
//! their log.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_sandbox::LogLimit;
use coracle_sandbox::logs::{Lines, LogFile};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

mod budget;

use budget::{Budget, ENTRY};
use tokio::io::AsyncWrite;
use tokio::time::Sleep;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

pub(crate) use coracle_sandbox::logs::Stream;

/// What a guest may write without asking again.
const PERMIT: usize = 64 << 10;
/// Bytes that wait for the disk before guests have to wait too.
const FULL: usize = 256 << 10;
/// Bytes that wait for the disk at most: what guests were permitted before, and what the host says, is beyond [`FULL`].
const MOST_QUEUED: usize = 8 << 20;
/// How often a guest that waits for the disk looks again.
const LOOK: Duration = Duration::from_millis(5);

/// Bytes of all logs that wait for the disk.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of all logs of this process that wait for the disk.
pub(crate) fn queued() -> usize {
    QUEUED.load(Relaxed)
}

/// A container's log.
#[derive(Debug)]
pub(crate) struct Log {
    file: LogFile,
    guest: Budget,
    host: Budget,
    /// Messages of the host's that were left out.
    left_out: AtomicU64,
    queue: Mutex<Queue>,
    me: Weak<Log>,
}

/// What waits for the disk.
#[derive(Debug, Default)]
struct Queue {
    entries: Vec<u8>,
    /// Bytes that are being written.
    leaving: usize,
    /// Somebody writes, and will look again.
    busy: bool,
    /// Somebody went in the middle of a line. Where that was not the last of all, the line ends before what follows.
    unfinished: Option<Stream>,
}

impl Queue {
    fn len(&self) -> usize {
        self.entries.len() + self.leaving
    }
}

impl Log {
    /// The log at `path`; nothing is opened yet. An empty path swallows everything.
    pub(crate) fn new(path: PathBuf, limit: Option<LogLimit>) -> Arc<Log> {
        Arc::new_cyclic(|me| Log {
            me: me.clone(),
            file: LogFile::new(path, limit),
            guest: Budget::default(),
            host: Budget::default(),
            left_out: AtomicU64::new(0),
            queue: Mutex::default(),
        })
    }

    /// Writes a message of the host's, unless there were too many: text of several lines; the last
    /// needs no newline.
    pub(crate) fn write(&self, stream: Stream, text: &str) {
        if self.host.debt().is_some() || self.queue().len() > FULL {
            self.left_out.fetch_add(1, Relaxed);
            return;
        }
        self.write_last(stream, text);
    }

    /// Writes a message of the host's in any case: there are few of its kind.
    pub(crate) fn write_last(&self, stream: Stream, text: &str) {
        let mut lines = Lines::default();
        let left_out = self.left_out.swap(0, Relaxed);
        if left_out > 0 {
            let count = format!("{left_out} messages were left out here: too many at once\n");
            self.append(&lines.push(Stream::Err, count.as_bytes()));
        }
        let end = if text.ends_with('\n') { "" } else { "\n" };
        self.append(&lines.push(stream, format!("{text}{end}").as_bytes()));
        self.host.charge(text.len());
    }

    /// Waits until a guest may write again.
    pub(crate) async fn writable(&self) {
        while let Some(debt) = self.debt() {
            tokio::time::sleep(debt).await;
        }
    }

    /// How long a guest has to wait before it looks again.
    fn debt(&self) -> Option<Duration> {
        self.guest.debt().or_else(|| (self.queue().len() > FULL).then_some(LOOK))
    }

    /// Waits until what was written so far is on the disk, or for so long.
    pub(crate) async fn flush(&self, patience: Duration) {
        let begun = Instant::now();
        while self.queue().len() > 0 && begun.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the file if nothing was written for a while.
    pub(crate) fn close_if_quiet(&self) {
        self.file.close_if_quiet();
    }

    /// Appends entries that are complete, soon.
    fn append(&self, entries: &[u8]) {
        self.enqueue(entries, None);
    }

    fn enqueue(&self, entries: &[u8], unfinished: Option<Stream>) {
        if entries.is_empty() || self.file.is_nowhere() {
            return;
        }
        let mut queue = self.queue();
        if queue.len() + entries.len() > MOST_QUEUED {
            self.left_out.fetch_add(1, Relaxed);
            return;
        }
        let before = queue.entries.len();
        if let Some(stream) = std::mem::replace(&mut queue.unfinished, unfinished) {
            queue.entries.extend(Lines::default().push(stream, b"\n"));
        }
        queue.entries.extend_from_slice(entries);
        QUEUED.fetch_add(queue.entries.len() - before, Relaxed);
        if std::mem::replace(&mut queue.busy, true) {
            return;
        }
        drop(queue);
        match (tokio::runtime::Handle::try_current(), self.me.upgrade()) {
            (Ok(runtime), Some(me)) => drop(runtime.spawn_blocking(move || me.drain())),
            // Where nothing else waits, or the log's last owner goes.
            _ => self.drain(),
        }
    }

    /// Writes what there is, until there is no more.
    fn drain(&self) {
        loop {
            let entries = {
                let mut queue = self.queue();
                let written = std::mem::take(&mut queue.leaving);
                QUEUED.fetch_sub(written, Relaxed);
                if queue.entries.is_empty() {
                    queue.busy = false;
                    return;
                }
                queue.leaving = queue.entries.len();
                std::mem::take(&mut queue.entries)
            };
            self.file.append(&entries);
        }
    }
}

/// An instance's standard output or error. All handles that the guest has on one of them share the
/// beginning of a line.
pub(crate) struct Output {
    shared: Arc<Shared>,
    /// Bytes that the guest may write before it asks again.
    permit: usize,
}

impl Clone for Output {
    fn clone(&self) -> Output {
        Output { shared: self.shared.clone(), permit: 0 }
    }
}

struct Shared {
    log: Arc<Log>,
    stream: Stream,
    lines: Mutex<Lines>,
}

impl Output {
    /// Writes into `log` as `stream`.
    pub(crate) fn new(log: Arc<Log>, stream: Stream) -> Output {
        Output { shared: Arc::new(Shared { log, stream, lines: Mutex::default() }), permit: 0 }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let lines = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.log.enqueue(&lines.finish(self.stream), Some(self.stream));
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.shared.log.writable().await;
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let shared = &self.shared;
        if bytes.len() > self.permit && shared.log.debt().is_some() {
            return Err(StreamError::trap("it wrote more to its log than it had been permitted"));
        }
        self.permit = self.permit.saturating_sub(bytes.len());
        shared.log.guest.charge(bytes.len() + ENTRY);
        let mut lines = shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        shared.log.append(&lines.push(shared.stream, &bytes));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.permit = if self.shared.log.debt().is_some() { 0 } else { PERMIT };
        Ok(self.permit)
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Waiting { output: self.clone(), nap: None })
    }
}

/// The same for guests of WASI 0.3, whose writes wait by themselves.
struct Waiting {
    output: Output,
    nap: Option<Pin<Box<Sleep>>>,
}

impl AsyncWrite for Waiting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        while let Some(debt) = self.output.shared.log.debt() {
            let nap = self.nap.get_or_insert_with(|| Box::pin(tokio::time::sleep(debt)));
            ready!(nap.as_mut().poll(cx));
            self.nap = None;
        }
        let bytes = &bytes[..bytes.len().min(PERMIT)];
        let shared = &self.output.shared;
        shared.log.guest.charge(bytes.len() + ENTRY);
        let mut lines = shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        shared.log.append(&lines.push(shared.stream, bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
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
