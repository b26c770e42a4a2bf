//! Real clusters: processes of the binary over a temporary folder, ended and removed when dropped.
//!
//! Apart from `tests/cluster`, which makes clusters of many kinds and looks for what they leave: here the start itself is
//! measured, to half a millisecond.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use coracle_test_cluster::filled;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::Bench;
use crate::api::{Api, Connection};

/// How long a start may take.
const START: Duration = Duration::from_secs(30);
/// How long an end may take: fifty thousand Pods take their time.
const END: Duration = Duration::from_secs(60);

/// A cluster that answers.
pub(crate) struct Cluster {
    process: Process,
    binary: PathBuf,
    /// Its data folder.
    data: TempDir,
    /// From exec to `ok` at `/readyz`.
    pub(crate) start: Duration,
    /// When its kubeconfig was seen: just before anything in it starts to work.
    pub(crate) born: Instant,
    pub(crate) api: Api,
}

impl Cluster {
    /// Starts `coracle COMMAND… --data NEW-FOLDER --listen 127.0.0.1:0`.
    pub(crate) async fn start(bench: &Bench, command: &[&str]) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in(&bench.folder)?;
        Self::start_in(&bench.binary, data, command).await
    }

    /// The same over a store with about so many objects of all kinds.
    pub(crate) async fn start_among(
        bench: &Bench,
        objects: usize,
        command: &[&str],
    ) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in(&bench.folder)?;
        filled::fill(&bench.binary, objects, &data.path().join("store.redb")).await?;
        Self::start_in(&bench.binary, data, command).await
    }

    /// Ends it and starts the same folder with another command.
    pub(crate) async fn restart(self, command: &[&str]) -> anyhow::Result<Self> {
        let Self { process, binary, data, .. } = self;
        drop(process);
        let _ = std::fs::remove_file(kubeconfig(data.path()));
        Self::start_in(&binary, data, command).await
    }

    async fn start_in(binary: &Path, data: TempDir, command: &[&str]) -> anyhow::Result<Self> {
        let log = std::fs::File::create(data.path().join("bench.log"))?;
        let exec = Instant::now();
        let child = Command::new(binary)
            .args(command)
            .arg("--data")
            .arg(data.path())
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut process = Process { child, data: data.path().to_owned() };
        let path = kubeconfig(data.path());
        while !path.exists() {
            process.check(exec)?;
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        let born = Instant::now();
        let api = Api::open(&path)?;
        let mut connection = api.connect().await?;
        while !connection.get("/readyz").await?.0.is_success() {
            process.check(exec)?;
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Ok(Self { process, binary: binary.to_owned(), data, start: exec.elapsed(), born, api })
    }

    /// A connection as admin.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        self.api.connect().await
    }

    /// The usual client library, as admin.
    pub(crate) async fn client(&self) -> anyhow::Result<kube::Client> {
        let config = kube::config::Kubeconfig::read_from(kubeconfig(self.data.path()))?;
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Runs a client command against it.
    pub(crate) fn run(&self, arguments: &[&dyn AsRef<OsStr>]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binary);
        arguments.iter().for_each(|argument| {
            command.arg(argument);
        });
        let out = command.arg("--kubeconfig").arg(kubeconfig(self.data.path())).output()?;
        if !out.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(())
    }

    /// The processes that make it up.
    pub(crate) fn processes(&self) -> Vec<i32> {
        self.process.all()
    }
}

fn kubeconfig(data: &Path) -> PathBuf {
    data.join("admin.kubeconfig")
}

/// The process that was started, and those that it started.
struct Process {
    child: Child,
    data: PathBuf,
}

impl Process {
    /// What it said.
    fn log(&self) -> String {
        std::fs::read_to_string(self.data.join("bench.log")).unwrap_or_default()
    }

    /// Still coming up, or why not.
    fn check(&mut self, since: Instant) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended with {status}: {}", self.log().trim());
        }
        if since.elapsed() > START {
            bail!("it is not ready after {START:?}: {}", self.log().trim());
        }
        Ok(())
    }

    /// Itself, its descendants, and hosts that name its data folder: they may outlive what started them.
    fn all(&self) -> Vec<i32> {
        let mut parents: BTreeMap<i32, i32> = BTreeMap::new();
        let mut found = vec![self.child.id() as i32];
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            if let Some(parent) = fields.split_whitespace().nth(1).and_then(|p| p.parse().ok()) {
                parents.insert(pid, parent);
            }
            let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments);
            if arguments.contains(&*self.data.to_string_lossy()) && !found.contains(&pid) {
                found.push(pid);
            }
        }
        let mut next = 0;
        while next < found.len() {
            let parent = found[next];
            for (pid, _) in parents.iter().filter(|(_, of)| **of == parent) {
                if !found.contains(pid) {
                    found.push(*pid);
                }
            }
            next += 1;
        }
        found
    }
}

impl Drop for Process {
    /// As Ctrl-C would, once it is wholly up; what has not ended in time is killed.
    fn drop(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < END
            && matches!(self.child.try_wait(), Ok(None))
            && !self.log().contains(" is up at ")
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let all = self.all();
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        let begun = Instant::now();
        while begun.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        for pid in all {
            let path = format!("/proc/{pid}/cmdline");
            let arguments = std::fs::read(path).unwrap_or_default();
            if String::from_utf8_lossy(&arguments).contains(&*self.data.to_string_lossy()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}
