//! Compiled code on this node: made once for an image, by a process of its own, and shared by all hosts.
//!
//! ```text
//! DIR/<hex>-<class>-<hash>.cwasm   native code, mapped by hosts
//! DIR/<hex>.info                   what the image is, for hosts
//! DIR/<hex>.json                   the agent's record of both
//! ```
//!
//! Where an image is known its record is in memory: nothing is asked of disk or process when a Pod starts. A record is written
//! when the code is safely on disk; code without one, after a crash, is made anew. Code of another engine (the binary was
//! upgraded) counts for nothing, and is made anew in the background by [`Compiler::renew`].

mod process;
mod renewal;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_sandbox::{CompiledImage, Image, Problem, ProblemCode};
use tokio::sync::Semaphore;

use self::process::Work;
pub use self::renewal::Foreign;

/// Refusals that are remembered, so that a Pod which is tried again and again costs no compiling.
const REFUSALS: usize = 1024;
/// How long a refusal is remembered that may be the machine's fault: too little time or memory.
const RECONSIDER: Duration = Duration::from_secs(600);

/// How images are compiled.
#[derive(Debug, Clone)]
pub struct CompileCommand {
    /// The program: the agent's own.
    pub program: PathBuf,
    /// Its arguments, before those that say what to compile.
    pub args: Vec<OsString>,
    /// Number of the user, and of its group, that the process becomes; none: it stays who starts it.
    pub user: Option<u32>,
    /// By class of guests, how code that hosts of this program can use is called.
    pub names: BTreeMap<String, String>,
    /// How long compiling an image of so many bytes may take.
    pub patience: fn(u64) -> Duration,
}

/// What compiling an image gave.
#[derive(Debug, Clone)]
pub struct Ready {
    /// What the image is.
    pub image: Arc<CompiledImage>,
    /// How long it took; None if it had been compiled before.
    pub took: Option<Duration>,
}

/// The node's compiled code; cheap to clone.
#[derive(Clone)]
pub struct Compiler {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    command: CompileCommand,
    known: Mutex<HashMap<String, Arc<CompiledImage>>>,
    /// Records whose code is of no use to this program.
    stale: Mutex<Vec<CompiledImage>>,
    refused: Mutex<HashMap<String, (Problem, Instant)>>,
    running: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Compiling uses every core there is; more at once would only share them.
    permits: Semaphore,
    counter: AtomicU64,
}

impl Compiler {
    /// The code in `dir`, which exists.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(dir: PathBuf, command: CompileCommand) -> std::io::Result<Self> {
        // Hosts of other users find what they know the digest of.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o711))?;
        let (mut known, mut stale) = (HashMap::new(), Vec::new());
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(process::FOLDER) {
                // An agent died while it compiled.
                let _ = std::fs::remove_dir_all(&path);
            } else if name.ends_with(".json")
                && let Some(record) = read_record(&path)
            {
                match usable(&record, &dir, &command.names) {
                    Some(record) => drop(known.insert(record.digest.clone(), Arc::new(record))),
                    None => stale.push(record),
                }
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let inner = Inner {
            dir,
            command,
            known: Mutex::new(known),
            stale: Mutex::new(stale),
            refused: Mutex::default(),
            running: Mutex::default(),
            permits: Semaphore::new(cores),
            counter: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is known of an image that was compiled.
    pub fn known(&self, digest: &str) -> Option<Arc<CompiledImage>> {
        lock(&self.inner.known).get(digest).cloned()
    }

    /// Makes sure that there is code of an image, for a container with this memory limit if it has to be made.
    ///
    /// # Errors
    /// What is wrong with the image, without its name; the same answer is given without compiling again.
    pub async fn ensure(&self, image: &Image, memory_limit: Option<u64>) -> Result<Ready, Problem> {
        if let Some(image) = self.known(&image.digest) {
            return Ok(Ready { image, took: None });
        }
        self.once(image, None, || self.known(&image.digest), |work| Work { memory_limit, ..work })
            .await
    }

    /// Makes code that a host asked for ([`ProblemCode::NotCompiled`]), though there may be some. `foreign` is the host's
    /// program, where that is not this one: then what it can use is not what this one makes, nor what this one knows of.
    ///
    /// # Errors
    /// As [`Compiler::ensure`].
    pub async fn again(
        &self,
        image: &Image,
        class: Option<&str>,
        foreign: Option<Foreign>,
    ) -> Result<Ready, Problem> {
        let before = self.known(&image.digest);
        // Whoever waited meanwhile for the same finds it made.
        let made = || {
            if let Some(foreign) = &foreign {
                return foreign.made(&self.inner.dir, image, class);
            }
            let now = self.known(&image.digest)?;
            let newer = before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &now));
            (newer && class.is_none_or(|class| now.code.contains_key(class))).then_some(now)
        };
        let program = foreign.as_ref().map(|foreign| foreign.program.clone());
        let class = class.map(str::to_owned);
        self.once(image, program, made, |work| Work { class, ..work }).await
    }

    /// Removes the code of an image that was removed. Hosts that run it keep what they have mapped.
    pub fn forget(&self, digest: &str) {
        lock(&self.inner.known).remove(digest);
        lock(&self.inner.stale).retain(|record| record.digest != digest);
        lock(&self.inner.refused).remove(digest);
        let hex = digest.trim_start_matches("sha256:").to_owned();
        let dir = self.inner.dir.clone();
        tokio::task::spawn_blocking(move || remove_files(&dir, |name| name.starts_with(&hex)));
    }

    /// Bytes of compiled code, by digest: what [`Compiler::forget`] gives back.
    pub fn sizes(&self) -> HashMap<String, u64> {
        lock(&self.inner.known)
            .iter()
            .map(|(digest, image)| (digest.clone(), image.bytes))
            .collect()
    }

    /// Makes code anew that another program's engine had, one image at a time and at low priority, those first that
    /// `in_use` names. `file` finds an image's file; the code of images that are gone is removed.
    pub async fn renew(&self, in_use: &[String], file: impl Fn(&str) -> Option<Image>) {
        let mut stale = lock(&self.inner.stale).clone();
        stale.sort_by_key(|record| !in_use.contains(&record.digest));
        for record in stale {
            let Some(image) = file(&record.digest) else {
                self.forget(&record.digest);
                continue;
            };
            let classes: Vec<String> = record.code.keys().cloned().collect();
            for class in classes {
                let done = || self.known(&image.digest).filter(|now| now.code.contains_key(&class));
                let work = |work| Work { class: Some(class.clone()), low: true, ..work };
                if let Err(problem) = self.once(&image, None, done, work).await {
                    tracing::warn!(digest = image.digest, %problem, "not compiled anew");
                }
            }
            lock(&self.inner.stale).retain(|other| other.digest != image.digest);
        }
    }

    /// Removes code that no host can use any more: that of other programs. To be called when no such host runs.
    pub async fn remove_dead(&self) {
        let names: Vec<String> =
            self.inner.command.names.values().map(|name| format!("-{name}.cwasm")).collect();
        let dir = self.inner.dir.clone();
        let removing = tokio::task::spawn_blocking(move || {
            remove_files(&dir, |name| {
                name.ends_with(".cwasm") && !names.iter().any(|usable| name.ends_with(usable))
            });
        });
        let _ = removing.await;
    }

    /// Compiles unless `done`, one at a time for an image.
    async fn once(
        &self,
        image: &Image,
        program: Option<PathBuf>,
        done: impl Fn() -> Option<Arc<CompiledImage>>,
        change: impl FnOnce(Work) -> Work,
    ) -> Result<Ready, Problem> {
        let inner = &self.inner;
        let one = lock(&inner.running).entry(image.digest.clone()).or_default().clone();
        let alone = one.lock().await;
        let result = async {
            if let Some(image) = done() {
                return Ok(Ready { image, took: None });
            }
            if let Some(problem) = self.refusal(&image.digest) {
                return Err(problem);
            }
            let _permit = inner.permits.acquire().await;
            let foreign = program.is_some();
            let started = Instant::now();
            let work = change(Work {
                number: inner.counter.fetch_add(1, Relaxed),
                program: program.unwrap_or_else(|| inner.command.program.clone()),
                image: image.clone(),
                class: None,
                memory_limit: None,
                low: false,
            });
            let made = process::run(&inner.dir, &inner.command, work).await;
            match made {
                Ok(made) => {
                    // What only an older program's hosts can use is not remembered: it would stand in the way of our own.
                    let image = if foreign { Arc::new(made) } else { self.keep(made) };
                    Ok(Ready { image, took: Some(started.elapsed()) })
                }
                Err(problem) => {
                    self.refuse(&image.digest, &problem);
                    Err(problem)
                }
            }
        }
        .await;
        drop(alone);
        let mut running = lock(&inner.running);
        // The table's and this one: nobody waits, and nobody can come while the table is locked.
        if Arc::strong_count(&one) == 2 {
            running.remove(&image.digest);
        }
        drop(running);
        result
    }

    /// Remembers what was made, and writes its record when the code is on disk.
    fn keep(&self, made: CompiledImage) -> Arc<CompiledImage> {
        let mut known = lock(&self.inner.known);
        let mut record = made.clone();
        if let Some(before) = known.get(&made.digest) {
            record.code.extend(
                before.code.clone().into_iter().filter(|(class, _)| !made.code.contains_key(class)),
            );
            record.bytes += before.bytes;
        }
        let record = Arc::new(record);
        known.insert(made.digest.clone(), record.clone());
        drop(known);
        let (inner, written) = (self.inner.clone(), record.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = write_record(&inner.dir, &written, &made) {
                tracing::warn!(%error, digest = written.digest, "compiled code will not be found by the next agent");
            }
            // Forgotten meanwhile: nobody else removes what came after.
            if !lock(&inner.known).contains_key(&written.digest) {
                let hex = written.digest.trim_start_matches("sha256:");
                remove_files(&inner.dir, |name| name.starts_with(hex));
            }
        });
        record
    }

    fn refusal(&self, digest: &str) -> Option<Problem> {
        let mut refused = lock(&self.inner.refused);
        let (problem, at) = refused.get(digest)?;
        if problem.code == ProblemCode::NoCapacity && at.elapsed() > RECONSIDER {
            refused.remove(digest);
            return None;
        }
        Some(problem.clone())
    }

    /// A digest stands for one content, which will not become better.
    fn refuse(&self, digest: &str, problem: &Problem) {
        let final_ = matches!(
            problem.code,
            ProblemCode::NotAComponent
                | ProblemCode::MissingExport
                | ProblemCode::UnknownImport
                | ProblemCode::NoCapacity
        );
        let mut refused = lock(&self.inner.refused);
        if final_ && (refused.len() < REFUSALS || refused.contains_key(digest)) {
            refused.insert(digest.to_owned(), (problem.clone(), Instant::now()));
        } else if final_ {
            refused.clear();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_record(path: &Path) -> Option<CompiledImage> {
    let record: CompiledImage = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let named = path.file_stem()?.to_string_lossy() == record.digest.trim_start_matches("sha256:");
    named.then_some(record)
}

/// The record with the code that this program's hosts can use; None if there is none.
fn usable(
    record: &CompiledImage,
    dir: &Path,
    names: &BTreeMap<String, String>,
) -> Option<CompiledImage> {
    let hex = record.digest.trim_start_matches("sha256:");
    let mut record = record.clone();
    record.code.retain(|class, file| {
        let current = names.get(class).map(|name| format!("{hex}-{name}.cwasm"));
        current.as_ref() == Some(file) && dir.join(file).is_file()
    });
    (!record.code.is_empty()).then_some(record)
}

fn write_record(dir: &Path, record: &CompiledImage, made: &CompiledImage) -> std::io::Result<()> {
    use std::io::Write;
    let info = format!("{}.info", made.digest.trim_start_matches("sha256:"));
    for file in made.code.values().chain([&info]) {
        std::fs::File::open(dir.join(file))?.sync_data()?;
    }
    std::fs::File::open(dir)?.sync_all()?;
    let hex = record.digest.trim_start_matches("sha256:");
    let path = dir.join(format!("{hex}.json"));
    let fresh = dir.join(format!("{hex}.json.{:?}.tmp", std::thread::current().id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_data()?;
    std::fs::rename(&fresh, &path)
}

fn remove_files(dir: &Path, which: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if which(&entry.file_name().to_string_lossy())
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(%error, file = %entry.path().display(), "compiled code not removed");
        }
    }
}

#[cfg(test)]
mod tests;
