//! `status` of a Pod, from its spec and its state. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::lifecycle::{Container, Ending, Phase, PodState, Termination};
use crate::pod::spec;

/// What the API is to be told of a Pod. `before` is what it was told last: conditions keep their transition time
/// while they stay the same, and those of others (`PodScheduled`, readiness gates) are kept.
pub fn status(
    pod: &Pod,
    state: &PodState,
    before: Option<&PodStatus>,
    host_ip: &str,
    now: Timestamp,
) -> PodStatus {
    let phase = phase(state);
    let all: Vec<(bool, ContainerStatus)> = spec::containers(pod)
        .filter_map(|(init, c)| {
            let known = state.containers.iter().find(|k| k.rule.name == c.name)?;
            Some((init, container(c.image.as_deref().unwrap_or_default(), known)))
        })
        .collect();
    let unready = |init: bool| -> Vec<&str> {
        let waits = |c: &&Container| match init {
            true => {
                c.rule.init
                    && !matches!(&c.phase, Phase::Exited(how) if how.code == 0)
                    && !c.started()
            }
            false => !c.rule.init && !c.ready(),
        };
        state.containers.iter().filter(waits).map(|c| c.rule.name.as_str()).collect()
    };
    let done = matches!(phase, "Succeeded" | "Failed");
    let why = |list: Vec<&str>, reason: &'static str, word: &str| {
        if phase == "Succeeded" {
            (Some("PodCompleted"), None)
        } else if done {
            (Some("PodFailed"), None)
        } else {
            (Some(reason), Some(format!("containers with {word} status: [{}]", list.join(" "))))
        }
    };
    let initialized = state.initialized();
    let ready = state.ready() && !done;
    let mut conditions = Vec::new();
    let mut condition =
        |name: &str, met: bool, (reason, message): (Option<&str>, Option<String>)| {
            let status = if met { "True" } else { "False" };
            let old = before
                .and_then(|b| {
                    b.conditions.as_ref()?.iter().find(|c| c.type_ == name && c.status == status)
                })
                .and_then(|c| c.last_transition_time.clone());
            conditions.push(PodCondition {
                type_: name.to_owned(),
                status: status.to_owned(),
                reason: reason.filter(|_| !met).map(str::to_owned),
                message: message.filter(|_| !met),
                last_transition_time: Some(old.unwrap_or(Time(now))),
                ..PodCondition::default()
            });
        };
    condition("PodReadyToStartContainers", state.ip.is_some() && !done, (None, None));
    condition(
        "Initialized",
        initialized || phase == "Succeeded",
        why(unready(true), "ContainersNotInitialized", "incomplete"),
    );
    let unready = why(unready(false), "ContainersNotReady", "unready");
    condition("Ready", ready, unready.clone());
    condition("ContainersReady", ready, unready);
    let ours = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let known = pod.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    conditions.extend(known.filter(|c| !ours.contains(&c.type_.as_str())).cloned());

    let (init, main): (Vec<_>, Vec<_>) = all.into_iter().partition(|(init, _)| *init);
    let ip = state.ip.map(|ip| ip.to_string());
    let (reason, message) = match &state.ending {
        Some(Ending::DeadlineExceeded) => (
            Some("DeadlineExceeded"),
            Some("Pod was active on the node longer than the specified deadline".to_owned()),
        ),
        Some(Ending::Evicted { message }) => (Some("Evicted"), Some(message.clone())),
        _ => (None, None),
    };
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(main.into_iter().map(|(_, s)| s).collect()),
        init_container_statuses: (!init.is_empty())
            .then(|| init.into_iter().map(|(_, s)| s).collect()),
        host_ip: Some(host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: host_ip.to_owned() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: Some(Time(state.start_time)),
        observed_generation: pod.metadata.generation,
        reason: reason.map(str::to_owned),
        message,
        qos_class: pod.status.as_ref().and_then(|s| s.qos_class.clone()),
        ..PodStatus::default()
    }
}

fn phase(state: &PodState) -> &'static str {
    match state.outcome() {
        Some(true) => "Succeeded",
        Some(false) => "Failed",
        None if state.containers.iter().any(|c| !c.rule.init && c.started_once)
            && state
                .containers
                .iter()
                .all(|c| c.rule.init || c.started_once || c.last.is_some()) =>
        {
            "Running"
        }
        None => "Pending",
    }
}

fn container(image: &str, known: &Container) -> ContainerStatus {
    let terminated = |how: &Termination| ContainerStateTerminated {
        exit_code: how.code,
        reason: Some(how.reason.clone()),
        message: Some(how.message.clone()).filter(|m| !m.is_empty()),
        started_at: Some(Time(how.started_at)),
        finished_at: Some(Time(how.finished_at)),
        ..ContainerStateTerminated::default()
    };
    let waiting = |reason: &str, message: &str| ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()).filter(|m| !m.is_empty()),
        }),
        ..ContainerState::default()
    };
    let state = match &known.phase {
        Phase::Waiting { reason, message, .. } => waiting(reason, message),
        Phase::Pulling | Phase::Starting => waiting("ContainerCreating", ""),
        Phase::Running { since } | Phase::Stopping { since } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
            ..ContainerState::default()
        },
        Phase::Exited(how) => {
            ContainerState { terminated: Some(terminated(how)), ..ContainerState::default() }
        }
    };
    let completed_init =
        known.rule.init && matches!(&known.phase, Phase::Exited(how) if how.code == 0);
    ContainerStatus {
        name: known.rule.name.clone(),
        image: image.to_owned(),
        image_id: known.image_digest.clone(),
        ready: known.ready() || completed_init,
        started: Some(known.started()),
        restart_count: known.restarts.try_into().unwrap_or(i32::MAX),
        state: Some(state),
        last_state: known.last.as_ref().map(|how| ContainerState {
            terminated: Some(terminated(how)),
            ..ContainerState::default()
        }),
        container_id: known
            .started_once
            .then(|| format!("coracle://{}/{}", known.rule.name, known.restarts)),
        ..ContainerStatus::default()
    }
}
