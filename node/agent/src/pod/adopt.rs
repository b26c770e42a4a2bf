//! A Pod's state at the moment that this agent first sees it: new, or already running in a host that outlived the
//! last agent, or known to the API from before the machine (or its host) went down. Pure.

use coracle_sandbox::{ContainerState, ContainerStatus, SandboxStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, ContainerStatus as Reported, Pod, PodStatus,
};

use crate::pod::lifecycle::{Phase, PodState, Process, Role, Sandbox, Termination, Told};
use crate::pod::spec;

/// The state to go on from.
pub fn adopt(pod: &Pod, sandbox: Option<&SandboxStatus>, now: Timestamp) -> PodState {
    let status = pod.status.as_ref();
    let start = status.and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
    let mut state = PodState::new(spec::rules(pod), start);
    state.active_deadline = spec::active_deadline(pod);
    state.grace = spec::grace(pod);
    let in_host = |name: &str| sandbox.is_some_and(|s| s.containers.iter().any(|c| c.name == name));
    for known in reported(status) {
        recall(&mut state, known, in_host(&known.name), now);
    }
    state.settled = match status.and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => Some(true),
        Some("Failed") => Some(false),
        _ => None,
    };
    if let Some(sandbox) = sandbox {
        state.sandbox = Sandbox::Ready;
        state.ip = sandbox.spec.ips.first().copied();
        for container in &sandbox.containers {
            let told = reported(status).find(|c| c.name == container.name);
            take_over(&mut state, container, told);
        }
        let main_ran = |c: &crate::pod::lifecycle::Container| {
            c.rule.role == Role::Main && (c.started_once || in_host(&c.rule.name))
        };
        state.past_init = state.containers.iter().any(main_ran);
    } else if state.outcome().is_some() {
        state.sandbox = Sandbox::Gone;
        state.ip = status.and_then(|s| s.pod_ip.as_ref()?.parse().ok());
    } else {
        state.init_anew();
    }
    state
}

fn reported(status: Option<&PodStatus>) -> impl Iterator<Item = &Reported> {
    status.into_iter().flat_map(|s| {
        let all = s.init_container_statuses.iter().chain(&s.container_statuses);
        all.chain(&s.ephemeral_container_statuses).flatten()
    })
}

/// What was told of its first process; of a Wasm component, nothing.
fn process(known: &Reported) -> Option<Process> {
    let user = known.user.as_ref()?.linux.as_ref()?;
    let number = |number: i64| u32::try_from(number).ok();
    Some(Process {
        user: number(user.uid)?,
        group: number(user.gid)?,
        groups: user.supplemental_groups.iter().flatten().filter_map(|g| number(*g)).collect(),
        stop_signal: known.stop_signal.clone().unwrap_or_default().into(),
    })
}

fn termination(was: &ContainerStateTerminated, now: Timestamp) -> Termination {
    Termination {
        code: was.exit_code,
        reason: was.reason.clone().unwrap_or_default().into(),
        message: was.message.clone().unwrap_or_default().into(),
        started_at: was.started_at.as_ref().map_or(now, |t| t.0),
        finished_at: was.finished_at.as_ref().map_or(now, |t| t.0),
    }
}

/// What the API was told: restarts, how the last attempt ended, and what is over for good. What was running without its
/// host is over too.
fn recall(state: &mut PodState, known: &Reported, host_has_it: bool, now: Timestamp) {
    let Some(container) = state.container(&known.name) else { return };
    container.image_digest = known.image_id.as_str().into();
    container.process = process(known).map(Box::new);
    let last = known.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    // One that was waited for had not been counted.
    let awaited = last.is_some() && known.state.as_ref().is_some_and(|s| s.waiting.is_some());
    container.restarts = u32::try_from(known.restart_count).unwrap_or(0) + u32::from(awaited);
    container.last = last.map(|t| termination(t, now).into());
    let Some(was) = &known.state else { return };
    let ended = if let Some(t) = &was.terminated {
        termination(t, now)
    } else if let Some(running) = &was.running
        && !host_has_it
    {
        Termination {
            code: 137,
            reason: "ContainerStatusUnknown".into(),
            message: "The container was not found when the node came back".into(),
            started_at: running.started_at.as_ref().map_or(now, |t| t.0),
            finished_at: now,
        }
    } else {
        container.started_once = container.restarts > 0 || was.running.is_some();
        return;
    };
    container.settle(ended);
}

fn take_over(state: &mut PodState, found: &ContainerStatus, told: Option<&Reported>) {
    match &found.state {
        ContainerState::Created => {
            if let Some(container) = state.container(&found.name) {
                container.restarts = found.attempt;
                container.phase = Phase::Starting;
            }
        }
        ContainerState::Running { started_at } => {
            let attempt = i64::from(found.attempt);
            let told = told.filter(|t| i64::from(t.restart_count) == attempt);
            let told = Told {
                running: told
                    .is_some_and(|t| t.state.as_ref().is_some_and(|s| s.running.is_some())),
                started: told.is_some_and(|t| t.started == Some(true)),
                ready: told.is_some_and(|t| t.ready),
            };
            state.adopt_running(&found.name, found.attempt, *started_at, told);
            if let Some(container) = state.container(&found.name) {
                container.process =
                    found.process.as_deref().cloned().map(|told| Box::new(told.into()));
            }
        }
        ContainerState::Exited { code, reason, message, started_at, finished_at } => {
            let Some(container) = state.container(&found.name) else { return };
            // Older than what was already told, and counted.
            let counted = matches!(container.phase, Phase::Exited(_));
            if found.attempt < container.restarts || counted {
                return;
            }
            container.restarts = found.attempt;
            container.settle(Termination {
                code: *code,
                reason: reason.as_str().into(),
                message: message.as_str().into(),
                started_at: *started_at,
                finished_at: *finished_at,
            });
        }
    }
}

#[cfg(test)]
mod tests;
