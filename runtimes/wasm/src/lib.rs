//! The Wasm host: runs components as Pods, in a process of its own that outlives the agent.
//!
//! It is told what to run over the sandbox protocol ([`coracle_sandbox`]). In reading order:
//!
//! - `host`: the protocol's verbs; `container`: a Pod, a container, its phases and its exit;
//! - [`inspect()`], `adapt`, [`compile()`]: from a `.wasm` file to native code, in a process of its own;
//! - `images`, `program`, `engine`: from that to instances in microseconds;
//! - `instance`, `extras`, `folders`, `files`, `denied`, `random`, `slots`, `handles`, `memory`, `cpu`: what an instance sees, and what it may use; `activity`: who used any lately;
//! - `http`, `listeners`: components that answer requests; `command`: those that run and exit;
//! - `sockets`, `names`, `outgoing`, `routes`: a Pod's network, and calls to Services; `logs`: what is told to others;
//! - `guests`, `outside`, `confine`: which threads run guests, and what the process denies itself.
//!
//! In the apply trace this is the last step but one: what the agent's worker asked for is started
//! here, and `routes` makes Services answer.

mod activity;
mod adapt;
mod command;
mod compile;
mod confine;
mod container;
mod cpu;
mod denied;
mod engine;
mod extras;
mod files;
mod folders;
mod guests;
mod handles;
mod host;
mod http;
mod images;
mod inspect;
mod instance;
mod listeners;
mod logs;
mod memory;
mod metrics;
mod names;
mod notices;
mod outgoing;
mod outside;
mod program;
mod random;
mod routes;
mod slots;
mod sockets;
mod timers;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use coracle_sandbox::{CompiledImage, Problem, ProblemCode};
use tokio::net::UnixListener;
use tokio::runtime::Handle;

pub use compile::confined::Limits;
pub use compile::{Job, MAX_WASM, compile};
pub use confine::Confinement;
pub use inspect::{Form, Inspection, Meaning, inspect, meaning};

/// How to run a host.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The unix socket to serve; its folder must exist.
    pub socket: PathBuf,
    /// What the host itself keeps.
    pub data_dir: PathBuf,
    /// Where compiled code is found. None: in the data folder, where the host puts what it compiles itself; only for images
    /// that are trusted.
    pub compiled: Option<PathBuf>,
    /// How many threads run guests; as many as there are cores, normally.
    pub guest_threads: usize,
    /// How many small instances may exist at once; fewer, if the kernel's limit on memory mappings
    /// (`vm.max_map_count`, six for each) does not allow so many.
    pub instances: u32,
    /// The network namespace in which Pods have their addresses, and the host its sockets. None: the
    /// one that it is started in, where Pods have theirs among the machine's own.
    pub netns: Option<PathBuf>,
    /// What the host may use besides its data folder. Paths that are used
    /// later (logs, images, volumes) must be inside. None: no restriction.
    pub confinement: Option<Confinement>,
}

impl HostConfig {
    /// One thread per core, 10,000 instances, no restriction of folders.
    pub fn new(socket: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> HostConfig {
        HostConfig {
            socket: socket.into(),
            data_dir: data_dir.into(),
            compiled: None,
            guest_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            instances: 10_000,
            netns: None,
            confinement: None,
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
    confine::raise_files();
    // Agents find it by its name, which may be out of reach from here on.
    let listener = coracle_sandbox::bind(&config.socket)?;
    let netns = config.netns.as_deref().map(File::open).transpose();
    let netns = netns.context("cannot open the Pods' network namespace")?;
    let confinement = config.confinement.clone().map(|mut confinement| {
        confinement.write.push(config.data_dir.clone());
        confinement
    });
    // Read while it can be; see there.
    engine::note_swapping();
    if let Some(confinement) = &confinement {
        confinement.enclose()?;
    }
    let mut outside = None;
    if let Some(netns) = netns {
        outside = outside::start()?;
        confine::enter_network(&netns).context("cannot enter the Pods' network namespace")?;
    }
    if let Some(confinement) = &confinement {
        confinement.disarm()?;
    }

    // The host's own work; guests have runtimes of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("host")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let resolver = outside.as_ref().map_or_else(Handle::current, |r| r.handle().clone());
        let host = host::Host::start(&config, resolver)?;
        let listener = UnixListener::from_std(listener)?;
        tracing::info!(socket = %config.socket.display(), "the Wasm host is ready");
        coracle_sandbox::serve(listener, Arc::clone(&host) as _).await?;
        let _ = fs::remove_file(&config.socket);
        anyhow::Ok(())
    })
}

/// Compiles one image in this process, which is good for nothing else from then on: it may write into the folder for the result,
/// and it has limits ([`Limits`]). As root it becomes `user`, whose folder that must be. It ends when its
/// standard input does, where that is a pipe. Call it from a process's first thread,
/// before others are started.
///
/// # Errors
/// As [`compile()`].
pub fn compile_confined(job: &Job, user: Option<u32>) -> Result<CompiledImage, Problem> {
    // Users of their own cannot come to the images.
    let file = compile::open(job)?;
    let size = file.metadata().map_or(0, |file| file.len());
    if let Err(error) = compile::confined::confine(job, size, user) {
        let message = format!("cannot confine the process that compiles: {error:#}");
        return Err(Problem::new(ProblemCode::Internal, message));
    }
    compile::confined::end_with_parent();
    compile::compile_file(job, file)
}

/// The class of guests, and what code for it is called by: it changes with wasmtime, its configuration and the CPU. Code with
/// another name is of no use to a host of this program.
pub fn code_names() -> BTreeMap<&'static str, &'static str> {
    engine::ClassKind::ALL.into_iter().map(|kind| (kind.name(), engine::hash(kind))).collect()
}

#[cfg(test)]
mod tests;
