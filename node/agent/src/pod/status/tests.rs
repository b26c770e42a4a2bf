use super::*;
use crate::pod::lifecycle::{Event, HookKind, Process};
use serde_json::{Value, json};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn pod(spec: Value, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "generation": 4},
        "spec": spec, "status": status,
    }))
    .unwrap()
}

/// A Pod after these events.
fn after(pod: &Pod, events: Vec<Event>) -> PodState {
    let mut state = PodState::new(spec::rules(pod), at(0));
    state.step(Event::Tick, at(0));
    for event in events {
        state.step(event, at(1));
    }
    state
}

fn told(pod: &Pod, state: &PodState) -> Value {
    json!(status(pod, state, None, pod.status.as_ref(), "192.0.2.1", at(9)))
}

fn ready() -> Event {
    Event::SandboxReady("10.1.0.9".parse().unwrap())
}

fn up(name: &str) -> Vec<Event> {
    vec![
        Event::Pulled { container: name.into(), digest: "sha256:1".into() },
        Event::Started { container: name.into(), attempt: 0, at: at(1), process: None },
    ]
}

fn down(name: &str, attempt: u32, code: i32) -> Event {
    let how = Termination {
        code,
        reason: "Error".into(),
        message: "m".repeat(20_000).into(),
        started_at: at(1),
        finished_at: at(2),
    };
    Event::Exited { container: name.into(), attempt, how }
}

fn condition<'a>(told: &'a Value, name: &str) -> &'a Value {
    let all = told["conditions"].as_array().unwrap();
    all.iter().find(|c| c["type"] == name).unwrap_or(&Value::Null)
}

#[test]
fn a_status_is_the_same_when_it_is_read_again() {
    let pod = pod(json!({"containers": [{"name": "a"}]}), Value::Null);
    let odd = |seconds| at(seconds) + jiff::SignedDuration::from_nanos(123_456_789);
    let mut state = PodState::new(spec::rules(&pod), odd(0));
    let how = Termination {
        code: 1,
        reason: "Error".into(),
        message: "".into(),
        started_at: odd(1),
        finished_at: odd(2),
    };
    let exited = Event::Exited { container: "a".into(), attempt: 0, how };
    for event in [vec![Event::Tick, ready()], up("a"), vec![exited]].concat() {
        state.step(event, odd(1));
    }
    let told = status(&pod, &state, None, None, "192.0.2.1", odd(9));
    let text = serde_json::to_string(&told).unwrap();
    assert!(text.contains("finishedAt"), "{text}");
    assert_eq!(serde_json::from_str::<PodStatus>(&text).unwrap(), told);
}

#[test]
fn what_a_container_was_started_as_is_told() {
    let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/r", "readOnly": true},
        {"name": "v", "mountPath": "/rr", "readOnly": true, "recursiveReadOnly": "IfPossible"}]);
    let pod = pod(json!({"containers": [{"name": "a", "volumeMounts": mounts}]}), json!({}));
    let first =
        |events: Vec<Event>| told(&pod, &after(&pod, events))["containerStatuses"][0].clone();
    let mounted = json!([{"name": "v", "mountPath": "/v"},
        {"name": "v", "mountPath": "/r", "readOnly": true, "recursiveReadOnly": "Disabled"},
        {"name": "v", "mountPath": "/rr", "readOnly": true, "recursiveReadOnly": "Enabled"}]);
    let waiting = first(vec![ready()]);
    assert_eq!((&waiting["volumeMounts"], &waiting["resources"]), (&mounted, &json!({})));
    assert_eq!((&waiting["user"], &waiting["stopSignal"]), (&Value::Null, &Value::Null));
    let process =
        Process { user: 7, group: 8, groups: [8, 9].into(), stop_signal: "SIGQUIT".into() };
    let mut events = vec![ready()];
    events.extend(up("a"));
    if let Some(Event::Started { process: told, .. }) = events.last_mut() {
        *told = Some(Box::new(process));
    }
    events.push(down("a", 0, 3));
    let ended = first(events);
    let user = json!({"linux": {"uid": 7, "gid": 8, "supplementalGroups": [8, 9]}});
    assert_eq!((&ended["user"], &ended["stopSignal"]), (&user, &json!("SIGQUIT")));
}

#[test]
fn ephemeral_containers_are_told_of_and_nothing_depends_on_them() {
    let debugger = json!([{"name": "debugger", "image": "tools"}]);
    let pod =
        pod(json!({"containers": [{"name": "a"}], "ephemeralContainers": debugger}), json!({}));
    let all = |events: Vec<Vec<Event>>| {
        let events = events.into_iter().flatten().collect();
        let told = told(&pod, &after(&pod, events));
        assert_eq!(told["containerStatuses"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            (&told["phase"], &condition(&told, "Ready")["status"]),
            (&json!("Running"), &json!("True"))
        );
        told["ephemeralContainerStatuses"][0].clone()
    };
    let it = all(vec![vec![ready()], up("a")]);
    assert_eq!((&it["name"], &it["image"]), (&json!("debugger"), &json!("tools")));
    assert_eq!(it["state"]["waiting"]["reason"], "ContainerCreating");
    let it = all(vec![vec![ready()], up("a"), up("debugger")]);
    assert!(it["state"]["running"].is_object() && it["ready"] == false, "{it}");
    // It ends once, whatever the Pod's policy is.
    let it = all(vec![vec![ready()], up("a"), up("debugger"), vec![down("debugger", 0, 3)]]);
    assert_eq!(
        (&it["state"]["terminated"]["exitCode"], &it["restartCount"]),
        (&json!(3), &json!(0))
    );
}

#[test]
fn phases_follow_the_containers() {
    let events = |lists: Vec<Vec<Event>>| lists.into_iter().flatten().collect::<Vec<_>>();
    let sidecar = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    let plain = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
    for (spec, events, phase) in [
        (plain("Always"), vec![], "Pending"),
        (plain("Always"), vec![ready()], "Pending"),
        (plain("Always"), events(vec![vec![ready()], up("a")]), "Running"),
        (plain("Always"), events(vec![vec![ready()], up("a"), vec![down("a", 0, 1)]]), "Running"),
        (plain("Never"), events(vec![vec![ready()], up("a"), vec![down("a", 0, 1)]]), "Failed"),
        (plain("Never"), events(vec![vec![ready()], up("a"), vec![down("a", 0, 0)]]), "Succeeded"),
        (sidecar.clone(), events(vec![vec![ready()], up("s")]), "Pending"),
        (sidecar.clone(), events(vec![vec![ready()], up("s"), up("a")]), "Running"),
        (
            sidecar.clone(),
            events(vec![vec![ready()], up("s"), up("a"), vec![down("a", 0, 0)]]),
            "Running",
        ),
        (
            sidecar,
            events(vec![vec![ready()], up("s"), up("a"), vec![down("a", 0, 0), down("s", 0, 143)]]),
            "Succeeded",
        ),
        // What was to run for ever and is deleted ends as its containers did.
        (
            plain("Always"),
            events(vec![
                vec![ready()],
                up("a"),
                vec![Event::Delete { grace_seconds: 9 }, down("a", 0, 0)],
            ]),
            "Succeeded",
        ),
        (
            plain("Always"),
            events(vec![vec![ready()], up("a"), vec![Event::Evict { message: "full".into() }]]),
            "Running",
        ),
        (
            plain("Always"),
            events(vec![
                vec![ready()],
                up("a"),
                vec![Event::Evict { message: "full".into() }, down("a", 0, 137)],
            ]),
            "Failed",
        ),
    ] {
        let pod = pod(spec, json!({}));
        let said = format!("{events:?}");
        let told = told(&pod, &after(&pod, events));
        assert_eq!(told["phase"], phase, "{said}\n{told:#}");
        let evicted = said.contains("Evict") && phase == "Failed";
        assert_eq!(told["reason"] == "Evicted" && told["message"] == "full", evicted, "{told:#}");
    }
}

#[test]
fn conditions_say_what_is_not_met() {
    let spec = json!({
        "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}, {"name": "b"}],
        "readinessGates": [{"conditionType": "shop/lb"}, {"conditionType": "shop/dns"}],
    });
    let others = json!({"conditions": [
        {"type": "shop/dns", "status": "False"}, {"type": "PodScheduled", "status": "True"},
    ]});
    let pod = pod(spec, others);
    let first = told(&pod, &after(&pod, vec![ready()]));
    let initialized = condition(&first, "Initialized");
    assert_eq!(initialized["reason"], "ContainersNotInitialized");
    assert_eq!(initialized["message"], "containers with incomplete status: [i]");
    assert_eq!(initialized["observedGeneration"], 4);
    assert_eq!(
        condition(&first, "ContainersReady")["message"],
        "containers with unready status: [a b]"
    );
    assert_eq!(condition(&first, "PodReadyToStartContainers")["status"], "True");
    let scheduled = condition(&first, "PodScheduled");
    assert_eq!(
        (&scheduled["status"], &scheduled["observedGeneration"]),
        (&json!("True"), &json!(4))
    );
    let waiting = &first["initContainerStatuses"][0]["state"]["waiting"]["reason"];
    assert_eq!(waiting, "PodInitializing");

    let mut events = vec![ready()];
    events.extend(up("i"));
    events.push(down("i", 0, 0));
    events.extend(up("a"));
    events.extend(up("b"));
    let told = told(&pod, &after(&pod, events));
    assert_eq!(condition(&told, "Initialized")["status"], "True");
    assert_eq!(condition(&told, "ContainersReady")["status"], "True");
    let ready = condition(&told, "Ready");
    assert_eq!(ready["reason"], "ReadinessGatesNotReady");
    assert_eq!(
        ready["message"],
        "corresponding condition of pod readiness gate \"shop/lb\" does not exist., the status of pod readiness gate \"shop/dns\" is not \"True\", but False"
    );
    assert_eq!(told["initContainerStatuses"][0]["ready"], true);
    assert_eq!(told["initContainerStatuses"][0]["started"], false);
}

#[test]
fn a_container_is_told_of_in_upstreams_words() {
    let spec = json!({"containers": [
        {"name": "a", "image": "a:1", "lifecycle": {"postStart": {"sleep": {"seconds": 1}}},
         "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "1Mi"}}},
        {"name": "b", "image": "b:1"},
    ]});
    let pod = pod(spec, json!({}));
    let mut events = vec![ready()];
    events.extend(up("a"));
    let mut state = after(&pod, events);
    let before = told(&pod, &state);
    let first = &before["containerStatuses"][0];
    assert_eq!(first["state"]["waiting"]["reason"], "ContainerCreating", "its hook runs");
    let done = Event::Hooked {
        container: "a".into(),
        attempt: 0,
        kind: HookKind::PostStart,
        result: Ok(()),
    };
    state.step(done, at(2));
    let told_running = told(&pod, &state);
    let first = &told_running["containerStatuses"][0];
    assert_eq!((&first["ready"], &first["started"]), (&json!(true), &json!(true)));
    assert_eq!(first["allocatedResources"], json!({"cpu": "10m"}));
    assert_eq!(
        first["resources"],
        json!({"requests": {"cpu": "10m"}, "limits": {"memory": "1Mi"}})
    );
    for attempt in 0..2 {
        for event in up("b") {
            let event = match event {
                Event::Started { container, at, process, .. } => {
                    Event::Started { container, attempt, at, process }
                }
                other => other,
            };
            state.step(event, at(3));
        }
        state.step(down("b", attempt, 7), at(4));
    }
    let told_down = told(&pod, &state);
    let second = &told_down["containerStatuses"][1];
    let waiting = &second["state"]["waiting"];
    assert_eq!(waiting["reason"], "CrashLoopBackOff");
    assert_eq!(waiting["message"], "back-off 10s restarting failed container=b pod=web_shop(u-1)");
    let last = &second["lastState"]["terminated"];
    // Restarted at once, and then no more: the next attempt is still to come.
    assert_eq!((&last["exitCode"], &second["restartCount"]), (&json!(7), &json!(1)));
    assert_eq!(second["containerID"], last["containerID"]);
    assert_eq!(last["message"].as_str().unwrap().len(), 6 << 10, "12 KiB for all containers");
}
