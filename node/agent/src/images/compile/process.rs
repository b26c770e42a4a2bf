//! One run of `coracle host compile`: started, bounded, and understood, whatever way it ends.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use coracle_sandbox::beneath::Folder;
use coracle_sandbox::{CompiledImage, Image, Problem, ProblemCode};
use nix::fcntl::AtFlags;
use nix::sys::signal::Signal;
use nix::unistd::{fchownat, getegid, geteuid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::CompileCommand;

/// How the folders begin in which runs leave their results.
pub(super) const FOLDER: &str = ".work-";
/// Bytes of its answer that are read.
const ANSWER: u64 = 4 << 20;
/// Bytes of what it says beside that.
const WORDS: u64 = 64 << 10;
/// After this long it yields to whoever else wants the cores; most are done by then.
const HASTE: Duration = Duration::from_millis(300);

/// What to compile.
pub(super) struct Work {
    /// Unique in this agent.
    pub(super) number: u64,
    pub(super) program: PathBuf,
    pub(super) image: Image,
    pub(super) class: Option<String>,
    pub(super) memory_limit: Option<u64>,
    /// Nobody waits for it.
    pub(super) low: bool,
}

/// Compiles into `dir`. The process writes into a folder of its own, from which only what is expected is taken: it worked on a
/// stranger's file, and `dir` holds everybody's code.
pub(super) async fn run(
    dir: &Path,
    command: &CompileCommand,
    work: Work,
) -> Result<CompiledImage, Problem> {
    let folder = dir.join(format!("{FOLDER}{}-{}", std::process::id(), work.number));
    let broken = |e: std::io::Error| {
        let message = format!("cannot compile in {}: {e}", folder.display());
        Problem::new(ProblemCode::Internal, message)
    };
    tokio::fs::DirBuilder::new().mode(0o700).create(&folder).await.map_err(broken)?;
    if let Some(user) = command.user {
        std::os::unix::fs::lchown(&folder, Some(user), Some(user)).map_err(broken)?;
    }
    let result = match spawn(command, &work, &folder).await {
        Ok(made) => {
            let (dir, folder, work) = (dir.to_owned(), folder.clone(), work.image.digest.clone());
            let user = command.user;
            let taking = move || take(&dir, &folder, &work, made, user);
            let taken = tokio::task::spawn_blocking(taking).await;
            taken.map_err(std::io::Error::other).flatten().map_err(broken).flatten()
        }
        Err(problem) => Err(problem),
    };
    if let Err(error) = tokio::fs::remove_dir_all(&folder).await {
        tracing::warn!(%error, folder = %folder.display(), "not removed");
    }
    result
}

async fn spawn(
    command: &CompileCommand,
    work: &Work,
    folder: &Path,
) -> Result<CompiledImage, Problem> {
    let mut child = Command::new(&work.program);
    child.args(&command.args);
    child.arg("--digest").arg(&work.image.digest).arg("--wasm").arg(&work.image.path);
    child.arg("--out").arg(folder);
    if let Some(user) = command.user {
        child.arg("--user").arg(user.to_string());
    }
    if let Some(class) = &work.class {
        child.arg("--class").arg(class);
    }
    if let Some(limit) = work.memory_limit {
        child.arg("--memory-limit").arg(limit.to_string());
    }
    child.env_clear().kill_on_drop(true);
    // Its input ends when this process does.
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let internal = |e: std::io::Error| {
        let message = format!("cannot run {} to compile: {e}", work.program.display());
        Problem::new(ProblemCode::Internal, message)
    };
    let mut child = child.spawn().map_err(internal)?;
    let size = tokio::fs::metadata(&work.image.path).await.map_or(0, |file| file.len());
    let patience = (command.patience)(size);
    let _input = child.stdin.take();
    let (answer, words) = (child.stdout.take(), child.stderr.take());
    let pid = child.id();
    let ended = async {
        let (answer, words) = tokio::join!(read(answer, ANSWER), read(words, WORDS));
        (answer, words, child.wait().await)
    };
    tokio::pin!(ended);
    let haste = if work.low { Duration::ZERO } else { HASTE };
    let ended = match tokio::time::timeout(haste, &mut ended).await {
        Ok(ended) => Some(ended),
        Err(_) => {
            if let Some(pid) = pid {
                yield_cores(pid, if work.low { 19 } else { 10 });
            }
            tokio::time::timeout(patience, &mut ended).await.ok()
        }
    };
    let seconds = patience.as_secs();
    let Some((answer, words, status)) = ended else {
        // Killed when it is dropped.
        return Err(too_long(seconds));
    };
    let status = status.map_err(internal)?;
    understand(status, &answer, &words, seconds)
}

/// What its end means.
fn understand(
    status: ExitStatus,
    answer: &[u8],
    words: &[u8],
    seconds: u64,
) -> Result<CompiledImage, Problem> {
    let words = String::from_utf8_lossy(words);
    if status.success()
        && let Ok(made) = serde_json::from_slice(answer)
    {
        return Ok(made);
    }
    if status.code().is_some()
        && let Ok(problem) = serde_json::from_slice::<Problem>(answer)
    {
        return Err(problem);
    }
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(match signal {
        Some(Signal::SIGXCPU) => too_long(seconds),
        Some(Signal::SIGABRT) if words.contains("memory allocation") => too_much(),
        // By the kernel, where the machine has no more.
        Some(Signal::SIGKILL) => too_much(),
        _ if words.contains("Cannot allocate memory") => too_much(),
        Some(signal) => {
            let message = format!("compiling it made the compiler fail ({signal}): {last}");
            Problem::new(ProblemCode::NotAComponent, message)
        }
        // A panic, which a file should not be able to cause.
        None if status.code() == Some(101) => {
            let said = words.lines().find(|line| line.contains("panicked")).unwrap_or(last);
            let message = format!("compiling it made the compiler fail: {said}");
            Problem::new(ProblemCode::NotAComponent, message)
        }
        None => {
            let message = format!("the process that compiles ended with {status}: {last}");
            Problem::new(ProblemCode::Internal, message)
        }
    })
}

fn too_long(seconds: u64) -> Problem {
    let message = format!(
        "compiling it takes more than {seconds} seconds of CPU time, the most for an image of its size: split up its largest functions"
    );
    Problem::new(ProblemCode::NoCapacity, message)
}

fn too_much() -> Problem {
    let message = "compiling it takes more memory than an image of its size may use: split up its largest functions";
    Problem::new(ProblemCode::NoCapacity, message)
}

/// Its results, into the folder of all. The process has ended, and nobody else can have changed what it left; but what it left
/// may be anything.
fn take(
    dir: &Path,
    folder: &Path,
    digest: &str,
    made: CompiledImage,
    user: Option<u32>,
) -> std::io::Result<Result<CompiledImage, Problem>> {
    let hex = digest.trim_start_matches("sha256:");
    let expected = |file: &str| {
        let rest = file.strip_prefix(hex).and_then(|rest| rest.strip_suffix(".cwasm"));
        rest.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    };
    if made.digest != digest || !made.code.values().all(|file| expected(file)) {
        let message = "the process that compiles answered for another image";
        return Ok(Err(Problem::new(ProblemCode::Internal, message)));
    }
    let info = format!("{hex}.info");
    let opened = Folder::open(folder)?;
    for file in made.code.values().chain([&info]) {
        let entry = opened.entry(Path::new(file))?;
        let meta = entry.metadata()?;
        // Another name for it could be anywhere.
        let owned = user.is_none_or(|user| meta.uid() == user);
        if !meta.is_file() || meta.nlink() != 1 || !owned {
            let message = "the process that compiles left no code";
            return Ok(Err(Problem::new(ProblemCode::Internal, message)));
        }
        if user.is_some() {
            fchownat(&entry, "", Some(geteuid()), Some(getegid()), AtFlags::AT_EMPTY_PATH)?;
        }
        // Hosts may run as other users.
        let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    }
    // Hosts look for what it is as soon as there is code.
    for file in [&info].into_iter().chain(made.code.values()) {
        std::fs::rename(folder.join(file), dir.join(file))?;
    }
    Ok(Ok(made))
}

async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(mut from) = from {
        // What was read until an error is all that there is.
        let _ = (&mut from).take(most).read_to_end(&mut all).await;
        // The rest, so that it does not wait for a reader.
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    all
}

/// Niceness is a thread's; those to come inherit it.
fn yield_cores(pid: u32, nice: i32) {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for thread in threads.flatten() {
        if let Ok(id) = thread.file_name().to_string_lossy().parse::<u32>() {
            // SAFETY: a system call that touches no memory of ours.
            unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, id, nice) };
        }
    }
}
