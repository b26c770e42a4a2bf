//! Blobs that are still arriving.
//!
//! An upload belongs to this process: its hash is kept in memory beside the file, so that finishing it reads nothing
//! again. One request at a time writes to it. Its file goes away with it, unless it was kept.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::time::Instant;
use uuid::Uuid;

use super::disk::{self, Disk};
use super::error::{Code, Refusal};
use super::names::{Digest, Name};

/// Uploads at one time.
const MAX_UPLOADS: usize = 256;
/// Bytes of one blob.
const MAX_BLOB: u64 = 16 << 30;
/// How long an upload may rest.
const REST: Duration = Duration::from_secs(3600);
/// Bytes gathered before a write.
const BUFFER: usize = 256 << 10;

/// All uploads; clones share them.
#[derive(Clone)]
pub(super) struct Uploads {
    disk: Arc<Disk>,
    open: Arc<Mutex<HashMap<Uuid, Arc<Upload>>>>,
}

/// One upload.
pub(super) struct Upload {
    pub(super) id: Uuid,
    name: Name,
    partial: Arc<tokio::sync::Mutex<Partial>>,
}

/// What has arrived of a blob.
pub(super) struct Partial {
    path: PathBuf,
    file: tokio::fs::File,
    hash: Sha256,
    size: u64,
    touched: Arc<Touched>,
    /// A write failed: file and hash no longer agree.
    broken: bool,
}

/// When something arrived last. Beside the upload's own lock, which whoever finds it taken takes for another's request.
struct Touched(Mutex<Instant>);

impl Touched {
    fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Uploads {
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        Self { disk, open: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Upload>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an upload into repository `name`.
    pub(super) fn start(&self, name: Name) -> Result<Arc<Upload>, Refusal> {
        let mut open = self.lock();
        if open.len() >= MAX_UPLOADS {
            let message = format!("{MAX_UPLOADS} uploads are in progress already: try again later");
            return Err(Refusal::new(Code::TooManyRequests, message));
        }
        let path = self.disk.unnamed();
        let file = disk::private()
            .open(&path)
            .map_err(|error| Refusal::disk("starting an upload", &error))?;
        let touched = Arc::new(Touched(Mutex::new(Instant::now())));
        let partial = Partial {
            path,
            file: tokio::fs::File::from_std(file),
            hash: Sha256::new(),
            size: 0,
            touched: touched.clone(),
            broken: false,
        };
        let partial = Arc::new(tokio::sync::Mutex::new(partial));
        let upload = Arc::new(Upload { id: Uuid::new_v4(), name, partial });
        open.insert(upload.id, upload.clone());
        tokio::spawn(expire(self.clone(), upload.id, Arc::downgrade(&touched)));
        Ok(upload)
    }

    /// The upload of this id, if it goes to `name`.
    pub(super) fn get(&self, name: &Name, id: &str) -> Result<Arc<Upload>, Refusal> {
        let found = Uuid::parse_str(id).ok().and_then(|id| self.lock().get(&id).cloned());
        found.filter(|upload| upload.name == *name).ok_or_else(|| {
            let message = format!("there is no upload {id:?} to {name}: start again");
            Refusal::new(Code::BlobUploadUnknown, message)
        })
    }

    /// Forgets an upload; its file goes with the last use of it.
    pub(super) fn forget(&self, id: &Uuid) {
        self.lock().remove(id);
    }
}

/// Forgets an upload that has rested too long.
async fn expire(uploads: Uploads, id: Uuid, touched: Weak<Touched>) {
    loop {
        let Some(due) = touched.upgrade().map(|touched| touched.at() + REST) else { return };
        if due <= Instant::now() {
            return uploads.forget(&id);
        }
        tokio::time::sleep_until(due).await;
    }
}

/// Where a piece belongs, as its request says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Piece {
    /// The offset of its first byte.
    pub(super) start: Option<u64>,
    /// Its length.
    pub(super) length: Option<u64>,
}

type Writing = tokio::sync::OwnedMutexGuard<Partial>;

impl Upload {
    /// Bytes that have arrived.
    pub(super) fn size(&self) -> Result<u64, Refusal> {
        self.write().map(|partial| partial.size)
    }

    fn write(&self) -> Result<Writing, Refusal> {
        let partial = self.partial.clone().try_lock_owned();
        let partial = partial.map_err(|_| {
            let message = "another request is writing to this upload: wait for it";
            Refusal::new(Code::BlobUploadInvalid, message).status(StatusCode::CONFLICT)
        })?;
        match partial.broken {
            true => Err(Refusal::new(Code::BlobUploadInvalid, "this upload failed: start again")),
            false => Ok(partial),
        }
    }

    /// Appends a piece; returns how much there is now. What arrived before a connection broke is kept.
    pub(super) async fn append(&self, piece: Piece, body: Body) -> Result<u64, Refusal> {
        let mut partial = self.write()?;
        detached(async move {
            partial.append(piece, body).await?;
            Ok(partial.size)
        })
        .await
    }

    /// Appends the last piece and keeps the blob, if it has the digest that was announced.
    pub(super) async fn finish(
        &self,
        disk: Arc<Disk>,
        digest: Digest,
        piece: Piece,
        body: Body,
    ) -> Result<(), Refusal> {
        let mut partial = self.write()?;
        let name = self.name.clone();
        detached(async move {
            partial.append(piece, body).await?;
            // Whatever comes of it, nothing can be appended any more.
            partial.broken = true;
            let actual = Digest::of_hash(std::mem::take(&mut partial.hash));
            if actual != digest {
                let message = format!("the content has digest {actual}, not {digest}");
                return Err(Refusal::new(Code::DigestInvalid, message));
            }
            let stored = partial.file.sync_all().await;
            stored.map_err(|error| Refusal::disk("storing a blob", &error))?;
            let kept = move || disk.keep_blob(&name, &digest, &partial.path);
            match tokio::task::spawn_blocking(kept).await {
                Ok(kept) => kept,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        })
        .await
    }
}

/// Runs `work` to its end even if the request goes away: a write half done would part the file from its hash.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

impl Partial {
    async fn append(&mut self, piece: Piece, body: Body) -> Result<(), Refusal> {
        if piece.start.is_some_and(|start| start != self.size) {
            let message = format!("the next piece must start at byte {}", self.size);
            return Err(Refusal::new(Code::BlobUploadInvalid, message)
                .status(StatusCode::RANGE_NOT_SATISFIABLE));
        }
        let start = self.size;
        self.receive(piece, body).await?;
        match piece.length {
            Some(length) if length != self.size - start => {
                self.broken = true;
                let message = format!("{} bytes came, {length} were announced", self.size - start);
                Err(Refusal::new(Code::SizeInvalid, message))
            }
            _ => Ok(()),
        }
    }

    async fn receive(&mut self, piece: Piece, body: Body) -> Result<(), Refusal> {
        let most = piece.length.map_or(MAX_BLOB, |length| MAX_BLOB.min(self.size + length));
        let mut out = BufWriter::with_capacity(BUFFER, &mut self.file);
        let mut frames = body.into_data_stream();
        let mut ended = Ok(());
        let mut written = Ok(());
        while let Some(frame) = frames.next().await {
            self.touched.touch();
            let chunk = match frame {
                Ok(chunk) => chunk,
                Err(error) => {
                    let message = format!("the content broke off: {error}");
                    ended = Err(Refusal::new(Code::BlobUploadInvalid, message));
                    break;
                }
            };
            if self.size + chunk.len() as u64 > most {
                self.broken = true;
                let message = format!("more than the {most} bytes that were announced or allowed");
                return Err(
                    Refusal::new(Code::SizeInvalid, message).status(StatusCode::PAYLOAD_TOO_LARGE)
                );
            }
            written = out.write_all(&chunk).await;
            if written.is_err() {
                break;
            }
            self.hash.update(&chunk);
            self.size += chunk.len() as u64;
        }
        if written.is_ok() {
            written = out.flush().await;
        }
        written.map_err(|error| {
            self.broken = true;
            Refusal::disk("storing a blob", &error)
        })?;
        ended
    }
}
