//! The servers that Pods are compared with: processes of their own, as the Wasm host is, on a free port of this machine.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::crowd::answers;
use crate::{Bench, root, say};

/// The wasmtime whose `serve` is compared with: the release that Coracle is built on.
const WASMTIME: &str = "48.0.8";
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that answers.
pub(super) struct Rival {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Rival {
    /// hyper alone, with an answer as long as the example's.
    pub(super) async fn bare() -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        Self::start(|address| {
            let mut command = Command::new(&program);
            command.args(["--bare", &address.to_string()]);
            command
        })
        .await
    }

    /// `wasmtime serve` of the example, with more options.
    pub(super) async fn wasmtime(bench: &Bench, options: &[&str]) -> anyhow::Result<Self> {
        let program = wasmtime(bench)?;
        let component = root().join("examples/prebuilt/hello-v1.wasm");
        Self::start(|address| {
            let mut command = Command::new(&program);
            command.args(["serve", "-Scli", "--addr", &address.to_string()]);
            command.args(options).arg(&component);
            command
        })
        .await
    }

    /// nginx as it is packaged, with this configuration of its server on an address; the folder is for its own files.
    pub(super) async fn nginx(
        folder: &Path,
        configuration: impl Fn(SocketAddr) -> String,
    ) -> anyhow::Result<Self> {
        let file = folder.join("nginx.conf");
        Self::start(|address| {
            // What cannot be written, nginx says is missing.
            let _ = std::fs::write(&file, configuration(address));
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder).arg("-c").arg(&file);
            command
        })
        .await
        .context("comparing needs nginx: install Debian's package of that name")
    }

    async fn start(command: impl Fn(SocketAddr) -> Command) -> anyhow::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = command(address);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let rival = Self { child, address };
        let begun = Instant::now();
        while !answers(address).await {
            if begun.elapsed() > PATIENCE {
                bail!("{command:?} does not answer");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(rival)
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // Asked, not killed: nginx then ends its workers, too.
        let pid = Pid::from_raw(self.child.id() as i32);
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// The program: what `--wasmtime` names, else one built once into the user's cache.
fn wasmtime(bench: &Bench) -> anyhow::Result<PathBuf> {
    if let Some(program) = &bench.wasmtime {
        return Ok(program.clone());
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let folder = cache.context("neither HOME nor XDG_CACHE_HOME is set")?.join("coracle-bench");
    let program = folder.join("bin/wasmtime");
    let version = Command::new(&program).arg("--version").output();
    if version.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(WASMTIME)) {
        return Ok(program);
    }
    say(&format!("building wasmtime {WASMTIME} into {}, once: it takes minutes", folder.display()));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .args(["install", "--quiet", "--locked", "wasmtime-cli", "--version", WASMTIME, "--root"])
        .arg(&folder)
        .status()
        .context("cargo cannot be run; give --wasmtime")?;
    if !status.success() {
        bail!("wasmtime could not be built; give --wasmtime");
    }
    Ok(program)
}
