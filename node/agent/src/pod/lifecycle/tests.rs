use super::*;

fn rule(name: &str, restart: RestartPolicy) -> ContainerRule {
    ContainerRule { name: name.into(), init: false, restart, probes: vec![] }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn started(name: &str, attempt: u32, seconds: i64) -> Event {
    Event::Started { container: name.into(), attempt, at: at(seconds) }
}

fn exited(name: &str, attempt: u32, code: i32, seconds: i64) -> Event {
    let how = Termination {
        code,
        reason: "Error".into(),
        message: String::new(),
        started_at: at(seconds),
        finished_at: at(seconds),
    };
    Event::Exited { container: name.into(), attempt, how }
}

fn pulled(name: &str) -> Event {
    Event::Pulled { container: name.into(), digest: "sha256:1".into() }
}

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));

/// A Pod whose containers all run, at time 0.
fn running(rules: Vec<ContainerRule>) -> PodState {
    let names: Vec<String> = rules.iter().map(|r| r.name.clone()).collect();
    let mut pod = PodState::new(rules, at(0));
    assert_eq!(pod.step(Event::Tick, at(0)), [Action::CreateSandbox]);
    pod.step(Event::SandboxReady(IP), at(0));
    for name in names {
        pod.step(pulled(&name), at(0));
        pod.step(started(&name, 0, 0), at(0));
    }
    pod
}

#[test]
fn a_pod_starts_step_by_step_and_each_action_is_asked_for_once() {
    let mut pod = PodState::new(vec![rule("a", RestartPolicy::Always)], at(0));
    assert_eq!(pod.step(Event::Tick, at(0)), [Action::CreateSandbox]);
    assert_eq!(pod.step(Event::Tick, at(0)), []);
    assert_eq!(pod.step(Event::SandboxReady(IP), at(0)), [Action::Pull { container: "a".into() }]);
    assert_eq!(pod.step(Event::Tick, at(1)), []);
    assert_eq!(pod.step(pulled("a"), at(1)), [Action::Start { container: "a".into(), attempt: 0 }]);
    assert!(!pod.ready());
    assert_eq!(pod.step(started("a", 0, 1), at(1)), []);
    assert!(pod.ready());
    assert_eq!(pod.wake(), None);
}

#[test]
fn crashes_back_off_from_nothing_to_five_minutes() {
    let mut pod = running(vec![rule("a", RestartPolicy::Always)]);
    let mut now = 0;
    for (restart, expected) in [0, 10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        let attempt = restart as u32;
        let actions = pod.step(exited("a", attempt, 1, now), at(now));
        assert_eq!(pod.containers[0].restarts, attempt + 1);
        if expected == 0 {
            assert_eq!(actions, [Action::Pull { container: "a".into() }]);
        } else {
            assert!(matches!(
                pod.containers[0].phase,
                Phase::Waiting { reason: "CrashLoopBackOff", .. }
            ));
            assert_eq!(pod.wake(), Some(at(now + expected)));
            assert_eq!(pod.step(Event::Tick, at(now + expected - 1)), []);
            now += expected;
            assert_eq!(pod.step(Event::Tick, at(now)), [Action::Pull { container: "a".into() }]);
        }
        pod.step(pulled("a"), at(now));
        pod.step(started("a", attempt + 1, now), at(now));
    }
}

#[test]
fn restart_policy_decides_what_an_exit_means() {
    use RestartPolicy::*;
    for (policy, code, outcome) in [
        (Always, 0, None),
        (Always, 1, None),
        (OnFailure, 0, Some(true)),
        (OnFailure, 1, None),
        (Never, 0, Some(true)),
        (Never, 3, Some(false)),
    ] {
        let mut pod = running(vec![rule("a", policy)]);
        pod.step(exited("a", 0, code, 1), at(1));
        assert_eq!(pod.outcome(), outcome, "{policy:?} exit {code}");
    }
}

#[test]
fn init_containers_run_in_order_before_the_others() {
    let init = |name| ContainerRule { init: true, ..rule(name, RestartPolicy::OnFailure) };
    let rules = vec![init("one"), init("two"), rule("main", RestartPolicy::Always)];
    let mut pod = PodState::new(rules, at(0));
    pod.step(Event::Tick, at(0));
    assert_eq!(
        pod.step(Event::SandboxReady(IP), at(0)),
        [Action::Pull { container: "one".into() }]
    );
    for (name, next) in [("one", "two"), ("two", "main")] {
        pod.step(pulled(name), at(0));
        assert_eq!(pod.step(started(name, 0, 0), at(0)), []);
        assert!(!pod.initialized());
        let next = Action::Pull { container: next.into() };
        assert_eq!(pod.step(exited(name, 0, 0, 1), at(1)), [next]);
    }
    assert!(pod.initialized());
}

#[test]
fn deletion_stops_then_removes_then_finishes() {
    let mut pod = running(vec![rule("a", RestartPolicy::Always)]);
    let stop = |grace_seconds| Action::Stop {
        container: "a".into(),
        grace_seconds,
        message: "Stopping container a".into(),
    };
    assert_eq!(pod.step(Event::Delete { grace_seconds: 30 }, at(1)), [stop(30)]);
    assert_eq!(pod.step(Event::Delete { grace_seconds: 30 }, at(1)), []);
    assert_eq!(pod.step(Event::Delete { grace_seconds: 5 }, at(2)), [stop(5)]);
    assert!(!pod.ready());
    assert_eq!(pod.step(exited("a", 0, 0, 3), at(3)), [Action::RemoveSandbox]);
    assert_eq!(pod.step(Event::SandboxRemoved, at(3)), [Action::Finish]);
    assert_eq!(pod.step(Event::Tick, at(4)), []);
}

#[test]
fn a_pod_deleted_while_it_starts_is_stopped_once_it_runs() {
    let mut pod = PodState::new(vec![rule("a", RestartPolicy::Always)], at(0));
    pod.step(Event::Tick, at(0));
    pod.step(Event::SandboxReady(IP), at(0));
    pod.step(pulled("a"), at(0));
    assert_eq!(pod.step(Event::Delete { grace_seconds: 1 }, at(0)), []);
    assert!(matches!(pod.step(started("a", 0, 1), at(1))[..], [Action::Stop { .. }]));
}

#[test]
fn a_lost_host_restarts_everything_at_once_and_counts_it() {
    let mut pod = running(vec![rule("a", RestartPolicy::Always)]);
    assert_eq!(pod.step(Event::HostLost, at(5)), [Action::CreateSandbox]);
    assert_eq!(pod.containers[0].restarts, 1);
    assert_eq!(pod.containers[0].last.as_ref().map(|l| l.code), Some(137));
    let actions = pod.step(Event::SandboxReady(IP), at(5));
    assert_eq!(actions, [Action::Pull { container: "a".into() }]);
}

#[test]
fn probes_gate_readiness_and_restart_what_is_not_alive() {
    let probe = |kind, failure_threshold| ProbeRule {
        kind,
        initial_delay: Duration::from_secs(5),
        period: Duration::from_secs(10),
        success_threshold: 1,
        failure_threshold,
    };
    let probes = vec![probe(ProbeKind::Readiness, 1), probe(ProbeKind::Liveness, 2)];
    let mut pod = running(vec![ContainerRule { probes, ..rule("a", RestartPolicy::Always) }]);
    assert!(!pod.ready());
    assert_eq!(pod.wake(), Some(at(5)));
    assert_eq!(pod.step(Event::Tick, at(5)).len(), 2);
    let mut result = |kind, result: Result<(), String>, seconds| {
        let actions = pod.step(Event::Probed { container: "a".into(), kind, result }, at(seconds));
        (pod.ready(), actions)
    };
    assert!(result(ProbeKind::Readiness, Ok(()), 5).0);
    assert!(result(ProbeKind::Liveness, Err("no".into()), 5).0);
    let (ready, actions) = result(ProbeKind::Readiness, Err("HTTP 500".into()), 15);
    assert!(!ready);
    let Action::Report { message, .. } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(message, "Readiness probe failed: HTTP 500");
    let (_, actions) = result(ProbeKind::Liveness, Err("no".into()), 25);
    assert!(actions.iter().any(|a| matches!(a, Action::Stop { .. })), "{actions:?}");
}

#[test]
fn a_failed_pull_waits_longer_each_time() {
    let mut pod = PodState::new(vec![rule("a", RestartPolicy::Never)], at(0));
    pod.step(Event::Tick, at(0));
    pod.step(Event::SandboxReady(IP), at(0));
    for (now, until) in [(0, 10), (10, 30), (30, 70)] {
        let failed =
            Event::Failed { container: "a".into(), reason: "ErrImagePull", message: "no".into() };
        pod.step(failed, at(now));
        assert_eq!(pod.wake(), Some(at(until)));
        assert_eq!(pod.step(Event::Tick, at(until)), [Action::Pull { container: "a".into() }]);
    }
}

/// A container that its liveness probe had stopped kept the time of its next probe as the Pod's next wake: due at once,
/// acted on by nobody, and so due at once again, until the whole agent stood still. Whatever happens, after a step
/// nothing may be due that was not acted on.
#[test]
fn nothing_stays_due() {
    let probe = |kind| ProbeRule {
        kind,
        initial_delay: Duration::from_secs(1),
        period: Duration::from_secs(2),
        success_threshold: 1,
        failure_threshold: 1,
    };
    let init = ContainerRule { init: true, ..rule("init", RestartPolicy::OnFailure) };
    let sidecar = ContainerRule { init: true, ..rule("sidecar", RestartPolicy::Always) };
    let probes = vec![probe(ProbeKind::Startup), probe(ProbeKind::Liveness)];
    let main = |restart| ContainerRule { probes: probes.clone(), ..rule("main", restart) };
    let mut random = 1u64;
    let mut draw = |count: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % count
    };
    for round in 0..600 {
        let restart = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
        let restart = restart[draw(3) as usize];
        let mut pod = PodState::new(vec![init.clone(), sidecar.clone(), main(restart)], at(0));
        pod.active_deadline = (draw(3) == 0).then_some(Duration::from_secs(20));
        for now in 0..60 {
            let name = ["init", "sidecar", "main"][draw(3) as usize];
            let attempt = pod.container(name).map_or(0, |c| c.restarts);
            let kind = [ProbeKind::Startup, ProbeKind::Liveness][draw(2) as usize];
            let result = if draw(3) == 0 { Err("no".to_owned()) } else { Ok(()) };
            let event = match draw(12) {
                0 | 1 => Event::Tick,
                2 => Event::SandboxReady(IP),
                3 | 4 => pulled(name),
                5 | 6 => started(name, attempt, now),
                7 => exited(name, attempt, draw(2) as i32, now),
                8 | 9 => Event::Probed { container: name.into(), kind, result },
                10 if draw(4) == 0 => Event::HostLost,
                11 if draw(8) == 0 => Event::Delete { grace_seconds: 3 },
                _ => Event::Failed {
                    container: name.into(),
                    reason: "ErrImagePull",
                    message: String::new(),
                },
            };
            let said = format!("round {round}, second {now}, after {event:?}");
            pod.step(event, at(now));
            assert!(pod.wake().is_none_or(|due| due > at(now)), "{said}: {:?}", pod.wake());
        }
    }
}
