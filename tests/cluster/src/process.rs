//! Processes that go on until they are told to end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A started process, its output in files.
pub(crate) struct Process {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command`, its output appended to `NAME.out` and `NAME.err` in `logs`; returns once it printed a line that
    /// `ready` knows, with what `ready` made of it.
    pub(crate) async fn start<T>(
        mut command: Command,
        logs: &Path,
        name: &str,
        limit: Duration,
        ready: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<(Self, T)> {
        let (out, err) = (logs.join(format!("{name}.out")), logs.join(format!("{name}.err")));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        let seen = fs::metadata(&out).map_or(0, |m| m.len() as usize);
        command.stdin(Stdio::null()).stdout(append(&out)?).stderr(append(&err)?);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut process = Self { child, out, err };
        let start = Instant::now();
        loop {
            let ended = process.child.try_wait()?;
            let text = fs::read_to_string(&process.out).unwrap_or_default();
            // Lines of an earlier process with the same name do not count, nor does one that is not whole yet.
            let lines = text.get(seen..).unwrap_or_default().split_inclusive('\n');
            if let Some(value) =
                lines.filter(|l| l.ends_with('\n')).find_map(|l| ready(l.trim_end()))
            {
                return Ok((process, value));
            }
            if let Some(status) = ended {
                bail!("{name} ended with {status} before it was ready:\n{}", process.output());
            }
            if start.elapsed() > limit {
                process.kill();
                bail!("{name} was not ready within {limit:?}:\n{}", process.output());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid()), signal)
            .with_context(|| format!("{signal} to {}", self.pid()))
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("process {} has not ended within {limit:?}:\n{}", self.pid(), self.output());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills it, and returns when it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of what it said.
    pub(crate) fn output(&self) -> String {
        format!("stdout:\n{}\nstderr:\n{}", tail(&self.out), tail(&self.err))
    }
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path) -> String {
    const LINES: usize = 60;
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Every `coracle` process whose command line names `folder` or something in it.
pub(crate) fn of_folder(folder: &Path) -> Vec<(i32, String)> {
    let folder = folder.to_string_lossy();
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        // What compiles is started by another name of the same program.
        let compiles =
            matches!(&words[..], [_, host, what, ..] if host == "host" && what == "compile");
        let ours = compiles || Path::new(words[0].as_ref()).file_name()? == "coracle";
        let named = words.iter().skip(1).any(|word| word.contains(folder.as_ref()));
        (ours && named && !is_zombie(pid)).then(|| (pid, words.join(" ")))
    })
    .collect()
}

/// The process that started another.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// When a process was started, in clock ticks since the machine was (proc_pid_stat(5)). Numbers of processes say less: they
/// start again from below.
pub(crate) fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows its end begins with the third field, and the time is the 22nd.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Kills a process that is not our child, and returns when it is gone.
pub(crate) async fn kill_other(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let start = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid) {
        if start.elapsed() > Duration::from_secs(10) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
