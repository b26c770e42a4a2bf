//! The life of a Pod as a pure function: `step(state, event) -> (state, actions)`.
//!
//! Nothing here does I/O or knows a runtime. [`PodState`] remembers; an [`Event`] says what happened; the
//! [`Action`]s returned are all that there is to do now, each asked for once: an action under way is a state
//! (`Pulling`, `Starting`, `Stopping`), left by the event that its worker posts. Time comes in with the event, and
//! [`PodState::wake`] says when to come back (back-off, probes, deadlines), so an idle Pod holds no timer.
//!
//! ```text
//! Sandbox:   Absent → Creating → Ready → Removing → Gone
//! Container: Waiting → Pulling → Starting → (Hooking →) Running → (Stopping →) Exited → Waiting (back-off) …
//! ```
//!
//! Follows the kubelet's rules. In the order of reading: the words in [`types`]; one container's attempts in
//! [`container`]; its probes in [`probing`]; how things end in [`stopping`]. Next in the trace: [`super::worker`].

mod container;
mod probing;
mod stopping;
mod types;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

pub use container::Container;
use probing::Verdict;
pub use types::{
    Action, ContainerRule, Ending, Event, HookKind, Phase, ProbeKind, ProbeRule, Process,
    RestartPolicy, RestartRule, Role, Sandbox, StopStep, Termination,
};

/// How long a sandbox that could not be made is waited for, in seconds.
const SANDBOX_RETRY: u32 = 2;
/// What people are told of a sandbox that is not what its Pod needs.
const CHANGED: &str = "Pod sandbox changed, it will be killed and re-created.";

/// Everything that the node remembers of a Pod's life.
#[derive(Debug, Clone)]
pub struct PodState {
    /// Containers, init containers first and ephemeral ones last, in the order of the spec.
    pub containers: Box<[Container]>,
    /// The sandbox.
    pub sandbox: Sandbox,
    /// The Pod's address, once it has a sandbox.
    pub ip: Option<IpAddr>,
    /// When the node took it on.
    pub start_time: Timestamp,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<u32>,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: u32,
    /// Why it is ending, once it is.
    pub ending: Option<Ending>,
    /// All init containers have let pass in this sandbox.
    pub past_init: bool,
    /// The sandbox is not what the Pod needs: another is made once what runs has ended, in its grace period.
    changing: bool,
    /// The outcome that the API had when this agent first saw the Pod: it stays, and nothing more is told.
    pub settled: Option<bool>,
    finished: bool,
}

/// What the API was told of a container that is found running.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// That this attempt runs: its `postStart` hook is done.
    pub running: bool,
    /// `started`.
    pub started: bool,
    /// `ready`.
    pub ready: bool,
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
            grace: 30,
            ending: None,
            past_init: false,
            changing: false,
            settled: None,
            finished: false,
        }
    }

    /// The container of that name.
    pub fn container(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| &*c.rule.name == name)
    }

    /// Takes a container over as it was found running. A hook that may not have been done is run once more: hooks are
    /// delivered at least once.
    pub fn adopt_running(&mut self, name: &str, attempt: u32, since: Timestamp, told: Told) {
        let Some(container) = self.container(name) else { return };
        container.restarts = attempt;
        if container.rule.post_start && !told.running {
            // `Started` is told once more when the host's events are read anew.
            container.phase = Phase::Starting;
            return;
        }
        container.run(since);
        container.recall_probes(told.started, told.ready);
    }

    /// On its way up, with nothing to tell of yet but that.
    pub fn is_starting(&self) -> bool {
        let fresh = |c: &Container| {
            !c.started_once
                && matches!(
                    &c.phase,
                    Phase::Waiting { reason: "ContainerCreating", .. }
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
        self.past_init || self.containers.iter().all(Container::lets_pass)
    }

    /// All that should run does, and is ready. So is a Pod that ends, while it does.
    pub fn ready(&self) -> bool {
        self.containers.iter().all(|c| !c.rule.role.serves() || c.ready())
    }

    /// Something of it runs, or may soon.
    pub fn is_active(&self) -> bool {
        self.containers.iter().any(Container::is_there)
    }

    /// `Succeeded` (`Some(true)`) or `Failed` (`Some(false)`), once nothing will run again but sidecars that end.
    pub fn outcome(&self) -> Option<bool> {
        if self.settled.is_some() {
            return self.settled;
        }
        if self.ending.as_ref().is_some_and(Ending::fails) {
            return Some(false);
        }
        // An init container that failed for good ends the Pod.
        let failed = |c: &Container| {
            c.rule.role == Role::Init && matches!(c.phase, Phase::Exited(_)) && !c.completed()
        };
        if !self.past_init && self.containers.iter().any(failed) {
            return Some(false);
        }
        let mut ok = true;
        for container in self.containers.iter().filter(|c| c.rule.role == Role::Main) {
            match &container.phase {
                Phase::Exited(how) => ok &= how.code == 0,
                _ => return None,
            }
        }
        Some(ok)
    }

    fn is_over(&self) -> bool {
        self.ending.is_some() || self.outcome().is_some()
    }

    /// When to post the next [`Event::Tick`]; `None`: not before something happens.
    pub fn wake(&self) -> Option<Timestamp> {
        // Exactly the times that `advance` acts on in this state: one that it does not act on would stay due for ever.
        if self.finished {
            return None;
        }
        let mut next = self.next_stop();
        let mut at = |time: Option<Timestamp>| next = next.into_iter().chain(time).min();
        for container in &self.containers {
            at(container.next_probe());
        }
        if self.is_over() {
            return next;
        }
        at(self.active_deadline.map(|deadline| later(self.start_time, deadline)));
        match self.sandbox {
            Sandbox::Absent { until, .. } => at(until),
            Sandbox::Ready if self.changing => {}
            Sandbox::Ready => self.in_turn().for_each(|index| {
                if let Phase::Waiting { until, .. } = self.containers[index].phase {
                    at(until);
                }
            }),
            Sandbox::Creating | Sandbox::Removing | Sandbox::Gone => {}
        }
        next
    }

    /// The containers that may start or run now: each init container lets the next one pass. Whoever wants to see what holds
    /// them up need not wait for it.
    fn in_turn(&self) -> impl Iterator<Item = usize> + use<'_> {
        let all = self.containers.len();
        let end = match self.past_init {
            true => all,
            false => {
                self.containers.iter().position(|c| !c.lets_pass()).map_or(all, |last| last + 1)
            }
        };
        let turn = move |index: &usize| match self.containers[*index].rule.role {
            Role::Ephemeral => true,
            Role::Init => *index < end && !self.past_init,
            Role::Main | Role::Sidecar => *index < end,
        };
        (0..all).filter(turn)
    }

    /// Takes an event in; the state moves, and what is to be done comes out.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take(event, now, &mut actions);
        self.advance(now, &mut actions);
        actions
    }

    fn take(&mut self, event: Event, now: Timestamp, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Delete { grace_seconds } => {
                let shorter = match &self.ending {
                    None => true,
                    Some(ending) if ending.fails() => true,
                    Some(Ending::Deleted { grace_seconds: old }) => grace_seconds < *old,
                    Some(_) => false,
                };
                if shorter {
                    self.end(Ending::Deleted { grace_seconds }, now, actions);
                }
            }
            Event::Vanish => self.end(Ending::Vanished, now, actions),
            Event::Joined(rule) => {
                if self.container(&rule.name).is_none() {
                    let mut all = std::mem::take(&mut self.containers).into_vec();
                    all.push(Container::new(rule));
                    self.containers = all.into();
                }
            }
            Event::Retry => {
                for container in &mut self.containers {
                    if let Phase::Waiting {
                        reason: "ContainerCreating" | "CreateContainerConfigError",
                        until: Some(_),
                        ..
                    } = container.phase
                    {
                        container.retry();
                    }
                }
            }
            Event::Evict { message } => {
                if !self.is_over() {
                    actions.push(report("Evicted", true, message.clone()));
                    self.end(Ending::Evicted { message }, now, actions);
                }
            }
            Event::ImageChanged { container } => {
                if let Some(c) = self.container(&container) {
                    c.retry();
                    let why =
                        format!("Container {container} definition changed, will be restarted");
                    self.start_again(&container, why, now, actions);
                }
            }
            Event::Resized { container } => {
                let why = format!("Container {container} resize requires restart");
                self.start_again(&container, why, now, actions);
            }
            Event::SandboxReady(ip) => {
                self.ip = Some(ip);
                self.sandbox = Sandbox::Ready;
            }
            Event::SandboxFailed(message) => {
                let until = Some(later(now, SANDBOX_RETRY));
                actions.push(report("FailedCreatePodSandBox", true, message.clone()));
                self.sandbox = Sandbox::Absent { until, message };
            }
            Event::SandboxRefused { reason, message } => {
                actions.push(report(reason, true, message.clone()));
                self.sandbox = Sandbox::Gone;
                self.end(Ending::Refused { reason, message }, now, actions);
            }
            Event::SandboxRemoved => self.sandbox = Sandbox::Gone,
            Event::HostLost => self.host_lost("the sandbox host ended", now, actions),
            Event::SandboxChanged => self.sandbox_changed(actions),
            Event::Pulled { container, digest } => {
                if let Some(c) = self.container(&container)
                    && c.phase == Phase::Pulling
                {
                    c.image_digest = digest.into();
                    c.phase = Phase::Starting;
                    let attempt = c.restarts;
                    actions.push(Action::Start { container, attempt });
                }
            }
            Event::Failed { container, reason, message } => {
                let over = self.is_over();
                if let Some(c) = self.container(&container)
                    && matches!(c.phase, Phase::Pulling | Phase::Starting)
                {
                    let (what, told) = match reason {
                        // What it waits for in creation is a volume.
                        "ContainerCreating" => ("FailedMount", message.clone()),
                        // As the kubelet has it of what comes after the image.
                        "CreateContainerConfigError"
                        | "CreateContainerError"
                        | "RunContainerError" => ("Failed", format!("Error: {message}")),
                        _ => ("Failed", message.clone()),
                    };
                    actions.push(c.report(true, what, told));
                    match reason {
                        // It was made, so that was an attempt, and this is its end.
                        "RunContainerError" => {
                            let how = Termination::of_start(message, now);
                            actions.extend(c.exit(how, over, false));
                        }
                        _ => c.fail(reason, message, now),
                    }
                }
            }
            Event::Started { container, attempt, at, process } => {
                if let Some(c) = self.container(&container)
                    && c.restarts == attempt
                    && process.is_some()
                {
                    c.process = process;
                }
                self.started(container, attempt, at, actions)
            }
            Event::Exited { container, attempt, how } => {
                let (over, planned) = (self.is_over(), self.changing);
                if let Some(c) = self.container(&container)
                    && c.restarts == attempt
                    && c.is_there()
                {
                    c.started_once = true;
                    actions.extend(c.exit(how, over, planned));
                }
            }
            Event::Probed { container, attempt, kind, result } => {
                let grace = self.grace;
                if let Some(c) = self.container(&container)
                    && c.restarts == attempt
                    && let Verdict::Kill(own) = c.probed(kind, result, now, actions)
                {
                    let restarts = if c.comes_back() { ", will be restarted" } else { "" };
                    let probe = kind.word().to_lowercase();
                    let why = format!("Container {container} failed {probe} probe{restarts}");
                    c.begin_stop(own.unwrap_or(grace), why, now, actions);
                }
            }
            Event::Hooked { container, attempt, kind, result } => {
                self.hooked(&container, attempt, kind, result, now, actions);
            }
        }
    }

    /// Has a container that runs end and start again, whatever its policy.
    fn start_again(
        &mut self,
        container: &str,
        why: String,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let (grace, over) = (self.grace, self.is_over());
        let Some(c) = self.container(container) else { return };
        if !over && c.phase.since().is_some() {
            c.again = true;
            c.begin_stop(grace, why, now, actions);
        }
    }

    fn started(
        &mut self,
        container: String,
        attempt: u32,
        since: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let ending = self.ending.is_some();
        let Some(c) = self.container(&container) else { return };
        if c.restarts != attempt || c.phase != Phase::Starting {
            return;
        }
        if c.rule.post_start && !ending {
            c.started_once = true;
            c.phase = Phase::Hooking { since };
            actions.push(Action::Hook { container, attempt, kind: HookKind::PostStart });
        } else {
            // Where the Pod was deleted while this started, `advance` stops it.
            c.run(since);
        }
    }

    fn hooked(
        &mut self,
        container: &str,
        attempt: u32,
        kind: HookKind,
        result: Result<(), String>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let grace = self.grace;
        let Some(c) = self.container(container) else { return };
        if c.restarts != attempt {
            return;
        }
        match (kind, &c.phase) {
            (HookKind::PostStart, Phase::Hooking { since }) => match result {
                Ok(()) => {
                    let since = *since;
                    c.run(since);
                }
                Err(why) => {
                    let message = format!("PostStartHook failed: {why}");
                    actions.push(c.report(true, "FailedPostStartHook", message));
                    c.begin_stop(grace, "FailedPostStartHook".to_owned(), now, actions);
                }
            },
            (HookKind::PreStop, Phase::Stopping { .. }) => {
                if let Err(why) = result {
                    let message = format!("PreStopHook failed: {why}");
                    actions.push(c.report(true, "FailedPreStopHook", message));
                }
                c.hook_done();
            }
            _ => {}
        }
    }

    /// The host is gone, and every attempt in it. In a new sandbox init containers run again.
    fn host_lost(&mut self, why: &str, now: Timestamp, actions: &mut Vec<Action>) {
        let over = self.is_over();
        self.changing = false;
        if self.sandbox != Sandbox::Gone {
            self.sandbox = Sandbox::Absent { until: None, message: String::new() };
        }
        for container in &mut self.containers {
            if let Some(since) = container.phase.since() {
                let how = Termination {
                    code: 137,
                    reason: "Error".into(),
                    message: why.into(),
                    started_at: since,
                    finished_at: now,
                };
                actions.extend(container.exit(how, over, true));
            } else if matches!(container.phase, Phase::Starting | Phase::Pulling) {
                container.phase = Phase::creating();
            }
        }
        if !self.is_over() {
            self.init_anew();
        }
    }

    /// What was made is not what the Pod needs. What runs in it is stopped, and starts again in the next.
    fn sandbox_changed(&mut self, actions: &mut Vec<Action>) {
        if self.is_over() || self.sandbox != Sandbox::Ready || self.changing {
            return;
        }
        self.changing = true;
        if self.containers.iter().any(|c| c.phase.since().is_some()) {
            actions.push(report("SandboxChanged", false, CHANGED.to_owned()));
        }
    }

    /// The next sandbox is a new one: what prepared the last has to prepare it, too.
    pub fn init_anew(&mut self) {
        self.past_init = false;
        let completed = |c: &&mut Container| c.rule.role == Role::Init && c.completed();
        self.containers.iter_mut().filter(completed).for_each(Container::repeat);
    }

    /// Everything that follows from the state alone.
    fn advance(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.finished {
            return;
        }
        if let Some(deadline) = self.active_deadline
            && now >= later(self.start_time, deadline)
            && !self.is_over()
        {
            let message = "Pod was active on the node longer than the specified deadline";
            actions.push(report("DeadlineExceeded", false, message.to_owned()));
            self.end(Ending::DeadlineExceeded, now, actions);
        }
        if let Some(ending) = self.ending.clone() {
            self.wind_down(&ending, now, actions);
        } else if self.outcome().is_some() {
            // Sidecars end with the last container; then the sandbox has no more use.
            if self.stop_all(self.grace, now, actions) && self.sandbox == Sandbox::Ready {
                self.sandbox = Sandbox::Removing;
                actions.push(Action::RemoveSandbox);
            }
        } else {
            if self.changing && self.stop_all(self.grace, now, actions) {
                self.host_lost(CHANGED, now, actions);
            }
            match &self.sandbox {
                Sandbox::Ready if self.changing => {}
                Sandbox::Absent { until, .. } if until.is_none_or(|until| now >= until) => {
                    self.sandbox = Sandbox::Creating;
                    actions.push(Action::CreateSandbox);
                }
                Sandbox::Ready => self.start_what_is_due(now, actions),
                _ => {}
            }
        }
        self.go_on_stopping(now, actions);
        for container in &mut self.containers {
            container.probe(now, actions);
        }
    }

    fn start_what_is_due(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        self.past_init |= self.containers.iter().all(Container::lets_pass);
        let due = |index: &usize| match &self.containers[*index].phase {
            Phase::Waiting { until, .. } => until.is_none_or(|until| now >= until),
            _ => false,
        };
        let due: Vec<usize> = self.in_turn().filter(due).collect();
        for index in due {
            let container = &mut self.containers[index];
            container.phase = Phase::Pulling;
            actions.push(Action::Pull { container: container.rule.name.to_string() });
        }
    }
}

/// A report about the whole Pod.
fn report(reason: &'static str, warning: bool, message: String) -> Action {
    Action::Report { container: None, warning, reason, message }
}

fn later(time: Timestamp, seconds: u32) -> Timestamp {
    time.checked_add(Duration::from_secs(seconds.into())).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
