//! A shim: one Pod. It holds the Pod's namespaces, starts its containers through [`crate::launch`], reaps, writes logs, and
//! serves the sandbox protocol.
//!
//! Nothing here blocks for long or has a second thread: one event loop, no pool. What may hang is forked.

mod container;
mod exec;
mod io;
mod namespaces;
mod pause;
mod pod;
mod reaper;
mod runtime;

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use coracle_sandbox::{API_VERSION, Info, Problem, ProblemCode};
use jiff::Timestamp;

pub(crate) use pod::Shim;

/// How long a shim waits for its Pod before it ends.
const LONELY: Duration = Duration::from_secs(15);
/// How long it still answers when its Pod is gone.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// What the zygote gives a shim.
pub(crate) struct Config {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) listener: UnixListener,
}

/// The shim's process, from its fork to its end.
pub(crate) fn main(config: Config) -> ! {
    let code = match run(config) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("a shim failed: {error:#}");
            1
        }
    };
    // SAFETY: ends the process; what it inherited from the zygote is neither run nor flushed.
    unsafe { libc::_exit(code) }
}

fn run(config: Config) -> anyhow::Result<()> {
    nix::unistd::setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_dumpable(false)?;
    // A panic must not unwind into the zygote's part of the stack.
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(config)));
    served.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")))
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        config.listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(config.listener)?;
        let shim = Shim::new(config.id, config.folder)?;
        let lonely = async {
            tokio::time::sleep(LONELY).await;
            if !shim.has_pod() {
                return;
            }
            std::future::pending::<()>().await;
        };
        let socket = config.socket;
        // The name goes first: whoever makes the Pod anew must find it free, and keep it.
        let free = || drop(std::fs::remove_file(&socket));
        tokio::select! {
            served = coracle_sandbox::serve(listener, shim.clone() as _) => {
                free();
                served?;
            }
            () = shim.ended() => {
                free();
                tokio::time::sleep(LAST_WORDS).await;
            }
            () = lonely => free(),
        }
        anyhow::Ok(())
    })
}

/// Who answers.
pub(crate) fn info(instance: &str, started_at: Timestamp) -> Info {
    Info {
        runtime: "oci".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        api: API_VERSION,
        pid: std::process::id(),
        instance: instance.to_owned(),
        started_at,
        engine: "libcontainer 0.7".into(),
        code: Default::default(),
    }
}

/// Names of sandboxes are names of folders.
pub(crate) fn require_id(id: &str) -> Result<(), Problem> {
    require_name("sandbox", id)
}

fn require_name(what: &str, name: &str) -> Result<(), Problem> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=128).contains(&name.len()) && name.chars().all(good) && !name.starts_with('.') {
        return Ok(());
    }
    let message =
        format!("{what} {name:?}: a name has 1 to 128 letters, digits, \"-\", \"_\" and \".\"");
    Err(Problem::new(ProblemCode::InvalidSpec, message))
}

pub(crate) fn no_sandbox(id: &str) -> Problem {
    Problem::new(ProblemCode::NotFound, format!("no sandbox {id} in this host"))
}
