//! One run of `coracle host unpack`: started, bounded, and understood, whatever way it ends.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::{Fault, Job, Refusal, Unpacked};

/// Bytes of its answer that are read.
const ANSWER: u64 = 16 << 20;
/// Bytes of what it says beside that.
const WORDS: u64 = 64 << 10;
/// How long it may take, whatever the disk is doing.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How layers are unpacked.
#[derive(Debug, Clone)]
pub struct UnpackCommand {
    /// The program: the agent's own.
    pub program: PathBuf,
    /// Its arguments, before those that say what to unpack.
    pub args: Vec<OsString>,
}

/// Unpacks the layer in the file `packed`. It goes with whoever asks: dropped, it ends.
pub(in crate::images) async fn run(
    command: &UnpackCommand,
    packed: &Path,
    job: &Job,
) -> Result<Unpacked, Refusal> {
    let internal = |doing: &str, e: std::io::Error| Refusal {
        fault: Fault::Disk,
        message: format!("cannot be unpacked: {doing}: {e}"),
    };
    let layer =
        std::fs::File::open(packed).map_err(|e| internal(&packed.display().to_string(), e))?;
    let mut child = Command::new(&command.program);
    child.args(&command.args);
    child.arg("--into").arg(&job.into).arg("--packing").arg(job.packing.name());
    child.arg("--diff-id").arg(&job.diff_id);
    child.arg("--max-bytes").arg(job.limits.bytes.to_string());
    child.arg("--max-entries").arg(job.limits.entries.to_string());
    child.env_clear().kill_on_drop(true);
    child.stdin(layer).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.program.display().to_string();
    let mut child = child.spawn().map_err(|e| internal(&program, e))?;
    let (answer, words) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (answer, words) = tokio::join!(read(answer, ANSWER), read(words, WORDS));
        (answer, words, child.wait().await)
    };
    let Ok((answer, words, status)) = tokio::time::timeout(PATIENCE, ended).await else {
        // Killed when it is dropped.
        let message = format!("is not unpacked after {} minutes", PATIENCE.as_secs() / 60);
        return Err(Refusal { fault: Fault::Disk, message });
    };
    let status = status.map_err(|e| internal(&program, e))?;
    understand(status, &answer, &words)
}

/// What its end means.
fn understand(status: ExitStatus, answer: &[u8], words: &[u8]) -> Result<Unpacked, Refusal> {
    let last = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).into_owned();
        let line = text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned);
        line.unwrap_or_default()
    };
    let answer = last(answer);
    if status.success()
        && let Ok(unpacked) = serde_json::from_str(&answer)
    {
        return Ok(unpacked);
    }
    if status.code().is_some()
        && let Ok(refusal) = serde_json::from_str::<Refusal>(&answer)
    {
        return Err(refusal);
    }
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    let said = String::from_utf8_lossy(words).into_owned();
    Err(match signal {
        Some(Signal::SIGXCPU) => Refusal::layer("takes too much CPU time to unpack"),
        Some(Signal::SIGABRT) if said.contains("memory allocation") => {
            Refusal::layer("takes too much memory to unpack")
        }
        _ => {
            let line = said.lines().find(|line| line.contains("panicked")).map(str::to_owned);
            let why = line.unwrap_or_else(|| last(words));
            let message = format!("the process that unpacks it ended with {status}: {why}");
            Refusal { fault: Fault::Disk, message }
        }
    })
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
