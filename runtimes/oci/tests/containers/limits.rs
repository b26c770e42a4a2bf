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
    let least = Resources { memory_limit: Some(4096), ..less };
    let refused = host.client.update_container(&host.pod.id, "busy", &least).await.unwrap_err();
    let said = refused.problem().map(|p| p.message.clone()).unwrap_or_default();
    assert!(
        said.starts_with(
            "attempting to set container \"busy\" memory limit (4096) below current usage ("
        ),
        "{said}"
    );
    host.end().await;
}

#[tokio::test]
async fn a_pods_limits_change_while_it_runs() {
    let host = host!(|pod: &mut coracle_sandbox::SandboxSpec| pod.memory_limit = Some(32 << 20));
    host.launch(&host.shell("idle", "sleep 1000")).await;
    let id = host.pod.id.as_str();
    let other = Resources {
        memory_limit: Some(64 << 20),
        cpu_weight: 500,
        cpu_limit: Some(750),
        ..Resources::default()
    };
    host.client.update_sandbox(id, &other).await.unwrap();
    let told = host.client.sandbox(id).await.unwrap().spec;
    assert_eq!(
        (told.memory_limit, told.cpu_weight, told.cpu_limit),
        (Some(64 << 20), 500, Some(750))
    );
    // Asked for again, that is what there is.
    host.client.put_sandbox(&told).await.unwrap();
    let group = told.oci.as_ref().unwrap().cgroup.strip_prefix("/").unwrap().to_owned();
    let read = |file: &str, unified: &str| {
        let top = std::path::Path::new("/sys/fs/cgroup");
        let (controller, name) = file.split_once('/').unwrap();
        let one = std::fs::read_to_string(top.join(controller).join(&group).join(name));
        let two = std::fs::read_to_string(top.join(&group).join(unified));
        one.or(two).unwrap().trim().to_owned()
    };
    assert_eq!(read("memory/memory.limit_in_bytes", "memory.max"), "67108864");
    let quota = read("cpu/cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "75000" || quota == "75000 100000", "{quota}");
    host.end().await;
}
