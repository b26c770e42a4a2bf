//! The life of a Pod as a pure function: `step(state, event) -> (state, actions)`.
//!
//! Nothing here does I/O or knows a runtime. [`PodState`] remembers; an [`Event`] says what happened; the
//! [`Action`]s returned are all that there is to do now, each asked for once: an action under way is a state
//! (`Pulling`, `Starting`, `Stopping`), left by the event that its worker posts. Time comes in with the event, and
//! [`PodState::wake`] says when to come back (back-off, probes, deadlines), so an idle Pod holds no timer.
//!
//! ```text
//! Sandbox:   Absent → Creating → Ready → Removing → Gone
//! Container: Waiting → Pulling → Starting → Running → (Stopping →) Exited → Waiting (back-off) …
//! ```
//!
//! Follows the kubelet's rules: init containers in order, restart policy, exponential back-off from 10 s to 5 min reset
//! by 10 min of running, probes with thresholds, termination grace. Next in the trace: [`super::worker`].

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

/// First delay of the crash-loop back-off.
const BACKOFF_BASE: Duration = Duration::from_secs(10);
/// Longest delay of any back-off.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A container that ran this long starts its back-off anew.
const BACKOFF_RESET: Duration = Duration::from_secs(600);

/// `spec.restartPolicy`.
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

/// A probe's numbers (`core/v1 Probe`), as defaulted by the API server.
#[derive(Debug, Clone)]
pub struct ProbeRule {
    /// Which one.
    pub kind: ProbeKind,
    /// `initialDelaySeconds`.
    pub initial_delay: Duration,
    /// `periodSeconds`.
    pub period: Duration,
    /// `successThreshold`.
    pub success_threshold: u32,
    /// `failureThreshold`.
    pub failure_threshold: u32,
}

/// What the life of a container depends on, taken from its spec.
#[derive(Debug, Clone)]
pub struct ContainerRule {
    /// Its name.
    pub name: String,
    /// Runs to completion before the others start.
    pub init: bool,
    /// Its own restart policy (an init container with `Always` is a sidecar).
    pub restart: RestartPolicy,
    /// Its probes.
    pub probes: Vec<ProbeRule>,
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

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Termination {
    /// Exit code.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`…
    pub reason: String,
    /// For people.
    pub message: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// Where a container is.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Nothing is under way; goes on at `until`, or when its turn comes.
    Waiting {
        /// `ContainerCreating`, `PodInitializing`, `ErrImagePull`, `CrashLoopBackOff`…
        reason: &'static str,
        /// For people.
        message: String,
        /// Not before.
        until: Option<Timestamp>,
    },
    /// Its image is being fetched and compiled. Left by `Pulled` or `Failed`.
    Pulling,
    /// Left by `Started` or `Failed`.
    Starting,
    /// Left by `Exited`, or by a stop.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Told to stop. Left by `Exited`.
    Stopping {
        /// Running since.
        since: Timestamp,
    },
    /// Over, and not (yet) to be restarted.
    Exited(Termination),
}

/// A probe of a running container.
#[derive(Debug, Clone)]
struct Probe {
    rule: ProbeRule,
    due: Timestamp,
    in_flight: bool,
    successes: u32,
    failures: u32,
    /// Passed its success threshold (readiness, startup).
    passed: bool,
}

/// What is remembered of one container.
#[derive(Debug, Clone)]
pub struct Container {
    /// From the spec.
    pub rule: ContainerRule,
    /// Where it is.
    pub phase: Phase,
    /// Which attempt is under way or last was; counts restarts.
    pub restarts: u32,
    /// How the attempt before this one ended.
    pub last: Option<Termination>,
    /// Ever started.
    pub started_once: bool,
    /// `imageID`, once known.
    pub image_digest: String,
    probes: Vec<Probe>,
    backoff: Duration,
    pull_backoff: Duration,
}

/// Everything that the node remembers of a Pod's life.
#[derive(Debug, Clone)]
pub struct PodState {
    /// Containers, init containers first, in the order of the spec.
    pub containers: Vec<Container>,
    /// The sandbox.
    pub sandbox: Sandbox,
    /// The Pod's address, once it has a sandbox.
    pub ip: Option<IpAddr>,
    /// When the node took it on.
    pub start_time: Timestamp,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
    /// Why it is ending, once it is.
    pub ending: Option<Ending>,
    finished: bool,
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
    /// The node takes its room away.
    Evict {
        /// For people.
        message: String,
    },
    /// The sandbox exists.
    SandboxReady(IpAddr),
    /// The sandbox could not be made.
    SandboxFailed(String),
    /// The sandbox is removed.
    SandboxRemoved,
    /// Every sandbox of the host is gone with it.
    HostLost,
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
        /// Which probe.
        kind: ProbeKind,
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
        /// Why, for the `Killing` event.
        message: String,
    },
    /// Run the probe; post `Probed`.
    Probe {
        /// Which container.
        container: String,
        /// Which probe.
        kind: ProbeKind,
    },
    /// Remove the sandbox; post `SandboxRemoved`.
    RemoveSandbox,
    /// Tell people (an API event).
    Report {
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

impl Container {
    fn new(rule: ContainerRule) -> Self {
        let reason = if rule.init { "PodInitializing" } else { "ContainerCreating" };
        Self {
            rule,
            phase: Phase::Waiting { reason, message: String::new(), until: None },
            restarts: 0,
            last: None,
            started_once: false,
            image_digest: String::new(),
            probes: Vec::new(),
            backoff: Duration::ZERO,
            pull_backoff: Duration::ZERO,
        }
    }

    /// Running, and neither startup nor readiness probe holds it back.
    pub fn ready(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
            && self.probes.iter().all(|p| p.rule.kind == ProbeKind::Liveness || p.passed)
    }

    /// Running, and past its startup probe.
    pub fn started(&self) -> bool {
        matches!(self.phase, Phase::Running { .. } | Phase::Stopping { .. })
            && self.probes.iter().all(|p| p.rule.kind != ProbeKind::Startup || p.passed)
    }

    fn is_sidecar(&self) -> bool {
        self.rule.init && self.rule.restart == RestartPolicy::Always
    }

    /// Ended, with nothing more to come of it.
    fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Exited(_))
    }

    /// An init container that no longer holds the next one back.
    fn lets_pass(&self) -> bool {
        if self.is_sidecar() {
            return self.started();
        }
        matches!(&self.phase, Phase::Exited(how) if how.code == 0)
    }

    fn restarts_after(&self, code: i32) -> bool {
        match self.rule.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }

    fn run(&mut self, since: Timestamp) {
        self.phase = Phase::Running { since };
        self.started_once = true;
        self.pull_backoff = Duration::ZERO;
        let probe = |rule: &ProbeRule| Probe {
            rule: rule.clone(),
            due: later(since, rule.initial_delay),
            in_flight: false,
            successes: 0,
            failures: 0,
            passed: false,
        };
        self.probes = self.rule.probes.iter().map(probe).collect();
    }

    /// Takes an end over that happened while nobody watched: the next attempt, if any, is due at once.
    pub fn settle(&mut self, how: Termination) {
        self.started_once = true;
        self.exit(how, false, true);
    }

    /// The attempt is over: it waits for its next, or it is done.
    fn exit(&mut self, how: Termination, ending: bool, planned: bool) -> Option<Action> {
        self.probes.clear();
        if ending || !self.restarts_after(how.code) {
            self.phase = Phase::Exited(how);
            return None;
        }
        let ran = how.finished_at.duration_since(how.started_at);
        if ran.as_secs() >= BACKOFF_RESET.as_secs() as i64 {
            self.backoff = Duration::ZERO;
        }
        // The first restart is immediate, as is one that the node itself caused.
        let delay = if planned { Duration::ZERO } else { self.backoff };
        if !planned {
            self.backoff = (self.backoff * 2).clamp(BACKOFF_BASE, BACKOFF_MAX);
        }
        let until = later(how.finished_at, delay);
        self.last = Some(how);
        self.restarts += 1;
        if delay.is_zero() {
            self.phase =
                Phase::Waiting { reason: "ContainerCreating", message: String::new(), until: None };
            return None;
        }
        let name = &self.rule.name;
        let message = format!("back-off {} restarting failed container={name}", human(delay));
        self.phase = Phase::Waiting {
            reason: "CrashLoopBackOff",
            message: message.clone(),
            until: Some(until),
        };
        let message = format!("Back-off restarting failed container {name}");
        Some(Action::Report { warning: true, reason: "BackOff", message })
    }
}

impl PodState {
    /// A Pod that nothing was done for yet.
    pub fn new(rules: Vec<ContainerRule>, start_time: Timestamp) -> Self {
        Self {
            containers: rules.into_iter().map(Container::new).collect(),
            sandbox: Sandbox::Absent { until: None, message: String::new() },
            ip: None,
            start_time,
            active_deadline: None,
            ending: None,
            finished: false,
        }
    }

    /// The container of that name.
    pub fn container(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.rule.name == name)
    }

    /// Takes a container over as it was found running, its probes starting anew but its readiness kept.
    pub fn adopt_running(&mut self, name: &str, attempt: u32, since: Timestamp, was_ready: bool) {
        if let Some(container) = self.container(name) {
            container.restarts = attempt;
            container.run(since);
            for probe in &mut container.probes {
                probe.passed = was_ready;
            }
        }
    }

    /// On its way up, with nothing to tell of yet but that.
    pub fn is_starting(&self) -> bool {
        let fresh = |c: &Container| {
            !c.started_once
                && matches!(
                    &c.phase,
                    Phase::Waiting { reason: "ContainerCreating" | "PodInitializing", .. }
                        | Phase::Pulling
                        | Phase::Starting
                )
        };
        let made = match &self.sandbox {
            Sandbox::Absent { message, .. } => message.is_empty(),
            Sandbox::Creating | Sandbox::Ready => true,
            Sandbox::Removing | Sandbox::Gone => false,
        };
        self.ending.is_none() && made && self.containers.iter().all(fresh)
    }

    /// Init containers have all let pass.
    pub fn initialized(&self) -> bool {
        self.containers.iter().filter(|c| c.rule.init).all(Container::lets_pass)
            || self.containers.iter().any(|c| !c.rule.init && c.started_once)
    }

    /// All that should run does, and is ready.
    pub fn ready(&self) -> bool {
        self.ending.is_none()
            && self.containers.iter().all(|c| {
                if c.rule.init && !c.is_sidecar() {
                    c.lets_pass() || self.initialized()
                } else {
                    c.ready()
                }
            })
    }

    /// `Succeeded` (`Some(true)`) or `Failed` (`Some(false)`), once nothing will run again.
    pub fn outcome(&self) -> Option<bool> {
        if self.ending.as_ref().is_some_and(Ending::fails) {
            return Some(false);
        }
        // An init container that failed for good ends the Pod.
        if let Some(failed) = self.containers.iter().find(|c| c.rule.init && c.is_done())
            && !failed.lets_pass()
            && !self.containers.iter().any(|c| !c.rule.init && c.started_once)
        {
            return Some(false);
        }
        let mut ok = true;
        for container in self.containers.iter().filter(|c| !c.rule.init) {
            match &container.phase {
                Phase::Exited(how) if self.ending.is_none() || container.started_once => {
                    ok &= how.code == 0;
                }
                _ => return None,
            }
        }
        // Ended by deletion: it counts as finished only if it would not have been restarted.
        if self.ending.is_some()
            && self.containers.iter().any(|c| match &c.phase {
                Phase::Exited(how) => !c.rule.init && c.restarts_after(how.code),
                _ => false,
            })
        {
            return None;
        }
        Some(ok)
    }

    /// When to post the next [`Event::Tick`]; `None`: not before something happens.
    pub fn wake(&self) -> Option<Timestamp> {
        // Exactly the times that `advance` acts on in this state: one that it does not act on would stay due for ever.
        if self.finished || self.ending.is_some() || self.outcome().is_some() {
            return None;
        }
        let mut times: Vec<Timestamp> = Vec::new();
        times.extend(self.active_deadline.map(|deadline| later(self.start_time, deadline)));
        match self.sandbox {
            Sandbox::Absent { until, .. } => times.extend(until),
            Sandbox::Ready => self.in_turn().for_each(|container| match container.phase {
                Phase::Waiting { until, .. } => times.extend(until),
                Phase::Running { .. } => {
                    let starting = !container.started();
                    let probes = container.probes.iter();
                    let next = probes.filter(|p| !p.in_flight && p.runs(starting));
                    times.extend(next.map(|p| p.due));
                }
                _ => {}
            }),
            Sandbox::Creating | Sandbox::Removing | Sandbox::Gone => {}
        }
        times.into_iter().min()
    }

    /// The containers that may start or run now: each init container lets the next one pass.
    fn in_turn(&self) -> impl Iterator<Item = &Container> {
        let past_init = self.past_init();
        let mut held = false;
        self.containers
            .iter()
            .filter(move |c| !c.rule.init || !past_init || c.is_sidecar())
            .take_while(move |container| {
                let turn = !held;
                held |= container.rule.init && !past_init && !container.lets_pass();
                turn
            })
    }

    fn past_init(&self) -> bool {
        self.containers.iter().any(|c| !c.rule.init && c.started_once)
    }

    /// Takes an event in; the state moves, and what is to be done comes out.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take(event, now, &mut actions);
        self.advance(now, &mut actions);
        actions
    }

    fn take(&mut self, event: Event, now: Timestamp, actions: &mut Vec<Action>) {
        let ending = self.ending.is_some();
        match event {
            Event::Tick => {}
            Event::Delete { grace_seconds } => {
                let shorter = match &self.ending {
                    None | Some(Ending::DeadlineExceeded | Ending::Evicted { .. }) => true,
                    Some(Ending::Deleted { grace_seconds: old }) => grace_seconds < *old,
                    Some(Ending::Vanished) => false,
                };
                if shorter {
                    self.end(Ending::Deleted { grace_seconds }, actions);
                }
            }
            Event::Vanish => self.end(Ending::Vanished, actions),
            Event::Evict { message } => {
                if self.ending.is_none() && self.outcome().is_none() {
                    let report = message.clone();
                    actions.push(Action::Report {
                        warning: true,
                        reason: "Evicted",
                        message: report,
                    });
                    self.end(Ending::Evicted { message }, actions);
                }
            }
            Event::SandboxReady(ip) => {
                self.ip = Some(ip);
                self.sandbox = Sandbox::Ready;
            }
            Event::SandboxFailed(message) => {
                let until = Some(later(now, Duration::from_secs(2)));
                actions.push(Action::Report {
                    warning: true,
                    reason: "FailedCreatePodSandBox",
                    message: message.clone(),
                });
                self.sandbox = Sandbox::Absent { until, message };
            }
            Event::SandboxRemoved => self.sandbox = Sandbox::Gone,
            Event::HostLost => {
                if self.sandbox != Sandbox::Gone {
                    self.sandbox = Sandbox::Absent { until: None, message: String::new() };
                }
                for container in &mut self.containers {
                    match container.phase {
                        Phase::Running { since } | Phase::Stopping { since } => {
                            let how = Termination {
                                code: 137,
                                reason: "Error".to_owned(),
                                message: "the sandbox host ended".to_owned(),
                                started_at: since,
                                finished_at: now,
                            };
                            actions.extend(container.exit(how, ending, true));
                        }
                        Phase::Starting | Phase::Pulling => {
                            container.phase = waiting("ContainerCreating");
                        }
                        Phase::Waiting { .. } | Phase::Exited(_) => {}
                    }
                }
            }
            Event::Pulled { container, digest } => {
                if let Some(c) = self.container(&container)
                    && c.phase == Phase::Pulling
                {
                    c.image_digest = digest;
                    c.phase = Phase::Starting;
                    let attempt = c.restarts;
                    actions.push(Action::Start { container, attempt });
                }
            }
            Event::Failed { container, reason, message } => {
                if let Some(c) = self.container(&container)
                    && matches!(c.phase, Phase::Pulling | Phase::Starting)
                {
                    let again = !c.pull_backoff.is_zero();
                    c.pull_backoff = (c.pull_backoff * 2).clamp(BACKOFF_BASE, BACKOFF_MAX);
                    let reason = match reason {
                        "ErrImagePull" if again => "ImagePullBackOff",
                        other => other,
                    };
                    let until = Some(later(now, c.pull_backoff));
                    actions.push(Action::Report {
                        warning: true,
                        reason: "Failed",
                        message: message.clone(),
                    });
                    c.phase = Phase::Waiting { reason, message, until };
                }
            }
            Event::Started { container, attempt, at } => {
                if let Some(c) = self.container(&container)
                    && c.restarts == attempt
                    && c.phase == Phase::Starting
                {
                    c.run(at);
                    if ending {
                        // Deleted while it started: `advance` stops it.
                        c.probes.clear();
                    }
                }
            }
            Event::Exited { container, attempt, how } => {
                if let Some(c) = self.container(&container)
                    && c.restarts == attempt
                    && !matches!(c.phase, Phase::Exited(_) | Phase::Waiting { .. })
                {
                    c.started_once = true;
                    actions.extend(c.exit(how, ending, false));
                }
            }
            Event::Probed { container, kind, result } => {
                if let Some(c) = self.container(&container) {
                    probed(c, kind, result, now, actions);
                }
            }
        }
    }

    fn end(&mut self, how: Ending, actions: &mut Vec<Action>) {
        let grace = how.grace();
        // A shorter grace is passed on to what is stopping already.
        for container in &self.containers {
            if matches!(container.phase, Phase::Stopping { .. }) {
                actions.push(stop(&container.rule.name, grace));
            }
        }
        self.ending = Some(how);
    }

    /// Everything that follows from the state alone.
    fn advance(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.finished {
            return;
        }
        if self.ending.is_none()
            && let Some(deadline) = self.active_deadline
            && now >= later(self.start_time, deadline)
            && self.outcome().is_none()
        {
            self.ending = Some(Ending::DeadlineExceeded);
            actions.push(Action::Report {
                warning: false,
                reason: "DeadlineExceeded",
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
            });
        }
        if let Some(ending) = self.ending.clone() {
            return self.wind_down(&ending, now, actions);
        }
        if self.outcome().is_some() {
            // Sidecars end with the last container; then the sandbox has no more use.
            if self.stop_all(30, actions) && self.sandbox == Sandbox::Ready {
                self.sandbox = Sandbox::Removing;
                actions.push(Action::RemoveSandbox);
            }
            return;
        }
        match &self.sandbox {
            Sandbox::Absent { until, .. } if until.is_none_or(|until| now >= until) => {
                self.sandbox = Sandbox::Creating;
                actions.push(Action::CreateSandbox);
            }
            Sandbox::Ready => self.drive(now, actions),
            _ => {}
        }
    }

    fn wind_down(&mut self, ending: &Ending, now: Timestamp, actions: &mut Vec<Action>) {
        if !self.stop_all(ending.grace(), actions) {
            return;
        }
        for container in &mut self.containers {
            if let Phase::Waiting { .. } = container.phase
                && (container.started_once || ending.fails())
            {
                let unstarted = Termination {
                    code: 137,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: "The container was not running when the Pod was ended".to_owned(),
                    started_at: now,
                    finished_at: now,
                };
                let how = container.last.take().unwrap_or(unstarted);
                container.phase = Phase::Exited(how);
            }
        }
        match self.sandbox {
            Sandbox::Ready => {
                self.sandbox = Sandbox::Removing;
                actions.push(Action::RemoveSandbox);
            }
            Sandbox::Absent { .. } | Sandbox::Gone => {
                self.sandbox = Sandbox::Gone;
                if !ending.fails() {
                    self.finished = true;
                    actions.push(Action::Finish);
                }
            }
            Sandbox::Creating | Sandbox::Removing => {}
        }
    }

    /// Asks everything that runs to stop; true once nothing runs or is under way.
    fn stop_all(&mut self, grace_seconds: u32, actions: &mut Vec<Action>) -> bool {
        let mut quiet = true;
        for container in &mut self.containers {
            match container.phase {
                Phase::Running { since } => {
                    container.phase = Phase::Stopping { since };
                    container.probes.clear();
                    actions.push(stop(&container.rule.name, grace_seconds));
                    quiet = false;
                }
                Phase::Stopping { .. } | Phase::Starting | Phase::Pulling => quiet = false,
                Phase::Waiting { .. } | Phase::Exited(_) => {}
            }
        }
        quiet
    }

    /// Starts what has its turn and probes what runs.
    fn drive(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let past_init = self.past_init();
        for index in 0..self.containers.len() {
            let container = &mut self.containers[index];
            if container.rule.init && past_init && !container.is_sidecar() {
                continue;
            }
            if let Phase::Waiting { until, .. } = &container.phase
                && until.is_none_or(|until| now >= until)
            {
                container.phase = Phase::Pulling;
                actions.push(Action::Pull { container: container.rule.name.clone() });
            }
            container.probe(now, actions);
            if container.rule.init && !past_init && !container.lets_pass() {
                // The next one waits for this one.
                break;
            }
        }
    }
}

impl Container {
    fn probe(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Running { .. }) {
            return;
        }
        let starting = !self.started();
        for probe in &mut self.probes {
            if probe.runs(starting) && !probe.in_flight && now >= probe.due {
                probe.in_flight = true;
                actions.push(Action::Probe {
                    container: self.rule.name.clone(),
                    kind: probe.rule.kind,
                });
            }
        }
    }
}

impl Probe {
    fn runs(&self, starting: bool) -> bool {
        match self.rule.kind {
            ProbeKind::Startup => !self.passed,
            ProbeKind::Liveness | ProbeKind::Readiness => !starting,
        }
    }
}

impl Ending {
    fn grace(&self) -> u32 {
        match self {
            Ending::Deleted { grace_seconds } => *grace_seconds,
            Ending::Vanished => 0,
            Ending::DeadlineExceeded => 30,
            // As the kubelet's evictions for want of local storage.
            Ending::Evicted { .. } => 1,
        }
    }

    /// The Pod stays, and has failed.
    fn fails(&self) -> bool {
        matches!(self, Ending::DeadlineExceeded | Ending::Evicted { .. })
    }
}

fn probed(
    container: &mut Container,
    kind: ProbeKind,
    result: Result<(), String>,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let Phase::Running { since } = container.phase else { return };
    let Some(probe) = container.probes.iter_mut().find(|p| p.rule.kind == kind) else { return };
    probe.in_flight = false;
    probe.due = later(now, probe.rule.period);
    match result {
        Ok(()) => {
            probe.failures = 0;
            probe.successes = probe.successes.saturating_add(1);
            if probe.successes >= probe.rule.success_threshold {
                probe.passed = true;
            }
        }
        Err(why) => {
            probe.successes = 0;
            probe.failures = probe.failures.saturating_add(1);
            let word = match kind {
                ProbeKind::Startup => "Startup",
                ProbeKind::Liveness => "Liveness",
                ProbeKind::Readiness => "Readiness",
            };
            let message = format!("{word} probe failed: {why}");
            actions.push(Action::Report { warning: true, reason: "Unhealthy", message });
            if probe.failures < probe.rule.failure_threshold {
                return;
            }
            if kind == ProbeKind::Readiness {
                probe.passed = false;
                return;
            }
            let name = &container.rule.name;
            actions.push(Action::Stop {
                container: name.clone(),
                grace_seconds: 30,
                message: format!(
                    "Container {name} failed {} probe, will be restarted",
                    word.to_lowercase()
                ),
            });
            container.phase = Phase::Stopping { since };
        }
    }
}

fn stop(container: &str, grace_seconds: u32) -> Action {
    Action::Stop {
        container: container.to_owned(),
        grace_seconds,
        message: format!("Stopping container {container}"),
    }
}

fn waiting(reason: &'static str) -> Phase {
    Phase::Waiting { reason, message: String::new(), until: None }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn human(delay: Duration) -> String {
    match delay.as_secs() {
        s if s < 60 => format!("{s}s"),
        s => format!("{}m{}s", s / 60, s % 60),
    }
}

#[cfg(test)]
mod tests;
