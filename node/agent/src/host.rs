//! One sandbox host's process: started here, found again by its socket, seen to its end.
//!
//! It is started in a session of its own, so that nothing that ends the agent ends it too.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coracle_sandbox::{Client, Info};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a host may take until it answers.
const START: Duration = Duration::from_secs(20);
/// How long a host may take to end after it said that it would.
const END: Duration = Duration::from_secs(3);

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

/// The host behind `client`, found or started; true if it was found. A new one goes into the cgroups whose doors these
/// are.
pub async fn ensure(
    client: &Client,
    command: &HostCommand,
    doors: Vec<File>,
) -> Result<(Info, bool), HostError> {
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
    // SAFETY: setsid and write are async-signal-safe and touch no memory of the parent.
    unsafe {
        child.pre_exec(move || {
            nix::unistd::setsid()?;
            // Bounds that are not to be had are no reason to run nothing.
            doors.iter().for_each(|mut door| drop(door.write(b"0")));
            Ok(())
        });
    }
    let mut child = child.spawn().map_err(spawn)?;
    let pid = child.id();
    // Reaped when it ends, so that a killed host is no zombie while the agent lives.
    std::thread::Builder::new()
        .name("reap-host".to_owned())
        .stack_size(64 << 10)
        .spawn(move || child.wait())
        .map_err(spawn)?;
    match client.wait_ready(START).await {
        Ok(info) => Ok((info, false)),
        Err(_) => {
            // Nobody would find it later.
            if let Ok(pid) = i32::try_from(pid)
                && is_host(pid, client.socket())
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            Err(HostError::Silent { log: command.log.clone(), words: last_words(&command.log) })
        }
    }
}

/// Ends a host and all that it runs; returns when its process is gone.
pub async fn end(client: &Client) {
    let (pid, patience) = match client.info().await {
        Ok(info) => {
            if let Err(error) = client.shutdown().await {
                tracing::warn!(%error, "a sandbox host did not end");
            }
            (i32::try_from(info.pid).ok(), END)
        }
        // Gone, or about to go; or it has only just been started, by somebody who did not come to wait for it.
        Err(_) => (find(client.socket()), Duration::ZERO),
    };
    let Some(pid) = pid else { return };
    let started = Instant::now();
    while is_host(pid, client.socket()) {
        if started.elapsed() > patience + END {
            tracing::error!(pid, "a sandbox host cannot be killed");
            break;
        }
        if started.elapsed() >= patience {
            tracing::warn!(pid, "killing a sandbox host that did not end");
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A host cannot: the folder is not its own.
    let _ = std::fs::remove_file(client.socket());
}

/// The process that is the host with this socket.
fn find(socket: &Path) -> Option<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.find(|pid| is_host(*pid, socket))
}

/// Whether that process still is the host with this socket; numbers of processes come again.
fn is_host(pid: i32, socket: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip(1);
    words.next() == Some(b"host") && words.any(|word| word == socket.as_os_str().as_bytes())
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
