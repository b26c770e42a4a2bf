//! Memory, processes, and what was used.

use coracle_sandbox::{ExitReason, Resources};

use crate::host;

#[tokio::test]
async fn a_container_that_uses_too_much_memory_is_oom_killed() {
    let host = host!();
    let mut spec = host.shell("greedy", "x=0123456789; while :; do x=$x$x; done");
    spec.memory_limit = Some(16 << 20);
    let (code, reason, _) = host.complete(&spec).await;
    assert_eq!((code, reason), (137, ExitReason::OOMKilled));
    host.end().await;
}

#[tokio::test]
async fn a_pods_limit_counts_for_all_its_containers() {
    let host = host!(|pod: &mut coracle_sandbox::SandboxSpec| pod.memory_limit = Some(16 << 20));
    let spec = host.shell("greedy", "x=0123456789; while :; do x=$x$x; done");
    let (code, reason, _) = host.complete(&spec).await;
    assert_eq!((code, reason), (137, ExitReason::OOMKilled));
    host.end().await;
}

#[tokio::test]
async fn processes_are_counted_and_bounded() {
    let host = host!();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; wait";
    let mut spec = host.shell("many", script);
    spec.oci.as_mut().unwrap().pids_limit = Some(6);
    let (code, _, log) = host.complete(&spec).await;
    assert!(code != 0 && log.contains("fork"), "{code}: {log}");
    host.launch(&host.shell("busy", "sleep 1000 & while :; do :; done")).await;
    let until = tokio::time::Instant::now() + crate::fixture::PATIENCE;
    loop {
        let all = host.client.usage().await.unwrap();
        let used = all.iter().find(|c| c.container == "busy").unwrap().usage;
        if used.pids == 2 && used.memory_bytes > 0 && used.cpu_nanoseconds > 10_000_000 {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{used:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let less = Resources { memory_limit: Some(64 << 20), cpu_weight: 100, ..Resources::default() };
    host.client.update_container(&host.pod.id, "busy", &less).await.unwrap();
    let limit = host
        .run(
            "busy",
            &[
                "sh",
                "-c",
                "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; \
                 for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; \
                 do [ -e $f ] && echo 1000000000 > $f && echo raised; done",
            ],
        )
        .await;
    assert!(limit.output.contains("67108864"), "{}", limit.output);
    assert!(!limit.output.contains("raised"), "{}", limit.output);
    host.end().await;
}
