//! Blobs on their way into the store: hashed as they arrive, gone on with where a connection broke.
//!
//! What has arrived stays in the store's `parts`, through failures and restarts of the agent, and the next attempt asks for
//! the rest. A blob that several images want at once is fetched once. Attempts are bounded by progress, not by time: a
//! large image over a bad line arrives, a registry that sends next to nothing does not hold a slot.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use super::hex;
use super::manifest::Descriptor;
use super::registry::{RegistryError, Session};
use super::store::{Store, private};

/// Blobs fetched at once on this node.
const SLOTS: usize = 16;
/// Attempts without progress before a blob is given up.
const TRIES: u32 = 5;
/// Attempts altogether.
const MAX_TRIES: u32 = 200;
/// Bytes that count as progress, and that must come within [`WINDOW`].
const PROGRESS: u64 = 64 << 10;
/// See [`PROGRESS`].
const WINDOW: Duration = Duration::from_secs(60);
/// First pause between attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a long fetch is told of in the log.
const REPORT: Duration = Duration::from_secs(10);

/// Why a blob is not here.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It sent something else.
    #[error("{digest} does not match what the registry sent ({found})")]
    Digest {
        /// As it should be.
        digest: String,
        /// As it is.
        found: String,
    },
    /// This disk.
    #[error("{path}: {source}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl FetchError {
    /// Whether it is for want of room on the node's disk.
    pub(super) fn is_full_disk(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if is_full(source))
    }
}

/// Whether there is no room, or none for this user.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Fetches blobs; one per node.
pub(super) struct Fetcher {
    store: Store,
    slots: Semaphore,
    flights: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

enum Attempt {
    Whole,
    /// The connection broke when this many bytes of the blob were here.
    Broken(u64, String),
    /// All came, and it is something else; whether some of it was there before.
    Other(String, bool),
}

impl Fetcher {
    /// Into `store`.
    pub(super) fn new(store: Store) -> Self {
        Self { store, slots: Semaphore::new(SLOTS), flights: Mutex::default() }
    }

    /// Makes sure that a blob is in the store.
    pub(super) async fn fetch(
        &self,
        session: &Session,
        blob: &Descriptor,
    ) -> Result<(), FetchError> {
        let there = || async { tokio::fs::try_exists(self.store.blob(&blob.digest)).await };
        if there().await.unwrap_or(false) {
            return Ok(());
        }
        let flight = self.flight(&blob.digest);
        let _alone = flight.lock().await;
        if there().await.unwrap_or(false) {
            return Ok(());
        }
        // Never closed.
        let _slot = self.slots.acquire().await;
        let (mut idle, mut furthest) = (0, 0);
        let mut spoiled = false;
        for _ in 0..MAX_TRIES {
            match self.attempt(session, blob).await {
                Ok(Attempt::Whole) => return Ok(()),
                // What was here before may have been damaged, by a crash of the machine for instance: once more, anew.
                Ok(Attempt::Other(_, true)) if !spoiled => spoiled = true,
                Ok(Attempt::Other(found, _)) => {
                    return Err(FetchError::Digest { digest: blob.digest.clone(), found });
                }
                Ok(Attempt::Broken(bytes, why)) => {
                    // A registry without ranges that breaks off at the same place each time makes none.
                    if bytes >= furthest + PROGRESS {
                        (idle, furthest) = (0, bytes);
                    } else {
                        idle += 1;
                    }
                    if idle >= TRIES {
                        return Err(RegistryError::Unreachable(why).into());
                    }
                    tracing::debug!(blob = blob.digest, why, bytes, "fetch broke off, going on");
                }
                Err(FetchError::Registry(RegistryError::Unreachable(why))) => {
                    idle += 1;
                    if idle >= TRIES {
                        return Err(RegistryError::Unreachable(why).into());
                    }
                }
                Err(error) => {
                    // A part for whose rest there is no room would only keep the room from others.
                    if error.is_full_disk() {
                        let _ = tokio::fs::remove_file(self.store.part(&blob.digest)).await;
                    }
                    return Err(error);
                }
            }
            tokio::time::sleep(PAUSE * 2_u32.pow(idle)).await;
        }
        let why = format!("{} broke off {MAX_TRIES} times", blob.digest);
        Err(RegistryError::Unreachable(why).into())
    }

    fn flight(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(digest).and_then(Weak::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(tokio::sync::Mutex::new(()));
        flights.insert(digest.to_owned(), Arc::downgrade(&flight));
        flight
    }

    async fn attempt(&self, session: &Session, blob: &Descriptor) -> Result<Attempt, FetchError> {
        let path = self.store.part(&blob.digest);
        let disk = |source| FetchError::Disk { path: path.clone(), source };
        let (had, mut hash) = {
            let (path, size) = (path.clone(), blob.size);
            blocking(move || begun(&path, size)).await.map_err(disk)?
        };
        let options = tokio::fs::OpenOptions::from(private());
        let mut file =
            options.clone().create(true).truncate(false).open(&path).await.map_err(disk)?;
        let mut size = had;
        let mut resumed = had > 0;
        let mut broken = None;
        if had < blob.size || had == 0 {
            let mut answer = session.blob(&blob.digest, had).await?;
            if answer.offset != had {
                (size, hash, resumed) = (0, Sha256::new(), false);
            }
            file.set_len(size).await.map_err(disk)?;
            file.seek(std::io::SeekFrom::Start(size)).await.map_err(disk)?;
            let (mut reported, mut window) = (Instant::now(), (Instant::now(), size));
            loop {
                let piece = match answer.next().await {
                    Ok(Some(piece)) => piece,
                    Ok(None) => break,
                    Err(why) => {
                        broken = Some(why);
                        break;
                    }
                };
                if size + piece.len() as u64 > blob.size {
                    drop(file);
                    tokio::fs::remove_file(&path).await.map_err(disk)?;
                    let why = format!(
                        "{} is longer than the {} bytes that its manifest says",
                        blob.digest, blob.size
                    );
                    return Err(RegistryError::Refused(why).into());
                }
                file.write_all(&piece).await.map_err(disk)?;
                hash.update(&piece);
                size += piece.len() as u64;
                if window.0.elapsed() >= WINDOW {
                    if size - window.1 < PROGRESS && size < blob.size {
                        broken = Some(format!("only {} bytes came in {WINDOW:?}", size - window.1));
                        break;
                    }
                    window = (Instant::now(), size);
                }
                if reported.elapsed() >= REPORT {
                    reported = Instant::now();
                    tracing::info!(
                        blob = blob.digest,
                        bytes = size,
                        of = blob.size,
                        "still fetching"
                    );
                }
            }
            file.flush().await.map_err(disk)?;
        }
        if size < blob.size {
            let why = broken.unwrap_or_else(|| {
                format!("{} ended after {size} of {} bytes", blob.digest, blob.size)
            });
            return Ok(Attempt::Broken(size, why));
        }
        let found = format!("sha256:{}", hex(&hash.finalize()));
        if found != blob.digest {
            drop(file);
            tokio::fs::remove_file(&path).await.map_err(disk)?;
            return Ok(Attempt::Other(found, resumed));
        }
        file.sync_all().await.map_err(disk)?;
        tokio::fs::rename(&path, self.store.blob(&blob.digest)).await.map_err(disk)?;
        Ok(Attempt::Whole)
    }
}

/// How much of a blob is here from an earlier attempt, and its hash so far.
fn begun(path: &std::path::Path, size: u64) -> std::io::Result<(u64, Sha256)> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((0, Sha256::new()));
        }
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > size {
        return Ok((0, Sha256::new()));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut had = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((had, hash)),
            count => {
                hash.update(&buffer[..count]);
                had += count as u64;
            }
        }
    }
}

/// Runs `work`, which does file I/O, where it may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
