//! Stops: the `preStop` hook first, then, where the whole Pod ends, sidecars after those that started after them, and
//! all of it within the grace period.

use jiff::Timestamp;

use super::container::Container;
use super::types::{Action, Ending, HookKind, Phase, Role, Sandbox, StopStep, Termination};
use super::{PodState, later};

/// What a container gets when a hook, or waiting for its turn, used its grace up.
const LEAST_GRACE: u32 = 2;

impl Container {
    /// Sets a stop going, if it runs.
    pub(super) fn begin_stop(
        &mut self,
        grace_seconds: u32,
        why: String,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let (Phase::Running { since } | Phase::Hooking { since }) = self.phase else { return };
        actions.push(self.report(false, "Killing", why));
        let until = later(now, grace_seconds);
        let hooked = self.rule.pre_stop && grace_seconds > 0;
        let step = if hooked { StopStep::Hook } else { StopStep::Turn };
        self.phase = Phase::Stopping { since, until, step };
        if hooked {
            let (container, attempt) = (self.rule.name.to_string(), self.restarts);
            actions.push(Action::Hook { container, attempt, kind: HookKind::PreStop });
        }
    }

    /// The grace is shorter now.
    fn hurry(&mut self, grace_seconds: u32, now: Timestamp, actions: &mut Vec<Action>) {
        let told = self.phase.told();
        if let Phase::Stopping { until, .. } = &mut self.phase {
            *until = later(now, grace_seconds).min(*until);
            if told {
                let container = self.rule.name.to_string();
                actions.push(Action::Stop { container, grace_seconds });
            }
        }
    }

    /// Tells the host, if nothing is to be waited for any more.
    fn go_on_stopping(
        &mut self,
        has_turn: bool,
        forced: bool,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let Phase::Stopping { until, step, .. } = &mut self.phase else { return };
        let over = now >= *until;
        let waits = match step {
            StopStep::Hook => !over,
            StopStep::Turn => !over && !has_turn,
            StopStep::Told => true,
        };
        if waits {
            return;
        }
        let left = until.duration_since(now);
        let left = left.as_secs().max(0) + i64::from(left.subsec_nanos() > 0);
        let mut grace_seconds = u32::try_from(left).unwrap_or(u32::MAX);
        if !forced && (self.rule.pre_stop || !has_turn) {
            grace_seconds = grace_seconds.max(LEAST_GRACE);
        }
        *step = StopStep::Told;
        actions.push(Action::Stop { container: self.rule.name.to_string(), grace_seconds });
    }

    /// Its `preStop` hook is done.
    pub(super) fn hook_done(&mut self) {
        if let Phase::Stopping { step: step @ StopStep::Hook, .. } = &mut self.phase {
            *step = StopStep::Turn;
        }
    }

    fn stop_wake(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Stopping { until, step: StopStep::Hook | StopStep::Turn, .. } => Some(until),
            _ => None,
        }
    }
}

impl PodState {
    /// The Pod is to end, or to end sooner.
    pub(super) fn end(&mut self, how: Ending, now: Timestamp, actions: &mut Vec<Action>) {
        let grace = how.grace(self.grace);
        self.ending = Some(how);
        for container in &mut self.containers {
            container.hurry(grace, now, actions);
        }
    }

    /// Asks everything that runs to stop; true once nothing runs or is under way.
    pub(super) fn stop_all(
        &mut self,
        grace_seconds: u32,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> bool {
        for container in &mut self.containers {
            if container.phase == Phase::Pulling {
                // Nobody waits for the image any more; what comes of the pull is not looked at.
                container.phase = Phase::creating();
            }
            let why = format!("Stopping container {}", container.rule.name);
            container.begin_stop(grace_seconds, why, now, actions);
        }
        !self.containers.iter().any(Container::is_there)
    }

    /// Moves stops on.
    pub(super) fn go_on_stopping(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let whole = self.is_over() || self.changing;
        let forced = self.ending.as_ref().is_some_and(|e| e.grace(self.grace) == 0);
        // From the end: whether something is left of those that started later.
        let mut later_ones = false;
        for container in self.containers.iter_mut().rev() {
            let has_turn = !whole || container.rule.role != Role::Sidecar || !later_ones;
            container.go_on_stopping(has_turn, forced, now, actions);
            later_ones |= container.is_there();
        }
    }

    /// When a stop goes on by itself.
    pub(super) fn next_stop(&self) -> Option<Timestamp> {
        self.containers.iter().filter_map(Container::stop_wake).min()
    }

    pub(super) fn wind_down(&mut self, ending: &Ending, now: Timestamp, actions: &mut Vec<Action>) {
        if !self.stop_all(ending.grace(self.grace), now, actions) {
            return;
        }
        for container in &mut self.containers {
            if let Phase::Waiting { .. } = container.phase
                && (container.started_once || ending.fails())
                && !matches!(ending, Ending::Refused { .. })
            {
                let unstarted = || Termination {
                    code: 137,
                    reason: "ContainerStatusUnknown".into(),
                    message: "The container could not be located when the pod was terminated"
                        .into(),
                    started_at: now,
                    finished_at: now,
                };
                container.phase = Phase::Exited(match container.last.take() {
                    Some(last) => {
                        // The attempt that it waited for does not come.
                        container.restarts = container.restarts.saturating_sub(1);
                        last
                    }
                    None => unstarted().into(),
                });
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
}

impl Ending {
    /// Seconds that containers get; `own` is what their Pod's spec says.
    fn grace(&self, own: u32) -> u32 {
        match self {
            Ending::Deleted { grace_seconds } => *grace_seconds,
            Ending::Vanished | Ending::Refused { .. } => 0,
            Ending::DeadlineExceeded => own,
            // As the kubelet's evictions for want of local storage.
            Ending::Evicted { .. } => 1,
        }
    }

    /// The Pod stays, and has failed.
    pub(super) fn fails(&self) -> bool {
        matches!(self, Ending::DeadlineExceeded | Ending::Evicted { .. } | Ending::Refused { .. })
    }
}
