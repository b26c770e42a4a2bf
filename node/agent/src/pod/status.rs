//! `status` of a Pod, from its spec and its state, as the kubelet writes it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod,
    PodCondition, PodIP, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::lifecycle::{
    Container, Ending, Phase, PodState, Process, Role, Sandbox, Termination,
};
use crate::pod::resize::{self, Resize};
use crate::pod::spec;

/// Bytes of termination messages in one Pod's status.
const MESSAGES: usize = 12 << 10;
/// Conditions that the node decides on.
const OURS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// Those of them that come and go.
pub const GOING: [&str; 2] = [resize::PENDING, resize::IN_PROGRESS];

/// Whether the node decides on that condition.
pub fn is_ours(condition: &str) -> bool {
    OURS.contains(&condition) || GOING.contains(&condition)
}

/// What the API is to be told of a Pod. `before` is what it was told last: conditions keep their transition time
/// while they stay the same, and those of others (`PodScheduled`, readiness gates) are kept.
pub fn status(
    pod: &Pod,
    state: &PodState,
    resize: Option<&Resize>,
    before: Option<&PodStatus>,
    host_ip: &str,
    now: Timestamp,
) -> PodStatus {
    let phase = phase(state);
    let room = MESSAGES / state.containers.len().max(1);
    let waits = waiting_reason(state);
    let all = spec::containers(pod).filter_map(|(init, spec)| {
        let known = state.containers.iter().find(|k| *k.rule.name == *spec.name)?;
        let mut told = container(pod, spec, known, waits, room);
        if told.state.as_ref().is_some_and(|state| state.running.is_some())
            && let Some(has) = resize.and_then(|resize| resize.in_force(&spec.name))
            && let Some(resources) = &mut told.resources
        {
            resources.requests.clone_from(&has.requests);
            resources.limits.clone_from(&has.limits);
        }
        Some((init, told))
    });
    let (init, main): (Vec<_>, Vec<_>) = all.partition(|(init, _)| *init);
    let added: Vec<_> = spec::ephemeral(pod)
        .filter_map(|spec| {
            let known = state.containers.iter().find(|k| *k.rule.name == *spec.name)?;
            // Nobody asks whether it is ready.
            Some(ContainerStatus {
                ready: false,
                started: None,
                ..container(pod, &spec, known, waits, room)
            })
        })
        .collect();
    let ip = state.ip.map(|ip| ip.to_string());
    let (reason, message) = match &state.ending {
        _ if !matches!(phase, "Failed" | "Succeeded") => (None, None),
        Some(Ending::DeadlineExceeded) => (
            Some("DeadlineExceeded"),
            Some("Pod was active on the node longer than the specified deadline".to_owned()),
        ),
        Some(Ending::Refused { reason, message }) => {
            (Some(*reason), Some(format!("Pod was rejected: {message}")))
        }
        Some(Ending::Evicted { message }) => (Some("Evicted"), Some(message.clone())),
        _ => (None, None),
    };
    let mut conditions = conditions(pod, state, phase, before, now);
    if let Some(resize) = resize {
        let before = before.and_then(|b| b.conditions.as_deref()).unwrap_or_default();
        conditions.extend(resize.conditions(before, seconds(now).0));
    }
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(main.into_iter().map(|(_, s)| s).collect()),
        init_container_statuses: (!init.is_empty())
            .then(|| init.into_iter().map(|(_, s)| s).collect()),
        ephemeral_container_statuses: (!added.is_empty()).then_some(added),
        host_ip: Some(host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: host_ip.to_owned() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: Some(seconds(state.start_time)),
        observed_generation: pod.metadata.generation,
        reason: reason.map(str::to_owned),
        message,
        qos_class: pod.status.as_ref().and_then(|s| s.qos_class.clone()),
        ..PodStatus::default()
    }
}

/// Why a container waits that nothing is known to be wrong with.
pub fn waiting_reason(state: &PodState) -> &'static str {
    match state.containers.iter().any(|c| c.rule.role.goes_first()) {
        true => "PodInitializing",
        false => "ContainerCreating",
    }
}

/// A phase is only final once nothing runs any more: until then somebody may still use what the Pod holds.
fn phase(state: &PodState) -> &'static str {
    match state.outcome() {
        Some(true) if !state.is_active() => return "Succeeded",
        Some(false) if !state.is_active() => return "Failed",
        _ => {}
    }
    let ran =
        |c: &Container| c.is_alive() || c.last.is_some() || matches!(c.phase, Phase::Exited(_));
    let mut main = state.containers.iter().filter(|c| c.rule.role == Role::Main);
    match state.initialized() && main.all(ran) {
        true => "Running",
        false => "Pending",
    }
}

type Reason = (Option<&'static str>, Option<String>);

/// Ours, then those of others as they are.
fn conditions(
    pod: &Pod,
    state: &PodState,
    phase: &str,
    before: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let known = || pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let finished = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let names = |unmet: fn(&Container) -> bool, reason, word: &str| -> Option<Reason> {
        let unmet: Vec<&str> =
            state.containers.iter().filter(|c| unmet(c)).map(|c| &*c.rule.name).collect();
        let list = || format!("containers with {word} status: [{}]", unmet.join(" "));
        (!unmet.is_empty()).then(|| (Some(reason), Some(list())))
    };
    let unready = match finished {
        Some(reason) => Some((Some(reason), None)),
        None => names(|c| c.rule.role.serves() && !c.ready(), "ContainersNotReady", "unready"),
    };
    let uninitialized = match state.initialized() || phase == "Succeeded" {
        true => None,
        false => names(|c| !c.lets_pass(), "ContainersNotInitialized", "incomplete"),
    };
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let shut: Vec<String> = gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match known().find(|c| c.type_ == *name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
                Some(c) if c.status == "True" => None,
                Some(c) => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    c.status
                )),
            }
        })
        .collect();
    let closed =
        (!shut.is_empty()).then(|| (Some("ReadinessGatesNotReady"), Some(shut.join(", "))));
    let sandbox = match state.sandbox {
        Sandbox::Ready | Sandbox::Removing => None,
        _ => Some((None, None)),
    };
    let unmet = [sandbox, uninitialized, unready.clone().or(closed), unready];
    let mut all: Vec<PodCondition> = OURS
        .into_iter()
        .zip(unmet)
        .map(|(name, unmet)| {
            let status = if unmet.is_none() { "True" } else { "False" };
            let (mut reason, message) = unmet.unwrap_or_default();
            if name == "Initialized" && phase == "Succeeded" {
                reason = Some("PodCompleted");
            }
            let old = before
                .and_then(|b| b.conditions.as_ref())
                .and_then(|all| all.iter().find(|c| c.type_ == name && c.status == status))
                .and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: name.to_owned(),
                status: status.to_owned(),
                reason: reason.map(str::to_owned),
                message,
                last_transition_time: Some(old.unwrap_or(seconds(now))),
                observed_generation: pod.metadata.generation,
                ..PodCondition::default()
            }
        })
        .collect();
    all.extend(known().filter(|c| !is_ours(&c.type_)).cloned().map(|mut other| {
        // That it was scheduled stays so, whatever changes.
        if other.type_ == "PodScheduled" && other.status == "True" {
            other.observed_generation = pod.metadata.generation;
        }
        other
    }));
    all
}

fn container(
    pod: &Pod,
    spec: &Spec,
    known: &Container,
    waits: &str,
    room: usize,
) -> ContainerStatus {
    let id = |attempt: u32| format!("coracle://{}/{attempt}", known.rule.name);
    let terminated = |how: &Termination, attempt: u32| ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(id(attempt)),
            exit_code: how.code,
            reason: Some(how.reason.to_string()),
            message: Some(cut(&how.message, room).to_owned()).filter(|m| !m.is_empty()),
            started_at: Some(seconds(how.started_at)),
            finished_at: Some(seconds(how.finished_at)),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    let waiting = |reason: &str, message: String| ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message).filter(|m| !m.is_empty()),
        }),
        ..ContainerState::default()
    };
    let state = match &known.phase {
        Phase::Waiting { reason: "ContainerCreating", .. }
        | Phase::Pulling
        | Phase::Starting
        | Phase::Hooking { .. } => waiting(waits, String::new()),
        Phase::Waiting { reason: reason @ "CrashLoopBackOff", message, .. } => {
            waiting(reason, format!("{message} pod={}", spec::full_name(pod)))
        }
        Phase::Waiting { reason, message, .. } => waiting(reason, message.to_string()),
        Phase::Running { since } | Phase::Stopping { since, .. } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(seconds(*since)) }),
            ..ContainerState::default()
        },
        Phase::Exited(how) => terminated(how, known.restarts),
    };
    // An attempt counts once it is one: what is waited for is still to come.
    let before = known.restarts.saturating_sub(1);
    let awaited = state.waiting.is_some() && known.last.is_some();
    let attempt = if awaited { before } else { known.restarts };
    let completed_init = known.rule.role == Role::Init
        && matches!(&known.phase, Phase::Exited(how) if how.code == 0);
    // Told of where it could be resized: of what serves, and of nothing that ends by itself or was added later.
    let resources = known.rule.role.serves().then(|| spec.resources.clone().unwrap_or_default());
    let process = known.process.as_ref().filter(|_| known.started_once);
    ContainerStatus {
        name: known.rule.name.to_string(),
        image: spec.image.clone().unwrap_or_default(),
        image_id: known.image_digest.to_string(),
        ready: known.ready() || completed_init,
        started: Some(known.started()),
        restart_count: attempt.try_into().unwrap_or(i32::MAX),
        state: Some(state),
        last_state: known.last.as_ref().map(|how| terminated(how, before)),
        container_id: known.started_once.then(|| id(attempt)),
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
        resources: resources.map(|r| ResourceRequirements {
            limits: r.limits,
            requests: r.requests,
            ..ResourceRequirements::default()
        }),
        stop_signal: process.map(|p| p.stop_signal.to_string()).filter(|s| !s.is_empty()),
        user: process.map(|process| user(process)),
        volume_mounts: Some(mounts(spec)).filter(|mounts| !mounts.is_empty()),
        ..ContainerStatus::default()
    }
}

fn user(process: &Process) -> ContainerUser {
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: process.user.into(),
            gid: process.group.into(),
            supplemental_groups: Some(process.groups.iter().map(|group| (*group).into()).collect()),
        }),
    }
}

/// What is mounted, as far as its volumes are those of the spec.
fn mounts(spec: &Spec) -> Vec<VolumeMountStatus> {
    let mounts = spec.volume_mounts.iter().flatten().map(|mount| {
        let read_only = mount.read_only == Some(true);
        let recursive = match mount.recursive_read_only.as_deref() {
            Some("Enabled" | "IfPossible") => "Enabled",
            _ => "Disabled",
        };
        VolumeMountStatus {
            mount_path: mount.mount_path.clone(),
            name: mount.name.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| recursive.to_owned()),
            ..VolumeMountStatus::default()
        }
    });
    mounts.collect()
}

/// The first `room` bytes, whole characters only.
fn cut(text: &str, room: usize) -> &str {
    let mut end = room.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A time as statuses tell it, without what is finer: so it is the same when it is read again.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

#[cfg(test)]
mod tests;
