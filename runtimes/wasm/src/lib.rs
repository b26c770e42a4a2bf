//! The Wasm host: runs components as Pods, in a process of its own that outlives the agent.
//!
//! It is told what to run over the sandbox protocol ([`coracle_sandbox`]). In reading order:
//!
//! - `host`: the protocol's verbs; `container`: a Pod, a container, its phases and its exit;
//! - `compile`, `engine`: from a `.wasm` file to instances in microseconds;
//! - `instance`, `extras`, `denied`, `slots`, `memory`, `cpu`: what an instance sees, and what it may use;
//! - `http`, `listeners`: components that answer requests; `command`: those that run and exit;
//! - `sockets`, `names`, `outgoing`, `routes`: a Pod's network, and calls to Services; `logs`, `events`: what is told to others;
//! - `guests`, `confine`: which threads run guests, and what the process denies itself.
//!
//! In the apply trace this is the last step but one: what the agent's worker asked for is started
//! here, and `routes` makes Services answer.

mod command;
mod compile;
mod confine;
mod container;
mod cpu;
mod denied;
mod engine;
mod events;
mod extras;
mod guests;
mod host;
mod http;
mod instance;
mod listeners;
mod logs;
mod memory;
mod metrics;
mod names;
mod notices;
mod outgoing;
mod routes;
mod slots;
mod sockets;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

pub use confine::Folders;

/// How to run a host.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The unix socket to serve; its folder must exist.
    pub socket: PathBuf,
    /// Where compiled code is kept.
    pub data_dir: PathBuf,
    /// How many threads run guests, per network namespace; as many as there are cores, normally.
    pub guest_threads: usize,
    /// How many small instances may exist at once; fewer, if the kernel's limit on memory mappings
    /// (`vm.max_map_count`, six for each) does not allow so many.
    pub instances: u32,
    /// Restricts the host to these folders, its data folder and its socket's folder. Paths that are
    /// used later (logs, images, volumes) must be inside them. None: no restriction.
    pub folders: Option<Folders>,
}

impl HostConfig {
    /// One thread per core, 10,000 instances, no restriction of folders.
    pub fn new(socket: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> HostConfig {
        HostConfig {
            socket: socket.into(),
            data_dir: data_dir.into(),
            guest_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            instances: 10_000,
            folders: None,
        }
    }
}

/// Runs a host until it is told to shut down over its socket. Call it from a process's first
/// thread, before others are started.
///
/// # Errors
/// When the data folder or the socket cannot be used, or the engine cannot be made.
pub fn run_host(config: HostConfig) -> anyhow::Result<()> {
    let data = config.data_dir.display();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(|| format!("cannot make the host's data folder {data}"))?;
    let folders = config.folders.clone().map(|mut folders| {
        folders.write.push(config.data_dir.clone());
        folders.write.extend(config.socket.parent().map(PathBuf::from));
        folders
    });
    confine::confine(folders.as_ref());

    // The host's own work; guests have runtimes of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("host")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let host = host::Host::start(&config)?;
        let listener = coracle_sandbox::listen(&config.socket)?;
        tracing::info!(socket = %config.socket.display(), "the Wasm host is ready");
        coracle_sandbox::serve(listener, Arc::clone(&host) as _).await?;
        let _ = fs::remove_file(&config.socket);
        anyhow::Ok(())
    })
}

#[cfg(test)]
mod tests;
