//! One sandbox host's process: started here, found again by its socket, seen to its end.
//!
//! It is started in a session of its own, so that nothing that ends the agent ends it too.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_sandbox::{Client, Info};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
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
    /// Descriptors that it has, too, by the numbers that they have here.
    pub shares: Arc<[OwnedFd]>,
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
        .env_clear()
        .envs(
            std::env::vars_os()
                .filter(|(name, _)| name.to_str().is_some_and(|n| PASSED_ON.contains(&n))),
        )
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(spawn)?)
        .stderr(log);
    let shares = command.shares.clone();
    // SAFETY: setsid, fcntl and write are async-signal-safe and touch no memory of the parent.
    unsafe {
        child.pre_exec(move || {
            nix::unistd::setsid()?;
            for shared in shares.iter() {
                fcntl(shared, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
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

/// What a host is told of the agent's environment. The rest is none of its business, and may hold secrets.
const PASSED_ON: [&str; 7] =
    ["LANG", "PATH", "RUST_BACKTRACE", "RUST_LOG", "SSL_CERT_DIR", "SSL_CERT_FILE", "TZ"];

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

/// Whether that process runs another program than this one. No, where the system does not tell.
pub async fn is_other_program(pid: u32) -> bool {
    let other = PathBuf::from(format!("/proc/{pid}/exe"));
    // Hundreds of megabytes may have to be read.
    let compared = tokio::task::spawn_blocking(move || {
        let own = File::open("/proc/self/exe")?;
        same_content(own, File::open(other)?)
    });
    match compared.await {
        Ok(Ok(same)) => !same,
        Ok(Err(error)) => {
            tracing::debug!(%error, pid, "not known which program a sandbox host runs");
            false
        }
        Err(_) => false,
    }
}

/// Whether two files are one, or alike: a program that was installed again is no other.
fn same_content(one: File, other: File) -> std::io::Result<bool> {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (one.metadata()?, other.metadata()?);
    if (a.dev(), a.ino()) == (b.dev(), b.ino()) {
        return Ok(true);
    }
    if a.len() != b.len() {
        return Ok(false);
    }
    let mut one = BufReader::with_capacity(1 << 20, one);
    let mut other = BufReader::with_capacity(1 << 20, other);
    loop {
        let (a, b) = (one.fill_buf()?, other.fill_buf()?);
        let length = a.len().min(b.len());
        if a[..length] != b[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(a.len() == b.len());
        }
        one.consume(length);
        other.consume(length);
    }
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_apart_by_what_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("written");
            move || File::open(&path).expect("opened")
        };
        let long = vec![7; 3 << 20];
        let mut other = long.clone();
        other[(2 << 20) + 5] = 8;
        let (a, b, c) = (file("a", &long), file("b", &long), file("c", &other));
        let short = file("short", &long[1..]);
        let same = |one, other| same_content(one, other).expect("read");
        assert!(same(a(), a()) && same(a(), b()));
        assert!(!same(a(), c()) && !same(a(), short()));
    }
}
