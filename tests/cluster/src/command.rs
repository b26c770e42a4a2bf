//! Programs that run to their end.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Longest that one may take.
const LIMIT: Duration = Duration::from_secs(90);

/// What a program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded.
    ///
    /// # Errors
    /// With all that it said, if it failed.
    pub fn ok(self) -> anyhow::Result<String> {
        if !self.status.success() {
            bail!("{self}");
        }
        Ok(self.stdout)
    }

    /// What it said on standard error, if it failed.
    ///
    /// # Errors
    /// If it succeeded.
    pub fn refused(self) -> anyhow::Result<String> {
        if self.status.success() {
            bail!("this should have failed: {self}");
        }
        Ok(self.stderr)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} → {}", self.command, self.status)?;
        write!(f, "{}{}", self.stdout, self.stderr)
    }
}

/// Runs `command` with `input` on its standard input.
///
/// # Errors
/// When it cannot be run, or takes too long.
pub async fn run(mut command: Command, input: &[u8]) -> anyhow::Result<Output> {
    let line = line(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| line.clone())?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading is no error of ours.
            let _ = stdin.write_all(input).await;
        }
    };
    let done = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = tokio::time::timeout(LIMIT, done)
        .await
        .with_context(|| format!("not ended within {LIMIT:?}: {line}"))??;
    Ok(Output {
        command: line,
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn line(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
