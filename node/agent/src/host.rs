//! The Wasm sandbox host: a process of its own, started here, found again by its socket, restarted when it ends.
//!
//! It is started in a session of its own, so that nothing that ends the agent ends it too.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle_sandbox::{Client, Info};

/// How long a host may take until it answers.
const START: Duration = Duration::from_secs(20);

/// How to start a host.
#[derive(Debug, Clone)]
pub struct HostCommand {
    /// The program: the agent's own.
    pub program: PathBuf,
    /// Its arguments, all of them.
    pub args: Vec<OsString>,
    /// Where its own log goes.
    pub log: PathBuf,
}

/// No host could be started.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The program could not be run.
    #[error("cannot start the sandbox host {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended, or never answered.
    #[error("the sandbox host does not answer; its last words in {log}: {words}")]
    Silent {
        /// Its log.
        log: PathBuf,
        /// The log's end.
        words: String,
    },
}

/// The host behind `client`, found or started; true if it was found.
pub async fn ensure(client: &Client, command: &HostCommand) -> Result<(Info, bool), HostError> {
    if let Ok(info) = client.info().await {
        return Ok((info, true));
    }
    let spawn = |source| HostError::Spawn { program: command.program.clone(), source };
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(&command.log).map_err(spawn)?;
    let mut child = Command::new(&command.program);
    child
        .args(&command.args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(spawn)?)
        .stderr(log);
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
    unsafe {
        child.pre_exec(|| nix::unistd::setsid().map(drop).map_err(std::io::Error::from));
    }
    let mut child = child.spawn().map_err(spawn)?;
    // Reaped when it ends, so that a killed host is no zombie while the agent lives.
    std::thread::Builder::new()
        .name("reap-host".to_owned())
        .stack_size(64 << 10)
        .spawn(move || child.wait())
        .map_err(spawn)?;
    match client.wait_ready(START).await {
        Ok(info) => Ok((info, false)),
        Err(_) => {
            Err(HostError::Silent { log: command.log.clone(), words: last_words(&command.log) })
        }
    }
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
