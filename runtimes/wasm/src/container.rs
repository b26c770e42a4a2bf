//! A Pod and its containers, as long as they live.
//!
//! A container goes through phases, in this order, skipping what it has no need of:
//! `Serving` → `Draining` → `Closing` → `Over` → `Killed`. What drains how is the business of
//! [`crate::http`] and [`crate::command`]; here is what they share, and the one way to exit.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coracle_sandbox::{
    ContainerSpec, ContainerState, ContainerStatus, ContainerUsage, ExitReason, LABEL_NAMESPACE,
    NoticeKind, Problem, Resources, Reuse, SandboxSpec, SandboxStatus, Usage,
};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::activity::{Activity, Note};
use crate::cpu::Cpu;
use crate::denied::Denials;
use crate::folders::Folders;
use crate::guests::Guests;
use crate::handles::Handles;
use crate::host::Node;
use crate::http::Traffic;
use crate::images::{Compiled, Image};
use crate::logs::{Log, Stream};
use crate::memory::Account;
use crate::notices::Notices;
use crate::outgoing::Trust;
use crate::program::Program;
use crate::slots::Held;

/// How long an exit is held back until the log is written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How far a container is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not on it.
    Serving,
    /// Serves on, and asks clients to go elsewhere.
    Draining,
    /// Finishes what it has begun.
    Closing,
    /// Has exited; answers already on their way may still leave.
    Over,
    /// Everything that still runs is dropped.
    Killed,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) reason: ExitReason,
    pub(crate) message: String,
}

impl Exit {
    pub(crate) fn completed() -> Exit {
        Exit { code: 0, reason: ExitReason::Completed, message: String::new() }
    }

    pub(crate) fn error(code: i32, message: impl Into<String>) -> Exit {
        Exit { code, reason: ExitReason::Error, message: message.into() }
    }

    pub(crate) fn out_of_memory(message: impl Into<String>) -> Exit {
        Exit { code: 137, reason: ExitReason::OOMKilled, message: message.into() }
    }

    /// As the kernel's SIGKILL.
    pub(crate) fn killed(message: impl Into<String>) -> Exit {
        Exit::error(137, message)
    }
}

/// A Pod.
pub(crate) struct Sandbox {
    /// But for limits that were changed since; see [`Sandbox::spec_now`].
    pub(crate) spec: SandboxSpec,
    resized: Mutex<Option<Resources>>,
    pub(crate) namespace: String,
    pub(crate) group: Arc<Guests>,
    created_at: Timestamp,
    memory: Arc<Account>,
    pub(crate) cpu: Arc<Cpu>,
    pub(crate) slots: Arc<Held>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
}

impl Sandbox {
    pub(crate) fn new(
        spec: SandboxSpec,
        group: Arc<Guests>,
        activity: &Arc<Activity>,
    ) -> Arc<Sandbox> {
        let note = Note::new(activity.clone(), spec.id.clone());
        Arc::new(Sandbox {
            namespace: spec.labels.get(LABEL_NAMESPACE).cloned().unwrap_or_default(),
            group,
            created_at: Timestamp::now(),
            memory: Account::new(spec.memory_limit, None),
            cpu: Cpu::noted(spec.cpu_limit, spec.cpu_weight, note),
            slots: Arc::default(),
            containers: Mutex::default(),
            resized: Mutex::default(),
            spec,
        })
    }

    /// The spec, with the limits that it has now.
    pub(crate) fn spec_now(&self) -> SandboxSpec {
        let resized = self.resized.lock().unwrap_or_else(PoisonError::into_inner);
        match &*resized {
            Some(resources) => self.spec.clone().with_limits(resources),
            None => self.spec.clone(),
        }
    }

    /// Gives all containers together other limits.
    pub(crate) fn resize(&self, resources: Resources) -> Result<(), Problem> {
        fits("pod", resources.memory_limit, self.memory.used())?;
        self.memory.set_limit(resources.memory_limit);
        self.cpu.resize(resources.cpu_limit, resources.cpu_weight);
        let mut resized = self.resized.lock().unwrap_or_else(PoisonError::into_inner);
        *resized = Some(resources);
        Ok(())
    }

    pub(crate) fn status(&self) -> SandboxStatus {
        SandboxStatus {
            spec: self.spec_now(),
            created_at: self.created_at,
            containers: self.containers().iter().map(|c| c.status()).collect(),
            socket: None,
        }
    }

    /// The last attempt of each.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        containers.values().cloned().collect()
    }

    pub(crate) fn container(&self, name: &str) -> Option<Arc<Container>> {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        containers.get(name).cloned()
    }
}

/// One attempt of a container.
pub(crate) struct Container {
    pub(crate) node: Arc<Node>,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) spec: ContainerSpec,
    pub(crate) image: Arc<Image>,
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) env: Arc<[(String, String)]>,
    pub(crate) log: Arc<Log>,
    pub(crate) handles: Arc<Handles>,
    pub(crate) folders: Arc<Folders>,
    pub(crate) memory: Arc<Account>,
    pub(crate) cpu: Arc<Cpu>,
    pub(crate) traffic: Traffic,
    /// How its instances are used again; as asked for, where that can be.
    pub(crate) reuse: Option<Reuse>,
    pub(crate) notices: Notices,
    pub(crate) denials: Denials,
    /// Whom its requests believe over TLS.
    pub(crate) trust: Trust,
    pub(crate) phase: watch::Sender<Phase>,
    /// When a stop's grace ends; None before a stop.
    pub(crate) stop: watch::Sender<Option<Instant>>,
    ending: AtomicBool,
    pub(crate) started_at: Timestamp,
    life: Mutex<Life>,
}

struct Life {
    state: ContainerState,
    bound: Vec<SocketAddr>,
}

impl Container {
    pub(crate) fn new(
        node: Arc<Node>,
        sandbox: Arc<Sandbox>,
        spec: ContainerSpec,
        image: Arc<Image>,
        compiled: Arc<Compiled>,
        folders: Arc<Folders>,
    ) -> Arc<Container> {
        let started_at = Timestamp::now();
        Arc::new(Container {
            env: environment(&sandbox.spec, &spec).into(),
            log: Log::new(spec.log_path.clone(), spec.log_limit),
            handles: Arc::default(),
            folders,
            memory: Account::new(spec.memory_limit, Some(sandbox.memory.clone())),
            cpu: Cpu::new(spec.cpu_limit, spec.cpu_weight, Some(sandbox.cpu.clone())),
            traffic: Traffic::new(&spec.http),
            reuse: spec.http.reuse.filter(|_| crate::http::may_reuse(&compiled)),
            notices: Notices::default(),
            denials: Denials::default(),
            trust: Trust::default(),
            phase: watch::Sender::new(Phase::Serving),
            stop: watch::Sender::new(None),
            ending: AtomicBool::new(false),
            started_at,
            life: Mutex::new(Life {
                state: ContainerState::Running { started_at },
                bound: Vec::new(),
            }),
            node,
            sandbox,
            spec,
            image,
            compiled,
        })
    }

    pub(crate) fn is_command(&self) -> bool {
        matches!(self.compiled.program, Program::Command(_) | Program::AsyncCommand(_))
    }

    pub(crate) fn is_exited(&self) -> bool {
        self.life().state.is_exited()
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let life = self.life();
        ContainerStatus {
            name: self.spec.name.clone(),
            attempt: self.spec.attempt,
            image_digest: self.spec.image.digest.clone(),
            state: life.state.clone(),
            bound: life.bound.clone(),
            usage: self.used(),
            pid: None,
            process: None,
        }
    }

    /// What it used until now.
    pub(crate) fn used(&self) -> Usage {
        Usage {
            memory_bytes: self.memory.used(),
            cpu_nanoseconds: self.cpu.used(),
            ..self.traffic.usage()
        }
    }

    pub(crate) fn usage(&self) -> ContainerUsage {
        ContainerUsage {
            sandbox: self.sandbox.spec.id.clone(),
            container: self.spec.name.clone(),
            attempt: self.spec.attempt,
            started_at: self.started_at,
            connections: self.traffic.accepted(),
            open_connections: self.traffic.connections(),
            usage: self.used(),
        }
    }

    /// Gives it other limits while it runs.
    pub(crate) fn resize(&self, resources: &Resources) -> Result<(), Problem> {
        let name = format!("container {:?}", self.spec.name);
        fits(&name, resources.memory_limit, self.memory.used())?;
        self.memory.set_limit(resources.memory_limit);
        self.cpu.resize(resources.cpu_limit, resources.cpu_weight);
        Ok(())
    }

    pub(crate) fn set_bound(&self, bound: Vec<SocketAddr>) {
        self.life().bound = bound;
    }

    pub(crate) fn bound(&self) -> Vec<SocketAddr> {
        self.life().bound.clone()
    }

    /// Tells people what it was asked for and cannot do.
    fn object(&self) {
        if self.spec.http.reuse.is_some() && self.reuse.is_none() {
            let why = match self.compiled.program {
                Program::AsyncHttp(_) => "instances of WASI 0.3 are not kept",
                _ => "the component is written in JavaScript, whose instances answer but once",
            };
            self.notice(NoticeKind::NotReused, || {
                format!("instances are not used again: {why}; every request gets a fresh one")
            });
        }
    }

    /// Tells the agent how it is.
    pub(crate) fn announce(&self) {
        self.node.events.push(&self.sandbox.spec.id, self.status());
        if !self.is_exited() {
            self.object();
        }
    }

    /// Moves on to a later phase; true if it was not there yet.
    pub(crate) fn enter(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        })
    }

    /// The one way to exit: stops listening, publishes the exit (so that the next attempt can bind
    /// the same addresses), and drops what still runs after `linger`. The first call counts.
    pub(crate) async fn exit(self: &Arc<Self>, exit: Exit, linger: Duration) {
        if self.ending.swap(true, Relaxed) {
            return;
        }
        self.enter(Phase::Over);
        if linger.is_zero() {
            self.enter(Phase::Killed);
        }
        self.traffic.idle.close();
        for address in self.bound() {
            self.node.listeners.close(self, address).await;
        }
        if !exit.message.is_empty() && exit.code != 0 {
            self.log.write_last(Stream::Err, &exit.message);
        }
        // Whoever hears of the exit may read the log next.
        self.log.flush(LAST_WORDS).await;
        {
            let mut life = self.life();
            life.bound.clear();
            life.state = ContainerState::Exited {
                code: exit.code,
                reason: exit.reason,
                message: exit.message,
                started_at: self.started_at,
                finished_at: Timestamp::now(),
            };
        }
        self.announce();
        tokio::time::sleep(linger).await;
        self.enter(Phase::Killed);
        self.log.close_if_quiet();
    }

    /// [`Container::exit`] from where one cannot wait. Answers on their way have a moment to leave.
    pub(crate) fn exit_soon(self: &Arc<Self>, exit: Exit) {
        let container = self.clone();
        self.enter(Phase::Over);
        self.node.handle.spawn(async move {
            container.exit(exit, Duration::from_millis(100)).await;
        });
    }

    fn life(&self) -> std::sync::MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a memory limit below what is in use: nothing would come of it but the container's end.
fn fits(what: &str, limit: Option<u64>, used: u64) -> Result<(), Problem> {
    match limit {
        Some(limit) if limit < used => Err(Problem::memory_in_use(what, limit, used)),
        _ => Ok(()),
    }
}

/// The last of equal names counts; HOSTNAME is set as container runtimes do.
fn environment(sandbox: &SandboxSpec, spec: &ContainerSpec) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::with_capacity(spec.env.len() + 1);
    let hostname =
        (!sandbox.hostname.is_empty()).then(|| ("HOSTNAME".to_owned(), sandbox.hostname.clone()));
    for (name, value) in hostname.into_iter().chain(spec.env.iter().cloned()) {
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => env.push((name, value)),
        }
    }
    env
}

/// Milliseconds on a clock that is cheap to read often.
#[derive(Debug, Default)]
pub(crate) struct Stamp(AtomicU64);

impl Stamp {
    pub(crate) fn touch(&self) {
        self.0.store(Self::now(), Relaxed);
    }

    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(Self::now().saturating_sub(self.0.load(Relaxed)))
    }

    fn now() -> u64 {
        static START: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed().as_millis() as u64
    }
}
