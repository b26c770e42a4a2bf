//! From start to exit.

use coracle_sandbox::{ClientError, ContainerState, ExitReason, HostEvent, ProblemCode, Stop};
use futures::StreamExt;

use crate::host;

#[tokio::test]
async fn containers_run_and_their_codes_and_words_are_kept() {
    let host = host!();
    let mut events = host.client.events(0);
    let script = "echo out; echo err >&2; hostname; cat /etc/hostname; ls /; exit 3";
    let (code, reason, log) = host.complete(&host.shell("app", script)).await;
    assert_eq!((code, reason), (3, ExitReason::Error));
    // The other stream's line may come between any two.
    for (word, count) in [("out", 1), ("err", 1), ("box", 2), ("proc", 1), ("sys", 1)] {
        assert_eq!(log.lines().filter(|line| *line == word).count(), count, "{word} in {log}");
    }
    let raw = std::fs::read_to_string(host.path().join("logs/app/0.log")).unwrap();
    assert!(raw.contains(" stderr F err\n") && raw.contains(" stdout F out\n"), "{raw}");
    assert_eq!(host.complete(&host.shell("ok", "true")).await.1, ExitReason::Completed);

    let mut seen = Vec::new();
    while seen.len() < 4 {
        if let Some(HostEvent::Event(event)) = events.next().await {
            seen.push((event.container.name, event.container.state.is_exited()));
        }
    }
    let expected = [("app", false), ("app", true), ("ok", false), ("ok", true)];
    assert_eq!(seen, expected.map(|(name, exited)| (name.to_owned(), exited)));
    host.end().await;
}

#[tokio::test]
async fn starting_twice_is_starting_once_and_a_new_attempt_is_a_new_container() {
    let host = host!();
    let spec = host.shell("app", "echo one; echo mine > /file; sleep 1000");
    let first = host.launch(&spec).await;
    let again = host.launch(&spec).await;
    assert_eq!(first.pid, again.pid);
    let mut next = host.shell("app", "cat /file");
    next.attempt = 1;
    next.oci.as_mut().unwrap().upper = host.path().join("upper/app-1");
    match host.client.start_container(&host.pod.id, &next).await {
        Err(ClientError::Problem(problem)) => assert_eq!(problem.code, ProblemCode::Conflict),
        other => panic!("{other:?}"),
    }
    host.client.stop_container(&host.pod.id, "app", Stop { grace_seconds: 0 }).await.unwrap();
    assert_eq!(host.ended("app").await.0, 137);
    host.launch(&next).await;
    let (code, _, log) = host.ended("app").await;
    assert_eq!(code, 1, "the file of the first attempt is there: {log}");
    host.end().await;
}

#[tokio::test]
async fn a_stop_is_a_signal_and_then_force() {
    let host = host!();
    host.launch(
        &host.shell("kind", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"),
    )
    .await;
    let mut quit = host.shell("quit", "trap 'exit 4' QUIT; echo up; while :; do sleep 0.1; done");
    quit.stop_signal = Some("SIGQUIT".into());
    host.launch(&quit).await;
    host.launch(&host.shell("deaf", "trap '' TERM; echo up; while :; do sleep 0.1; done")).await;
    for (name, grace, code) in [("kind", 1000, 0), ("quit", 1000, 4), ("deaf", 1, 137)] {
        host.said(name, "up").await;
        let stop = Stop { grace_seconds: grace };
        host.client.stop_container(&host.pod.id, name, stop).await.unwrap();
        assert_eq!(host.ended(name).await.0, code, "{name}");
    }
    assert!(host.log("kind").contains("bye"));
    host.end().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_refused_in_known_words() {
    let host = host!();
    let check = async |args: &[&str], code: i32, words: &str| {
        let mut spec = host.shell("app", "");
        spec.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        match host.client.start_container(&host.pod.id, &spec).await {
            Err(ClientError::Problem(problem)) => {
                assert_eq!(problem.code, ProblemCode::StartFailed, "{problem}");
                assert!(problem.message.contains(words), "{problem}");
                assert_eq!(problem.exit_code, Some(code), "{problem}");
            }
            other => panic!("{args:?}: {other:?}"),
        }
    };
    check(&["nonsense"], 127, r#"exec: "nonsense": executable file not found in $PATH"#).await;
    check(&["/no/where"], 127, "no such file or directory").await;
    check(&["/etc/not-a-program"], 126, "permission denied").await;
    check(&["/etc"], 126, "is a directory").await;
    // Nothing of the failures is in the way of the next.
    assert_eq!(host.complete(&host.shell("app", "exit 5")).await.0, 5);
    host.end().await;
}

#[tokio::test]
async fn the_pods_containers_share_what_a_pod_shares() {
    let host = host!(|pod: &mut coracle_sandbox::SandboxSpec| {
        pod.oci.as_mut().unwrap().share_pids = true;
        pod.oci.as_mut().unwrap().sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    });
    host.launch(&host.shell("one", "echo shared > /dev/shm/word; echo ready; sleep 1234")).await;
    host.said("one", "ready").await;
    let script = "cat /dev/shm/word /proc/sys/kernel/shm_rmid_forced; ps";
    let (code, _, log) = host.complete(&host.shell("two", script)).await;
    assert_eq!(code, 0, "{log}");
    assert!(log.starts_with("shared\n1\n"), "{log}");
    assert!(log.contains("sleep 1234"), "{log}");
    let (_, _, root) = host.complete(&host.shell("three", "ls /proc/1/root/ && echo seen")).await;
    assert!(!root.contains("etc"), "{root}");
    let status = host.client.sandbox(&host.pod.id).await.unwrap();
    let one = status.containers.iter().find(|c| c.name == "one").unwrap();
    assert!(matches!(one.state, ContainerState::Running { .. }), "it went with another container");
    host.end().await;
}
