//! The words of a Pod's life: what its containers' rules are, where things stand, what happens, what is to be done.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;

/// A restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    #[default]
    Always,
    /// After a failure.
    OnFailure,
    /// Not at all.
    Never,
}

/// A container's part in its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// One of `containers`.
    #[default]
    Main,
    /// One of `initContainers`: runs to completion before those after it start.
    Init,
    /// An init container with `restartPolicy: Always`: those after it start once it has, and it ends last.
    Sidecar,
    /// One of `ephemeralContainers`: joins a Pod that may run already, runs once, and nothing in the Pod depends on it.
    Ephemeral,
}

impl Role {
    /// Of an init container that is no sidecar, or of a main one.
    pub fn of(init: bool) -> Role {
        if init { Role::Init } else { Role::Main }
    }

    /// Whether the Pod is ready only while such a container is.
    pub fn serves(self) -> bool {
        matches!(self, Role::Main | Role::Sidecar)
    }

    /// Whether others wait for it before they start.
    pub fn goes_first(self) -> bool {
        matches!(self, Role::Init | Role::Sidecar)
    }
}

/// Exit codes after which a container starts again whatever its policy (`restartPolicyRules`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRule {
    /// Operator `In`; else `NotIn`.
    pub among: bool,
    /// The codes.
    pub codes: Box<[i32]>,
}

/// Which probe of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// Holds the other two back until it succeeds.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Decides whether the container is ready.
    Readiness,
}

/// A probe's numbers (`core/v1 Probe`), as defaulted by the API server; times in seconds.
#[derive(Debug, Clone)]
pub struct ProbeRule {
    /// Which one.
    pub kind: ProbeKind,
    /// `initialDelaySeconds`.
    pub initial_delay: u32,
    /// `periodSeconds`.
    pub period: u32,
    /// `successThreshold`.
    pub success_threshold: u32,
    /// `failureThreshold`.
    pub failure_threshold: u32,
    /// `terminationGracePeriodSeconds`; the Pod's where none is given.
    pub grace_seconds: Option<u32>,
}

/// Which hook of a container's `lifecycle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// Runs after the start; the container counts as running once it is done.
    PostStart,
    /// Runs before the stop, within the grace period.
    PreStop,
}

/// What the life of a container depends on, taken from its spec.
#[derive(Debug, Clone, Default)]
pub struct ContainerRule {
    /// Its name.
    pub name: Box<str>,
    /// Its part.
    pub role: Role,
    /// Its own restart policy, or its Pod's.
    pub restart: RestartPolicy,
    /// What goes before the policy.
    pub restart_rules: Box<[RestartRule]>,
    /// Its probes.
    pub probes: Box<[ProbeRule]>,
    /// Whether it has a `postStart` hook.
    pub post_start: bool,
    /// Whether it has a `preStop` hook.
    pub pre_stop: bool,
}

/// Where the sandbox is.
#[derive(Debug, Clone, PartialEq)]
pub enum Sandbox {
    /// To be made, not before `until`.
    Absent {
        /// After a failure, when to try again.
        until: Option<Timestamp>,
        /// Why the last attempt failed.
        message: String,
    },
    /// Being made.
    Creating,
    /// There.
    Ready,
    /// Being removed.
    Removing,
    /// Removed for good.
    Gone,
}

/// A container's first process, as its runtime says that it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// As whom.
    pub user: u32,
    /// Its primary group.
    pub group: u32,
    /// All groups.
    pub groups: Box<[u32]>,
    /// Signal that asks for its end.
    pub stop_signal: Box<str>,
}

impl From<coracle_sandbox::Process> for Process {
    fn from(told: coracle_sandbox::Process) -> Self {
        Self {
            user: told.user,
            group: told.group,
            groups: told.groups.into(),
            stop_signal: told.stop_signal.into(),
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Termination {
    /// Exit code.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`…
    pub reason: Cow<'static, str>,
    /// For people: the host's word and what the container left as its termination message.
    pub message: Box<str>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

impl Termination {
    /// The program could not be executed: the words and the code of container runtimes.
    pub(super) fn of_start(message: String, now: Timestamp) -> Termination {
        Termination {
            code: 128,
            reason: "StartError".into(),
            message: message.into(),
            started_at: now,
            finished_at: now,
        }
    }
}

/// How far a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStep {
    /// Its `preStop` hook runs. Left by `Hooked`, or when the grace is over.
    Hook,
    /// A sidecar whose Pod ends waits for those that started after it.
    Turn,
    /// The host was told. Left by `Exited`.
    Told,
}

/// Where a container is.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Nothing is under way; goes on at `until`, or when its turn comes.
    Waiting {
        /// `ContainerCreating`, `ErrImagePull`, `CrashLoopBackOff`…
        reason: &'static str,
        /// For people.
        message: Box<str>,
        /// Not before.
        until: Option<Timestamp>,
    },
    /// Its image is being fetched and compiled. Left by `Pulled` or `Failed`.
    Pulling,
    /// Left by `Started` or `Failed`.
    Starting,
    /// Runs, but does not count as running before its `postStart` hook is done. Left by `Hooked`, `Exited` or a stop.
    Hooking {
        /// Running since.
        since: Timestamp,
    },
    /// Left by `Exited`, or by a stop.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// On its way out.
    Stopping {
        /// Running since.
        since: Timestamp,
        /// When its grace is over.
        until: Timestamp,
        /// How far.
        step: StopStep,
    },
    /// Over, and not (yet) to be restarted.
    Exited(Box<Termination>),
}

/// Why a Pod ends before its containers do.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Deleted through the API: containers get until then.
    Deleted {
        /// The grace period in seconds.
        grace_seconds: u32,
    },
    /// Gone from the API already: ended by force, nothing to report.
    Vanished,
    /// `activeDeadlineSeconds` is over: the Pod fails.
    DeadlineExceeded,
    /// The node does not take such a Pod: it fails, and nothing of it was ever made.
    Refused {
        /// `SysctlForbidden`…
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// The node took its room away: the Pod fails.
    Evicted {
        /// For people.
        message: String,
    },
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Look again (a timer, or the start).
    Tick,
    /// Deletion was asked for, or its grace shortened.
    Delete {
        /// Seconds.
        grace_seconds: u32,
    },
    /// The Pod is gone from the API.
    Vanish,
    /// The Pod got one more container.
    Joined(ContainerRule),
    /// What containers wait for may be there now.
    Retry,
    /// The node takes its room away.
    Evict {
        /// For people.
        message: String,
    },
    /// The container's image is another one now.
    ImageChanged {
        /// Which container.
        container: String,
    },
    /// The container has to start again to have what it was given.
    Resized {
        /// Which container.
        container: String,
    },
    /// The sandbox exists.
    SandboxReady(IpAddr),
    /// The sandbox could not be made.
    SandboxFailed(String),
    /// The sandbox will not be made, whatever happens.
    SandboxRefused {
        /// `SysctlForbidden`…
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// The sandbox is removed.
    SandboxRemoved,
    /// Every sandbox of the host is gone with it.
    HostLost,
    /// The Pod needs another sandbox than it has, which goes with what still runs in it.
    SandboxChanged,
    /// The image is here and fit to start.
    Pulled {
        /// Which container.
        container: String,
        /// `imageID`.
        digest: String,
    },
    /// A step towards starting failed; it is tried again after a back-off.
    Failed {
        /// Which container.
        container: String,
        /// `ErrImagePull`, `CreateContainerError`, `CreateContainerConfigError`…
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// The attempt runs.
    Started {
        /// Which container.
        container: String,
        /// Which attempt.
        attempt: u32,
        /// Since when.
        at: Timestamp,
        /// As what; none of a Wasm component.
        process: Option<Box<Process>>,
    },
    /// The attempt is over.
    Exited {
        /// Which container.
        container: String,
        /// Which attempt.
        attempt: u32,
        /// How.
        how: Termination,
    },
    /// A probe answered.
    Probed {
        /// Which container.
        container: String,
        /// Which attempt was asked.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
        /// Whether it succeeded, or why not.
        result: Result<(), String>,
    },
    /// A hook is done.
    Hooked {
        /// Which container.
        container: String,
        /// Whose hook it was.
        attempt: u32,
        /// Which hook.
        kind: HookKind,
        /// Whether it succeeded, or why not.
        result: Result<(), String>,
    },
}

/// What to do now.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the sandbox; post `SandboxReady` or `SandboxFailed`.
    CreateSandbox,
    /// Fetch and prepare the image; post `Pulled` or `Failed`.
    Pull {
        /// Which container.
        container: String,
    },
    /// Start the attempt; post `Started` or `Failed`.
    Start {
        /// Which container.
        container: String,
        /// Which attempt.
        attempt: u32,
    },
    /// Ask it to end; `Exited` follows.
    Stop {
        /// Which container.
        container: String,
        /// Seconds until force.
        grace_seconds: u32,
    },
    /// Run the probe; post `Probed`.
    Probe {
        /// Which container.
        container: String,
        /// Which attempt.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
    },
    /// Run the hook; post `Hooked`.
    Hook {
        /// Which container.
        container: String,
        /// Which attempt.
        attempt: u32,
        /// Which hook.
        kind: HookKind,
    },
    /// Remove the sandbox; post `SandboxRemoved`.
    RemoveSandbox,
    /// Tell people (an API event).
    Report {
        /// About which container, if about one.
        container: Option<String>,
        /// A warning.
        warning: bool,
        /// `Unhealthy`, `BackOff`…
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// All is ended: report the last status and let the API object go.
    Finish,
}
