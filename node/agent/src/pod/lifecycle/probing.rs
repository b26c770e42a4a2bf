//! Probes as state: when the next is due, and what a run of answers means.

use jiff::Timestamp;

use super::container::Container;
use super::later;
use super::types::{Action, Phase, ProbeKind, ProbeRule};

/// A probe of a container that runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Probe {
    pub due: Timestamp,
    pub in_flight: bool,
    /// Passed its success threshold (readiness, startup).
    pub passed: bool,
    /// Equal answers in a row: above zero successes, below zero failures.
    pub streak: i32,
}

/// What an answer leads to beside the report of it.
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// The container is to be restarted, with so many seconds of grace; the Pod's where none is said.
    Kill(Option<u32>),
}

impl Container {
    /// The probes that may be asked now or later, in the state that the container is in. Startup goes first; a container
    /// that ends is only asked whether it is ready, as upstream does, since it may still serve.
    fn on(&self) -> impl Iterator<Item = (usize, &ProbeRule)> {
        let started = self.passed(ProbeKind::Startup);
        let running = matches!(self.phase, Phase::Running { .. });
        let alive = self.is_alive();
        self.rule.probes.iter().enumerate().filter(move |(index, rule)| match rule.kind {
            ProbeKind::Startup => running && !self.probes[*index].passed,
            ProbeKind::Liveness => running && started,
            ProbeKind::Readiness => alive && started,
        })
    }

    /// When the next probe is due.
    pub(super) fn next_probe(&self) -> Option<Timestamp> {
        let probes = self.on().map(|(index, _)| &self.probes[index]);
        probes.filter(|p| !p.in_flight).map(|p| p.due).min()
    }

    /// Asks what is due.
    pub(super) fn probe(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.probes.is_empty() {
            return;
        }
        let due: Vec<(usize, ProbeKind)> = self
            .on()
            .filter(|(index, _)| !self.probes[*index].in_flight && now >= self.probes[*index].due)
            .map(|(index, rule)| (index, rule.kind))
            .collect();
        for (index, kind) in due {
            self.probes[index].in_flight = true;
            let container = self.rule.name.to_string();
            actions.push(Action::Probe { container, attempt: self.restarts, kind });
        }
    }

    /// A probe answered.
    pub(super) fn probed(
        &mut self,
        kind: ProbeKind,
        result: Result<(), String>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Verdict {
        let Some(index) = self.rule.probes.iter().position(|r| r.kind == kind) else {
            return Verdict::Fine;
        };
        let is_on = self.on().any(|(on, _)| on == index);
        let (rule, probe) = (&self.rule.probes[index], &mut self.probes[index]);
        probe.in_flight = false;
        probe.due = later(now, rule.period);
        if !is_on {
            return Verdict::Fine;
        }
        let reached = |threshold: u32, streak: i32| streak.unsigned_abs() >= threshold;
        let why = match result {
            Ok(()) => {
                probe.streak = probe.streak.max(0).saturating_add(1);
                probe.passed |= reached(rule.success_threshold, probe.streak);
                return Verdict::Fine;
            }
            Err(why) => why,
        };
        probe.streak = probe.streak.min(0).saturating_sub(1);
        let failed = reached(rule.failure_threshold, probe.streak);
        if failed && kind == ProbeKind::Readiness {
            probe.passed = false;
        }
        let verdict = match failed && kind != ProbeKind::Readiness {
            true => Verdict::Kill(rule.grace_seconds),
            false => Verdict::Fine,
        };
        let message = format!("{} probe failed: {why}", kind.word());
        actions.push(self.report(true, "Unhealthy", message));
        verdict
    }

    /// Takes over what an earlier agent had found out.
    pub(super) fn recall_probes(&mut self, started: bool, ready: bool) {
        for (rule, probe) in self.rule.probes.iter().zip(&mut self.probes) {
            probe.passed = match rule.kind {
                ProbeKind::Startup => started,
                ProbeKind::Readiness => ready,
                ProbeKind::Liveness => false,
            };
        }
    }
}

impl ProbeKind {
    /// As events name it.
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}
