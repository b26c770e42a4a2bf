use super::*;
use crate::pod::lifecycle::{Action, Event, HookKind};
use coracle_sandbox::{ExitReason, SandboxSpec};
use serde_json::{Value, json};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
        "spec": {
            "initContainers": [{"name": "init"}],
            "containers": [{"name": "main", "lifecycle": {
                "postStart": {"sleep": {"seconds": 1}}, "preStop": {"sleep": {"seconds": 1}}}}],
            "terminationGracePeriodSeconds": 12,
        },
        "status": status,
    }))
    .unwrap()
}

fn sandbox(containers: Vec<(&str, u32, ContainerState)>) -> SandboxStatus {
    let ips = vec!["10.1.0.9".parse().unwrap()];
    let containers = containers.into_iter().map(|(name, attempt, state)| ContainerStatus {
        name: name.into(),
        attempt,
        image_digest: String::new(),
        state,
        bound: vec![],
        usage: Default::default(),
        pid: None,
        process: None,
    });
    SandboxStatus {
        spec: SandboxSpec { id: "u-1".into(), ips, ..SandboxSpec::default() },
        created_at: at(0),
        containers: containers.collect(),
        socket: None,
    }
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: at(0) }
}

fn exited(code: i32) -> ContainerState {
    ContainerState::Exited {
        code,
        reason: ExitReason::Completed,
        message: String::new(),
        started_at: at(0),
        finished_at: at(1),
    }
}

fn pull(name: &str) -> Action {
    Action::Pull { container: name.into() }
}

/// What is done for a Pod by an agent that finds it so.
fn first_acts(status: Value, sandbox: Option<SandboxStatus>) -> Vec<Action> {
    adopt(&pod(status), sandbox.as_ref(), at(5)).step(Event::Tick, at(5))
}

fn main_status(state: Value, restarts: u32) -> Value {
    json!({"name": "main", "ready": true, "started": true, "restartCount": restarts,
        "image": "", "imageID": "sha256:1", "state": state})
}

fn init_done() -> Value {
    json!([{"name": "init", "ready": true, "restartCount": 0, "image": "", "imageID": "",
        "state": {"terminated": {"exitCode": 0}}}])
}

#[test]
fn an_agent_goes_on_from_every_phase() {
    let run = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let in_init = || sandbox(vec![("init", 0, running())]);
    let after_init = || sandbox(vec![("init", 0, exited(0))]);
    let serving = || sandbox(vec![("init", 0, exited(0)), ("main", 0, running())]);
    let told = json!({"phase": "Running", "initContainerStatuses": init_done(),
        "containerStatuses": [main_status(run.clone(), 0)]});
    for (name, status, sandbox, expected) in [
        ("new", json!({}), None, vec![Action::CreateSandbox]),
        ("in init", json!({"phase": "Pending"}), Some(in_init()), vec![]),
        ("after init", json!({"phase": "Pending"}), Some(after_init()), vec![pull("main")]),
        ("serving", told.clone(), Some(serving()), vec![]),
        // Its machine went down: everything runs once more, init containers too.
        ("lost", told, None, vec![Action::CreateSandbox]),
        ("ended", json!({"phase": "Failed", "reason": "Evicted"}), None, vec![]),
        (
            "ended, its sandbox left behind",
            json!({"phase": "Succeeded"}),
            Some(sandbox(vec![("init", 0, exited(0)), ("main", 0, exited(0))])),
            vec![Action::RemoveSandbox],
        ),
    ] {
        assert_eq!(first_acts(status, sandbox), expected, "{name}");
    }
}

#[test]
fn in_a_lost_sandbox_init_containers_run_again() {
    let run = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let told = json!({"phase": "Running", "initContainerStatuses": init_done(),
        "containerStatuses": [main_status(run, 2)]});
    let mut state = adopt(&pod(told), None, at(5));
    state.step(Event::Tick, at(5));
    let actions = state.step(Event::SandboxReady("10.1.0.9".parse().unwrap()), at(5));
    assert_eq!(actions, [pull("init")]);
    assert_eq!(state.containers.iter().map(|c| c.restarts).collect::<Vec<_>>(), [1, 3]);
}

/// What waits for its next attempt has been told of the last one only.
#[test]
fn a_wait_for_the_next_attempt_is_not_that_attempt() {
    let mut waits = main_status(json!({"waiting": {"reason": "CrashLoopBackOff"}}), 1);
    waits["lastState"] = json!({"terminated": {"exitCode": 7}});
    let told = json!({"initContainerStatuses": init_done(), "containerStatuses": [waits]});
    let ended = || sandbox(vec![("init", 0, exited(0)), ("main", 1, exited(7))]);
    let state = adopt(&pod(told), Some(&ended()), at(5));
    let main = state.containers.iter().find(|c| &*c.rule.name == "main").unwrap();
    assert_eq!(main.restarts, 2, "it has ended, and that is known");
}

/// A hook that was under way when the agent went is delivered once more, and one that was done is not.
#[test]
fn hooks_are_delivered_at_least_once() {
    let found = || sandbox(vec![("init", 0, exited(0)), ("main", 1, running())]);
    let run = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    for (state, hooks) in [
        (main_status(json!({"waiting": {"reason": "ContainerCreating"}}), 1), 1),
        (main_status(run.clone(), 0), 1),
        (main_status(run, 1), 0),
    ] {
        let told = json!({"initContainerStatuses": init_done(), "containerStatuses": [state]});
        let said = told.to_string();
        let mut state = adopt(&pod(told), Some(&found()), at(5));
        state.step(Event::Tick, at(5));
        // As the host tells it when its list is read anew.
        let actions = state.step(
            Event::Started { container: "main".into(), attempt: 1, at: at(0), process: None },
            at(5),
        );
        let hook = Action::Hook { container: "main".into(), attempt: 1, kind: HookKind::PostStart };
        assert_eq!(actions.iter().filter(|a| **a == hook).count(), hooks, "{said}");
    }
}

#[test]
fn a_pod_found_ending_is_ended() {
    let found = sandbox(vec![("init", 0, exited(0)), ("main", 0, running())]);
    let run = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let told = json!({"phase": "Running", "initContainerStatuses": init_done(),
        "containerStatuses": [main_status(run, 0)]});
    let mut state = adopt(&pod(told), Some(&found), at(5));
    assert_eq!(state.grace, 12);
    let actions = state.step(Event::Delete { grace_seconds: 4 }, at(5));
    let hook = |a: &Action| matches!(a, Action::Hook { kind: HookKind::PreStop, .. });
    assert!(actions.iter().any(hook), "{actions:?}");
}
