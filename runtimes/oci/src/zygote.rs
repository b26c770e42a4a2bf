//! The zygote: makes a shim for each Pod by forking, so that all of them share what this program is made of.
//!
//! It serves the sandbox protocol as far as `PUT /v1/sandboxes/{id}` goes: the answer names the shim's socket, where
//! everything else is asked. It forks between two turns of its event loop, never within one: what the child inherits
//! of the loop it closes and forgets.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use coracle_sandbox::{
    Client, ClientError, ContainerSpec, ContainerStatus, ContainerUsage, EventStream, Events,
    Image, ImageInfo, ImageKind, Info, Problem, ProblemCode, Routes, RoutesStatus, Runtime,
    SandboxSpec, SandboxStatus, Stop,
};
use jiff::Timestamp;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork};
use tokio::sync::{mpsc, oneshot};

use crate::{launch, sealed, shim};

/// How often and when a shim that is ending is asked again.
const TRIES: u32 = 50;
const AGAIN: Duration = Duration::from_millis(10);

/// How to run the node's zygote.
#[derive(Clone, Debug)]
pub struct Config {
    /// The unix socket to serve. Shims have theirs in the same folder, whose path must be short.
    pub socket: PathBuf,
    /// What Pods keep while they run, a folder each; on a local disk or in memory.
    pub data: PathBuf,
}

/// A Pod that needs a shim.
struct Order {
    id: String,
    listener: UnixListener,
    done: oneshot::Sender<io::Result<()>>,
}

/// Runs the zygote until it is told to shut down over its socket; shims live on. Call it from a process's only thread,
/// before anything else.
///
/// # Errors
/// When the program cannot be sealed, or folder and socket cannot be used.
pub fn run(config: Config) -> anyhow::Result<()> {
    sealed::ensure()?;
    launch::require_one_thread()?;
    nix::sys::prctl::set_dumpable(false).context("cannot hide memory")?;
    let _ = nix::sys::prctl::set_name(c"coracle-oci");
    // Containers have the groups that they ask for, not those of whoever started this.
    nix::unistd::setgroups(&[]).context("cannot leave groups; containers need root")?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data)
        .with_context(|| format!("cannot make the folder {}", config.data.display()))?;
    // Shims that end are forgotten by the kernel. SAFETY: runs nothing of ours.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.context("cannot ignore SIGCHLD")?;
    let listener = coracle_sandbox::bind(&config.socket)?;
    let (orders, mut ordered) = mpsc::channel(64);
    let zygote = Arc::new(Zygote::new(config.clone(), orders));
    let before = descriptors()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lasting: Vec<RawFd> = descriptors()?.difference(&before).copied().collect();
    let lasting: Vec<RawFd> = lasting.into_iter().filter(|fd| is_socket(*fd)).collect();
    let mut server = {
        let _here = runtime.enter();
        let listener = tokio::net::UnixListener::from_std(listener)?;
        runtime.spawn(coracle_sandbox::serve(listener, zygote as _))
    };
    loop {
        let order: Option<Order> = runtime.block_on(async {
            tokio::select! {
                order = ordered.recv() => order,
                _ended = &mut server => None,
            }
        });
        let Some(order) = order else { break };
        // SAFETY: there is no other thread that could hold a lock.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { .. }) => drop(order.done.send(Ok(()))),
            Ok(ForkResult::Child) => {
                // The loop is the parent's: nothing of it may be dropped, which would tell the kernel of it.
                std::mem::forget(runtime);
                // But for a pair of sockets that the library makes once in a process, and looks for in each new loop.
                let kept = [&lasting[..], &[order.listener.as_raw_fd()]].concat();
                launch::settle(&kept);
                shim::main(shim::Config {
                    folder: config.data.join(&order.id),
                    socket: socket_of(&config.socket, &order.id),
                    id: order.id,
                    listener: order.listener,
                })
            }
            Err(error) => drop(order.done.send(Err(error.into()))),
        }
    }
    let _ = std::fs::remove_file(&config.socket);
    Ok(())
}

/// Descriptors that are open.
fn descriptors() -> io::Result<HashSet<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn is_socket(fd: RawFd) -> bool {
    let target = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
}

/// Where the shim of this Pod has its socket: short, since socket names are, whatever the Pod is called.
fn socket_of(zygote: &Path, id: &str) -> PathBuf {
    // FNV-1a; a Pod that meets another's name is refused.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    zygote.with_file_name(format!("{hash:016x}.sock"))
}

struct Zygote {
    config: Config,
    instance: String,
    started_at: Timestamp,
    orders: mpsc::Sender<Order>,
    events: Arc<Events>,
}

impl Zygote {
    fn new(config: Config, orders: mpsc::Sender<Order>) -> Zygote {
        let started_at = Timestamp::now();
        let instance = format!("{}-{}", std::process::id(), started_at.as_nanosecond());
        let events = Arc::new(Events::new(instance.clone()));
        Zygote { config, instance, started_at, orders, events }
    }

    /// Makes a shim, unless there is one.
    async fn shim(&self, id: &str) -> Result<Client, Problem> {
        let internal = |error: io::Error| {
            Problem::new(
                ProblemCode::Internal,
                format!("cannot make a shim for sandbox {id}: {error}"),
            )
        };
        let socket = socket_of(&self.config.socket, id);
        let client = Client::new(&socket);
        if client.info().await.is_ok() {
            return Ok(client);
        }
        let listener = coracle_sandbox::bind(&socket).map_err(internal)?;
        let (done, answer) = oneshot::channel();
        let order = Order { id: id.to_owned(), listener, done };
        let gone = || Problem::new(ProblemCode::NoCapacity, "the zygote is ending");
        self.orders.send(order).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(internal)?;
        Ok(client)
    }

    /// Shims that answer.
    fn shims(&self) -> Vec<Client> {
        let folder = self.config.socket.parent().unwrap_or(Path::new("."));
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| {
            path.extension().is_some_and(|e| e == "sock")
                && path.file_stem().and_then(|s| s.to_str()).is_some_and(|stem| {
                    stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit())
                })
        });
        paths.map(Client::new).collect()
    }
}

fn ask_the_shim() -> Problem {
    let message =
        "this is the zygote; containers are their shim's, whose socket the sandbox's status names";
    Problem::new(ProblemCode::InvalidSpec, message)
}

fn of_client(error: ClientError) -> Problem {
    match error {
        ClientError::Problem(problem) => problem,
        other => Problem::new(ProblemCode::Internal, other.to_string()),
    }
}

#[async_trait]
impl Runtime for Zygote {
    async fn info(&self) -> Info {
        shim::info(&self.instance, self.started_at)
    }

    async fn prepare_image(&self, _: Image) -> Result<ImageInfo, Problem> {
        Ok(container_image())
    }

    async fn put_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Problem> {
        shim::require_id(&spec.id)?;
        let mut tries = TRIES;
        loop {
            let client = self.shim(&spec.id).await?;
            match client.put_sandbox(&spec).await {
                Ok(mut status) => {
                    status.socket = Some(client.socket().to_owned());
                    return Ok(status);
                }
                // The shim of an earlier Pod of this name is about to be gone.
                Err(ClientError::Problem(problem))
                    if problem.code == ProblemCode::NoCapacity && tries > 0 => {}
                Err(error) => return Err(of_client(error)),
            }
            tries -= 1;
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn sandboxes(&self) -> Vec<SandboxStatus> {
        let mut all = Vec::new();
        for shim in self.shims() {
            for mut status in shim.sandboxes().await.unwrap_or_default() {
                status.socket = Some(shim.socket().to_owned());
                all.push(status);
            }
        }
        all
    }

    async fn usage(&self) -> Vec<ContainerUsage> {
        Vec::new()
    }

    async fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    async fn sandbox(&self, id: &str) -> Result<SandboxStatus, Problem> {
        let client = Client::new(socket_of(&self.config.socket, id));
        match client.sandbox(id).await {
            Ok(mut status) => {
                status.socket = Some(client.socket().to_owned());
                Ok(status)
            }
            Err(ClientError::Unreachable { .. }) => Err(shim::no_sandbox(id)),
            Err(error) => Err(of_client(error)),
        }
    }

    async fn delete_sandbox(&self, id: &str) -> Result<(), Problem> {
        match Client::new(socket_of(&self.config.socket, id)).delete_sandbox(id).await {
            Ok(()) | Err(ClientError::Unreachable { .. }) => Ok(()),
            Err(error) => Err(of_client(error)),
        }
    }

    async fn start_container(&self, _: &str, _: ContainerSpec) -> Result<ContainerStatus, Problem> {
        Err(ask_the_shim())
    }

    async fn stop_container(&self, _: &str, _: &str, _: Stop) -> Result<(), Problem> {
        Err(ask_the_shim())
    }

    async fn put_routes(&self, _: Routes) -> Result<RoutesStatus, Problem> {
        // The kernel routes what containers send.
        Ok(RoutesStatus::default())
    }

    fn events(&self, after: u64) -> EventStream {
        self.events.stream(after)
    }

    async fn shutdown(&self) {
        self.events.close();
    }
}

/// Every image is ready: its layers were unpacked by others.
pub(crate) fn container_image() -> ImageInfo {
    ImageInfo {
        kind: ImageKind::Container,
        imports: Vec::new(),
        exports: Vec::new(),
        cached: true,
        adapted: false,
        languages: Vec::new(),
    }
}
