//! One container: its attempts, their ends, and the waits between them.

use jiff::Timestamp;

use super::later;
use super::probing::Probe;
use super::types::{
    Action, ContainerRule, Phase, ProbeKind, Process, RestartPolicy, Role, StopStep, Termination,
};

/// First delay of the crash-loop back-off, in seconds.
const BACKOFF_BASE: u32 = 10;
/// Longest delay of any back-off.
const BACKOFF_MAX: u32 = 300;
/// A container that ran this long starts its back-off anew.
const BACKOFF_RESET: i64 = 600;
/// First and longest delay where something else than an image is missing: a ConfigMap may come any moment.
const CONFIG_BACKOFF: (u32, u32) = (1, 10);

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
    pub last: Option<Box<Termination>>,
    /// Ever started.
    pub started_once: bool,
    /// `imageID`, once known.
    pub image_digest: Box<str>,
    /// What it was last started as.
    pub process: Option<Box<Process>>,
    /// One for each of the rule's, in its order.
    pub(super) probes: Box<[Probe]>,
    /// Starts again when it has ended, whatever its policy.
    pub(super) again: bool,
    backoff: u32,
    pull_backoff: u32,
}

impl Container {
    pub(super) fn new(rule: ContainerRule) -> Self {
        Self {
            phase: Phase::creating(),
            restarts: 0,
            last: None,
            started_once: false,
            image_digest: Box::default(),
            process: None,
            probes: rule.probes.iter().map(|_| Probe::default()).collect(),
            again: false,
            backoff: 0,
            pull_backoff: 0,
            rule,
        }
    }

    /// Runs as far as users are concerned: its hooks and probes are on.
    pub fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Running { .. } | Phase::Stopping { .. })
    }

    /// Running, and neither startup nor readiness probe holds it back.
    pub fn ready(&self) -> bool {
        self.is_alive() && self.passed(ProbeKind::Startup) && self.passed(ProbeKind::Readiness)
    }

    /// Running, and past its startup probe.
    pub fn started(&self) -> bool {
        self.is_alive() && self.passed(ProbeKind::Startup)
    }

    pub(super) fn passed(&self, kind: ProbeKind) -> bool {
        self.rule.probes.iter().zip(&self.probes).all(|(rule, p)| rule.kind != kind || p.passed)
    }

    /// Something of it exists in the host, or may soon.
    pub fn is_there(&self) -> bool {
        !matches!(self.phase, Phase::Waiting { .. } | Phase::Pulling | Phase::Exited(_))
    }

    /// An init container that ran to its end well.
    pub(super) fn completed(&self) -> bool {
        matches!(&self.phase, Phase::Exited(how) if how.code == 0)
    }

    /// An init container that no longer holds the next one back.
    pub fn lets_pass(&self) -> bool {
        match self.rule.role {
            Role::Main | Role::Ephemeral => true,
            Role::Init => self.completed(),
            Role::Sidecar => self.started(),
        }
    }

    fn restarts_after(&self, code: i32) -> bool {
        let ruled = self.rule.restart_rules.iter().any(|r| r.codes.contains(&code) == r.among);
        match self.rule.restart {
            _ if ruled || self.again => true,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// Whether it will run again after a liveness probe had it killed.
    pub(super) fn comes_back(&self) -> bool {
        self.restarts_after(137)
    }

    pub(super) fn run(&mut self, since: Timestamp) {
        self.phase = Phase::Running { since };
        self.started_once = true;
        self.pull_backoff = 0;
        for (rule, probe) in self.rule.probes.iter().zip(&mut self.probes) {
            *probe = Probe { due: later(since, rule.initial_delay), ..Probe::default() };
        }
    }

    /// A step towards a start failed: waits for its next try.
    pub(super) fn fail(&mut self, reason: &'static str, message: String, now: Timestamp) {
        let again = self.pull_backoff > 0;
        let (first, longest) = match reason {
            "CreateContainerConfigError" | "ContainerCreating" => CONFIG_BACKOFF,
            _ => (BACKOFF_BASE, BACKOFF_MAX),
        };
        self.pull_backoff = (self.pull_backoff * 2).clamp(first, longest);
        let reason = match reason {
            "ErrImagePull" if again => "ImagePullBackOff",
            other => other,
        };
        let until = Some(later(now, self.pull_backoff));
        self.phase = Phase::Waiting { reason, message: message.into(), until };
    }

    /// What it waits for may be there now: it need not wait longer.
    pub(super) fn retry(&mut self) {
        if let Phase::Waiting { until, .. } = &mut self.phase {
            *until = None;
            self.pull_backoff = 0;
        }
    }

    /// Takes an end over that happened while nobody watched: the next attempt, if any, is due at once.
    pub fn settle(&mut self, how: Termination) {
        self.started_once = true;
        self.exit(how, false, true);
    }

    /// The attempt is over: it waits for its next, or, with its Pod (`over`) or by its policy, it is done.
    pub(super) fn exit(&mut self, how: Termination, over: bool, planned: bool) -> Option<Action> {
        if over || !self.restarts_after(how.code) {
            self.phase = Phase::Exited(how.into());
            return None;
        }
        if how.finished_at.duration_since(how.started_at).as_secs() >= BACKOFF_RESET {
            self.backoff = 0;
        }
        // The first restart is immediate, as is one that the node itself caused.
        let planned = planned || std::mem::take(&mut self.again);
        let delay = if planned { 0 } else { self.backoff };
        if !planned {
            self.backoff = (self.backoff * 2).clamp(BACKOFF_BASE, BACKOFF_MAX);
        }
        let until = later(how.finished_at, delay);
        self.last = Some(how.into());
        self.restarts += 1;
        if delay == 0 {
            self.phase = Phase::creating();
            return None;
        }
        let name = &self.rule.name;
        let message = format!("back-off {} restarting failed container={name}", human(delay));
        self.phase = Phase::Waiting {
            reason: "CrashLoopBackOff",
            message: message.into(),
            until: Some(until),
        };
        let message = format!("Back-off restarting failed container {name}");
        Some(self.report(true, "BackOff", message))
    }

    /// It ran to its end, and has to do so again: its sandbox is another one now.
    pub(super) fn repeat(&mut self) {
        if let Phase::Exited(how) = std::mem::replace(&mut self.phase, Phase::creating()) {
            self.last = Some(how);
            self.restarts += 1;
        }
    }

    pub(super) fn report(&self, warning: bool, reason: &'static str, message: String) -> Action {
        Action::Report { container: Some(self.rule.name.to_string()), warning, reason, message }
    }
}

impl Phase {
    /// Nothing is known to be wrong.
    pub(super) fn creating() -> Phase {
        Phase::Waiting { reason: "ContainerCreating", message: Box::default(), until: None }
    }

    /// Running since when, hooks or stops notwithstanding.
    pub fn since(&self) -> Option<Timestamp> {
        match self {
            Phase::Hooking { since } | Phase::Running { since } | Phase::Stopping { since, .. } => {
                Some(*since)
            }
            _ => None,
        }
    }

    pub(super) fn told(&self) -> bool {
        matches!(self, Phase::Stopping { step: StopStep::Told, .. })
    }
}

/// As Go prints a duration.
fn human(seconds: u32) -> String {
    match seconds {
        s if s < 60 => format!("{s}s"),
        s => format!("{}m{}s", s / 60, s % 60),
    }
}
