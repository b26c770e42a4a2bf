//! A Pod's state at the moment that this agent first sees it: new, or already running in a host that outlived the
//! last agent, or known to the API from before the machine (or its host) went down. Pure.

use coracle_sandbox::{ContainerState, ContainerStatus, SandboxStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus as Reported, Pod};

use crate::pod::lifecycle::{Phase, PodState, Sandbox, Termination};
use crate::pod::spec;

/// The state to go on from.
pub fn adopt(pod: &Pod, sandbox: Option<&SandboxStatus>, now: Timestamp) -> PodState {
    let status = pod.status.as_ref();
    let start = status.and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
    let mut state = PodState::new(spec::rules(pod), start);
    let deadline = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds);
    state.active_deadline =
        deadline.and_then(|s| u64::try_from(s).ok()).map(std::time::Duration::from_secs);
    let reported = status
        .iter()
        .flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten());
    for known in reported {
        recall(&mut state, known, sandbox.is_some(), now);
    }
    if let Some(sandbox) = sandbox {
        state.sandbox = Sandbox::Ready;
        state.ip = sandbox.spec.ips.first().copied();
        for container in &sandbox.containers {
            let was_ready = status
                .and_then(|s| s.container_statuses.as_ref())
                .is_some_and(|all| all.iter().any(|c| c.name == container.name && c.ready));
            take_over(&mut state, container, was_ready);
        }
    } else if state.outcome().is_some() {
        state.sandbox = Sandbox::Gone;
        state.ip = status.and_then(|s| s.pod_ip.as_ref()?.parse().ok());
    }
    state
}

/// What the API was told: restarts, how the last attempt ended, and what is over for good. What was running without its
/// host is over too.
fn recall(state: &mut PodState, known: &Reported, host_has_it: bool, now: Timestamp) {
    let Some(container) = state.container(&known.name) else { return };
    container.restarts = known.restart_count.try_into().unwrap_or(0);
    container.image_digest = known.image_id.clone();
    container.last =
        known.last_state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| Termination {
            code: t.exit_code,
            reason: t.reason.clone().unwrap_or_default(),
            message: t.message.clone().unwrap_or_default(),
            started_at: t.started_at.as_ref().map_or(now, |t| t.0),
            finished_at: t.finished_at.as_ref().map_or(now, |t| t.0),
        });
    let Some(was) = &known.state else { return };
    let ended = if let Some(t) = &was.terminated {
        Termination {
            code: t.exit_code,
            reason: t.reason.clone().unwrap_or_default(),
            message: t.message.clone().unwrap_or_default(),
            started_at: t.started_at.as_ref().map_or(now, |t| t.0),
            finished_at: t.finished_at.as_ref().map_or(now, |t| t.0),
        }
    } else if let Some(running) = &was.running
        && !host_has_it
    {
        Termination {
            code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "The container was not found when the node came back".to_owned(),
            started_at: running.started_at.as_ref().map_or(now, |t| t.0),
            finished_at: now,
        }
    } else {
        container.started_once = known.restart_count > 0 || was.running.is_some();
        return;
    };
    container.settle(ended);
}

fn take_over(state: &mut PodState, found: &ContainerStatus, was_ready: bool) {
    match &found.state {
        ContainerState::Created => {
            if let Some(container) = state.container(&found.name) {
                container.restarts = found.attempt;
                container.phase = Phase::Starting;
            }
        }
        ContainerState::Running { started_at } => {
            state.adopt_running(&found.name, found.attempt, *started_at, was_ready);
        }
        ContainerState::Exited { code, reason, message, started_at, finished_at } => {
            let Some(container) = state.container(&found.name) else { return };
            // Older than what was already told, and counted.
            if found.attempt < container.restarts {
                return;
            }
            container.restarts = found.attempt;
            container.settle(Termination {
                code: *code,
                reason: reason.as_str().to_owned(),
                message: message.clone(),
                started_at: *started_at,
                finished_at: *finished_at,
            });
        }
    }
}
