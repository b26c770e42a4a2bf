use super::*;

fn rule(name: &str, restart: RestartPolicy) -> ContainerRule {
    ContainerRule { name: name.into(), restart, ..ContainerRule::default() }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn started(name: &str, attempt: u32, seconds: i64) -> Event {
    Event::Started { container: name.into(), attempt, at: at(seconds), process: None }
}

fn exited(name: &str, attempt: u32, code: i32, seconds: i64) -> Event {
    let how = Termination {
        code,
        reason: "Error".into(),
        message: "".into(),
        started_at: at(seconds),
        finished_at: at(seconds),
    };
    Event::Exited { container: name.into(), attempt, how }
}

fn pulled(name: &str) -> Event {
    Event::Pulled { container: name.into(), digest: "sha256:1".into() }
}

fn stop(name: &str, grace_seconds: u32) -> Action {
    Action::Stop { container: name.into(), grace_seconds }
}

fn hook(name: &str, attempt: u32, kind: HookKind) -> Action {
    Action::Hook { container: name.into(), attempt, kind }
}

fn hooked(name: &str, attempt: u32, kind: HookKind, result: Result<(), &str>) -> Event {
    let result = result.map_err(str::to_owned);
    Event::Hooked { container: name.into(), attempt, kind, result }
}

fn probed(name: &str, kind: ProbeKind, result: Result<(), String>) -> Event {
    Event::Probed { container: name.into(), attempt: 0, kind, result }
}

fn sidecar(name: &str) -> ContainerRule {
    ContainerRule { role: Role::Sidecar, ..rule(name, RestartPolicy::Always) }
}

fn added(name: &str) -> ContainerRule {
    ContainerRule { role: Role::Ephemeral, ..rule(name, RestartPolicy::Never) }
}

/// `Reason: message` of what people are told.
fn reports(actions: &[Action]) -> Vec<String> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Report { reason, message, .. } => Some(format!("{reason}: {message}")),
        _ => None,
    });
    told.collect()
}

/// What is to be done, without what people are told.
fn acts(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|a| !matches!(a, Action::Report { .. })).collect()
}

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));

/// A Pod whose containers all run, at time 0.
fn running(rules: Vec<ContainerRule>) -> PodState {
    let names: Vec<String> = rules.iter().map(|r| r.name.to_string()).collect();
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
    let init = |name| ContainerRule { role: Role::Init, ..rule(name, RestartPolicy::OnFailure) };
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
    let actions = pod.step(Event::Delete { grace_seconds: 30 }, at(1));
    assert_eq!(reports(&actions), ["Killing: Stopping container a"]);
    assert_eq!(actions[1..], [stop("a", 30)]);
    assert_eq!(pod.step(Event::Delete { grace_seconds: 30 }, at(1)), []);
    assert_eq!(pod.step(Event::Delete { grace_seconds: 5 }, at(2)), [stop("a", 5)]);
    assert!(pod.ready(), "it may still serve; that it ends is told by its deletion time");
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
    assert_eq!(pod.step(started("a", 0, 1), at(1)).last(), Some(&stop("a", 1)));
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
fn another_sandbox_is_made_where_the_first_was_of_the_wrong_kind() {
    // Silently while nothing runs yet.
    let mut pod = PodState::new(vec![rule("a", RestartPolicy::Always)], at(0));
    pod.step(Event::Tick, at(0));
    pod.step(Event::SandboxReady(IP), at(0));
    assert_eq!(pod.step(Event::SandboxChanged, at(1)), [Action::CreateSandbox]);
    assert_eq!(pod.step(Event::SandboxChanged, at(1)), [], "it is being made");
    let actions = pod.step(Event::SandboxReady(IP), at(2));
    assert_eq!(actions, [Action::Pull { container: "a".into() }]);
    assert_eq!(pod.containers[0].restarts, 0);
    // What ran is stopped first, as in any other end, and is told; it starts again at once.
    let mut pod = running(vec![rule("a", RestartPolicy::Always), rule("b", RestartPolicy::Always)]);
    pod.grace = 7;
    let actions = pod.step(Event::SandboxChanged, at(5));
    let told = "SandboxChanged: Pod sandbox changed, it will be killed and re-created.";
    assert_eq!(reports(&actions)[0], told);
    assert_eq!(acts(actions), [stop("b", 7), stop("a", 7)]);
    assert_eq!(pod.step(Event::SandboxChanged, at(5)), [], "it is on its way");
    assert_eq!(pod.step(exited("a", 0, 143, 6), at(6)), []);
    assert_eq!(pod.step(exited("b", 0, 143, 7), at(7)), [Action::CreateSandbox]);
    assert_eq!(pod.containers[0].restarts, 1);
    assert_eq!(pod.containers[0].last.as_ref().map(|l| l.code), Some(143));
    // A Pod that ends has no use for one.
    pod.step(Event::SandboxReady(IP), at(8));
    pod.step(Event::Delete { grace_seconds: 1 }, at(9));
    assert!(!pod.step(Event::SandboxChanged, at(9)).contains(&Action::CreateSandbox));
}

#[test]
fn probes_gate_readiness_and_restart_what_is_not_alive() {
    let probe = |kind, failure_threshold| ProbeRule {
        kind,
        initial_delay: 5,
        period: 10,
        success_threshold: 1,
        failure_threshold,
        grace_seconds: (kind == ProbeKind::Liveness).then_some(7),
    };
    let probes = [probe(ProbeKind::Readiness, 1), probe(ProbeKind::Liveness, 2)].into();
    let mut pod = running(vec![ContainerRule { probes, ..rule("a", RestartPolicy::Always) }]);
    assert!(!pod.ready());
    assert_eq!(pod.wake(), Some(at(5)));
    assert_eq!(pod.step(Event::Tick, at(5)).len(), 2);
    let mut result = |kind, result: Result<(), String>, seconds| {
        let actions = pod.step(probed("a", kind, result), at(seconds));
        (pod.ready(), actions)
    };
    assert!(result(ProbeKind::Readiness, Ok(()), 5).0);
    assert!(result(ProbeKind::Liveness, Err("no".into()), 5).0);
    let (ready, actions) = result(ProbeKind::Readiness, Err("HTTP 500".into()), 15);
    assert!(!ready);
    let Action::Report { message, .. } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(message, "Readiness probe failed: HTTP 500");
    let (_, actions) = result(ProbeKind::Liveness, Err("no".into()), 25);
    let expected = [
        "Unhealthy: Liveness probe failed: no",
        "Killing: Container a failed liveness probe, will be restarted",
    ];
    assert_eq!(reports(&actions), expected);
    assert!(actions.contains(&stop("a", 7)), "by the probe's own grace: {actions:?}");
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
        initial_delay: 1,
        period: 2,
        success_threshold: 1,
        failure_threshold: 1,
        grace_seconds: None,
    };
    let init = ContainerRule { role: Role::Init, ..rule("init", RestartPolicy::OnFailure) };
    let sidecar = sidecar("sidecar");
    let probes: Box<[_]> =
        [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness].map(probe).into();
    let main = |restart| ContainerRule {
        probes: probes.clone(),
        post_start: true,
        pre_stop: true,
        ..rule("main", restart)
    };
    let mut random = 1u64;
    let mut draw = |count: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % count
    };
    for round in 0..600 {
        let restart = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
        let restart = restart[draw(3) as usize];
        let mut pod = PodState::new(vec![init.clone(), sidecar.clone(), main(restart)], at(0));
        pod.active_deadline = (draw(3) == 0).then_some(20);
        for now in 0..60 {
            let name = ["init", "sidecar", "main", "added"][draw(4) as usize];
            let attempt = pod.container(name).map_or(0, |c| c.restarts);
            let kind = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
            let kind = kind[draw(3) as usize];
            let hook = [HookKind::PostStart, HookKind::PreStop][draw(2) as usize];
            let result = if draw(3) == 0 { Err("no".to_owned()) } else { Ok(()) };
            let event = match draw(12) {
                0 | 1 => Event::Tick,
                2 => Event::SandboxReady(IP),
                3 | 4 => pulled(name),
                5 | 6 => started(name, attempt, now),
                7 => exited(name, attempt, draw(2) as i32, now),
                8 | 9 => Event::Probed { container: name.into(), attempt, kind, result },
                10 if draw(4) == 0 => Event::HostLost,
                10 if draw(4) == 0 => Event::SandboxChanged,
                10 if draw(4) == 0 => Event::Joined(added("added")),
                11 if draw(8) == 0 => Event::Delete { grace_seconds: 3 },
                11 if draw(8) == 0 => Event::Evict { message: "full".into() },
                11 if draw(4) == 0 => Event::ImageChanged { container: name.into() },
                11 => Event::Hooked { container: name.into(), attempt, kind: hook, result },
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

#[test]
fn rules_of_a_container_go_before_its_policy() {
    let rules = [RestartRule { among: true, codes: [42].into() }];
    for (code, restarts) in [(42, true), (1, false), (0, false)] {
        let rule = ContainerRule {
            restart_rules: rules.clone().into(),
            ..rule("a", RestartPolicy::Never)
        };
        let mut pod = running(vec![rule]);
        pod.step(exited("a", 0, code, 1), at(1));
        assert_eq!(pod.containers[0].restarts == 1, restarts, "exit code {code}");
        assert_eq!(pod.outcome().is_none(), restarts, "exit code {code}");
    }
    let but = RestartRule { among: false, codes: [0, 3].into() };
    let rule = ContainerRule { restart_rules: [but].into(), ..rule("a", RestartPolicy::Never) };
    let mut pod = running(vec![rule]);
    pod.step(exited("a", 0, 2, 1), at(1));
    assert_eq!(pod.outcome(), None);
}

#[test]
fn a_container_counts_as_running_once_its_post_start_hook_is_done() {
    let rule = ContainerRule { post_start: true, ..rule("a", RestartPolicy::Always) };
    let mut pod = running(vec![rule.clone()]);
    assert!(!pod.ready() && matches!(pod.containers[0].phase, Phase::Hooking { .. }));
    // Another attempt's hook says nothing.
    pod.step(hooked("a", 3, HookKind::PostStart, Ok(())), at(1));
    assert!(!pod.ready());
    pod.step(hooked("a", 0, HookKind::PostStart, Ok(())), at(1));
    assert!(pod.ready());

    let mut pod = running(vec![rule]);
    let actions = pod.step(hooked("a", 0, HookKind::PostStart, Err("EOF")), at(1));
    let expected =
        ["FailedPostStartHook: PostStartHook failed: EOF", "Killing: FailedPostStartHook"];
    assert_eq!(reports(&actions), expected);
    assert_eq!(acts(actions), [stop("a", 30)]);
    assert_eq!(pod.step(exited("a", 0, 137, 2), at(2)), [Action::Pull { container: "a".into() }]);
}

#[test]
fn a_pre_stop_hook_takes_its_time_from_the_grace_period() {
    let rule = ContainerRule { pre_stop: true, ..rule("a", RestartPolicy::Always) };
    let begin = || {
        let mut pod = running(vec![rule.clone()]);
        let actions = acts(pod.step(Event::Delete { grace_seconds: 30 }, at(0)));
        assert_eq!(actions, [hook("a", 0, HookKind::PreStop)]);
        pod
    };
    let mut pod = begin();
    assert_eq!(pod.wake(), Some(at(30)));
    let actions = pod.step(hooked("a", 0, HookKind::PreStop, Ok(())), at(10));
    assert_eq!(actions, [stop("a", 20)]);

    let mut pod = begin();
    let actions = pod.step(hooked("a", 0, HookKind::PreStop, Err("no")), at(1));
    assert_eq!(reports(&actions), ["FailedPreStopHook: PreStopHook failed: no"]);
    assert_eq!(acts(actions), [stop("a", 29)]);

    let mut pod = begin();
    assert_eq!(pod.step(Event::Tick, at(29)), []);
    assert_eq!(pod.step(Event::Tick, at(30)), [stop("a", 2)], "a little is always left");
    assert_eq!(pod.step(hooked("a", 0, HookKind::PreStop, Ok(())), at(31)), []);

    let mut pod = begin();
    let actions = pod.step(Event::Delete { grace_seconds: 0 }, at(3));
    assert_eq!(actions, [stop("a", 0)], "by force, hook or not");
}

#[test]
fn sidecars_start_first_and_end_last_in_reverse() {
    let begin = |restart| {
        let rules = vec![sidecar("one"), sidecar("two"), rule("main", restart)];
        let mut pod = PodState::new(rules, at(0));
        pod.step(Event::Tick, at(0));
        let pull = |name: &str| [Action::Pull { container: name.into() }];
        assert_eq!(pod.step(Event::SandboxReady(IP), at(0)), pull("one"));
        for (name, next) in [("one", Some("two")), ("two", Some("main")), ("main", None)] {
            pod.step(pulled(name), at(0));
            let actions = pod.step(started(name, 0, 0), at(0));
            assert_eq!(actions, next.map(pull).into_iter().flatten().collect::<Vec<_>>());
        }
        assert!(pod.ready());
        pod
    };
    // With the main container, though sidecars never end by themselves.
    let mut pod = begin(RestartPolicy::Never);
    assert_eq!(acts(pod.step(exited("main", 0, 0, 1), at(1))), [stop("two", 30)]);
    assert!(pod.is_active());
    assert_eq!(pod.step(exited("two", 0, 143, 5), at(5)), [stop("one", 26)]);
    assert_eq!(pod.step(exited("one", 0, 143, 6), at(6)), [Action::RemoveSandbox]);
    assert_eq!((pod.outcome(), pod.is_active()), (Some(true), false));

    // And with the Pod: each waits for those after it, but not longer than the grace period.
    let mut pod = begin(RestartPolicy::Always);
    assert_eq!(acts(pod.step(Event::Delete { grace_seconds: 10 }, at(0))), [stop("main", 10)]);
    assert_eq!(pod.step(exited("main", 0, 0, 4), at(4)), [stop("two", 6)]);
    assert_eq!(pod.wake(), Some(at(10)));
    assert_eq!(pod.step(Event::Tick, at(10)), [stop("one", 2)]);

    // One that fails meanwhile starts again, and holds nobody back.
    let mut pod = begin(RestartPolicy::Always);
    let actions = pod.step(exited("one", 0, 1, 1), at(1));
    assert_eq!(actions, [Action::Pull { container: "one".into() }]);
    assert!(pod.initialized() && !pod.ready());
    assert_eq!(
        pod.step(exited("main", 0, 1, 2), at(2)),
        [Action::Pull { container: "main".into() }]
    );
}

#[test]
fn in_a_new_sandbox_init_containers_run_again() {
    let init = ContainerRule { role: Role::Init, ..rule("init", RestartPolicy::OnFailure) };
    let mut pod = PodState::new(vec![init, rule("main", RestartPolicy::Always)], at(0));
    pod.step(Event::Tick, at(0));
    pod.step(Event::SandboxReady(IP), at(0));
    pod.step(pulled("init"), at(0));
    pod.step(started("init", 0, 0), at(0));
    pod.step(exited("init", 0, 0, 1), at(1));
    pod.step(pulled("main"), at(1));
    pod.step(started("main", 0, 1), at(1));
    assert!(pod.initialized());
    assert_eq!(pod.step(Event::HostLost, at(5)), [Action::CreateSandbox]);
    assert!(!pod.initialized());
    let actions = pod.step(Event::SandboxReady(IP), at(5));
    assert_eq!(actions, [Action::Pull { container: "init".into() }]);
    assert_eq!(pod.containers.iter().map(|c| c.restarts).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn readiness_is_asked_for_while_a_pod_ends_and_liveness_is_not() {
    let probe = |kind| ProbeRule {
        kind,
        initial_delay: 0,
        period: 2,
        success_threshold: 1,
        failure_threshold: 1,
        grace_seconds: None,
    };
    let probes = [ProbeKind::Liveness, ProbeKind::Readiness].map(probe).into();
    let mut pod = running(vec![ContainerRule { probes, ..rule("a", RestartPolicy::Always) }]);
    for kind in [ProbeKind::Liveness, ProbeKind::Readiness] {
        pod.step(probed("a", kind, Ok(())), at(0));
    }
    pod.step(Event::Delete { grace_seconds: 30 }, at(1));
    assert!(pod.ready());
    let readiness = Action::Probe { container: "a".into(), attempt: 0, kind: ProbeKind::Readiness };
    assert_eq!(pod.step(Event::Tick, at(2)), [readiness]);
    pod.step(probed("a", ProbeKind::Readiness, Err("draining".into())), at(2));
    assert!(!pod.ready());
}

#[test]
fn an_eviction_fails_the_pod() {
    let mut pod = running(vec![rule("a", RestartPolicy::Always)]);
    let actions = pod.step(Event::Evict { message: "too large".into() }, at(1));
    assert_eq!(reports(&actions), ["Evicted: too large", "Killing: Stopping container a"]);
    assert_eq!(acts(actions), [stop("a", 1)]);
    assert_eq!(pod.step(exited("a", 0, 137, 2), at(2)), [Action::RemoveSandbox]);
    pod.step(Event::SandboxRemoved, at(2));
    assert_eq!(pod.outcome(), Some(false));
    assert_eq!(pod.step(Event::Delete { grace_seconds: 30 }, at(9)), [Action::Finish]);
}

#[test]
fn another_image_restarts_the_container_whatever_its_policy() {
    let mut pod = running(vec![rule("a", RestartPolicy::Never)]);
    let actions = pod.step(Event::ImageChanged { container: "a".into() }, at(1));
    assert_eq!(reports(&actions), ["Killing: Container a definition changed, will be restarted"]);
    assert_eq!(pod.step(exited("a", 0, 0, 2), at(2)), [Action::Pull { container: "a".into() }]);
}

#[test]
fn what_joins_a_pod_runs_once_and_nothing_waits_for_it() {
    // Even where an init container holds everything else up.
    let init = ContainerRule { role: Role::Init, ..rule("init", RestartPolicy::OnFailure) };
    let mut pod = PodState::new(vec![init, rule("a", RestartPolicy::Always)], at(0));
    pod.step(Event::Tick, at(0));
    pod.step(Event::SandboxReady(IP), at(0));
    let pull = |name: &str| Action::Pull { container: name.into() };
    assert_eq!(pod.step(Event::Joined(added("look")), at(1)), [pull("look")]);
    assert_eq!(pod.step(Event::Joined(added("look")), at(1)), [], "it is one");
    pod.step(pulled("look"), at(1));
    pod.step(started("look", 0, 1), at(1));
    pod.step(pulled("init"), at(1));
    pod.step(started("init", 0, 1), at(1));
    assert_eq!(pod.step(exited("init", 0, 0, 2), at(2)), [pull("a")]);
    pod.step(pulled("a"), at(2));
    pod.step(started("a", 0, 2), at(2));
    pod.step(exited("look", 0, 1, 3), at(3));
    assert!(pod.ready() && pod.outcome().is_none());
    assert!(matches!(pod.containers[2].phase, Phase::Exited(_)));
    // Not in another sandbox, either.
    pod.step(Event::HostLost, at(4));
    pod.step(Event::SandboxReady(IP), at(5));
    assert!(matches!(pod.containers[2].phase, Phase::Exited(_)));
}

#[test]
fn a_pod_deleted_while_its_image_is_fetched_does_not_wait_for_it() {
    let mut pod = PodState::new(vec![rule("a", RestartPolicy::Always)], at(0));
    pod.step(Event::Tick, at(0));
    pod.step(Event::SandboxReady(IP), at(0));
    let actions = pod.step(Event::Delete { grace_seconds: 30 }, at(1));
    assert_eq!(actions, [Action::RemoveSandbox]);
    assert_eq!(pod.step(pulled("a"), at(2)), []);
    assert_eq!(pod.step(Event::SandboxRemoved, at(2)), [Action::Finish]);
}
