//! Pods with users of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use coracle_sandbox::stream::{Input, Output};
use coracle_sandbox::{
    ClientError, ContainerSpec, ExecSpec, Mount, OciSandbox, ProblemCode, SandboxSpec, Seccomp,
    UserMapping,
};

use crate::fixture::Host;
use crate::host;

const FIRST: u32 = 0x8765_0000;
/// A user who shares volumes with the Pod.
const GUEST: u32 = 0x7000_0001;

pub(crate) fn own_users(pod: &mut SandboxSpec) {
    let oci: &mut OciSandbox = pod.oci.as_mut().unwrap();
    oci.users = Some(UserMapping { host: FIRST, count: 0x1_0000, guest: Some(GUEST) });
}

fn volume(host: &Host, spec: &mut ContainerSpec) -> std::path::PathBuf {
    let folder = host.path().join("volume");
    fs::create_dir_all(&folder).unwrap();
    let mount = Mount { host_path: folder.clone(), guest_path: "/v".into(), ..Mount::default() };
    spec.mounts.push(mount);
    folder
}

async fn refusal(host: &Host, spec: &ContainerSpec) -> String {
    match host.client.start_container(&host.pod.id, spec).await {
        Err(ClientError::Problem(problem)) => {
            assert_eq!(problem.code, ProblemCode::InvalidSpec, "{problem}");
            problem.message
        }
        other => panic!("{other:?}"),
    }
}

/// A user of the machine of every process that says it, by the number in the Pod's pid namespace being its first.
fn users_of_processes(word: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(word)
            && let Ok(status) = fs::read_to_string(entry.path().join("status"))
            && let Some(uid) = status.lines().find_map(|l| l.strip_prefix("Uid:\t"))
        {
            found.push(uid.split_whitespace().next().unwrap().parse().unwrap());
        }
    }
    found
}

#[tokio::test]
async fn root_is_nobody_outside_and_files_keep_their_numbers() {
    let host = host!(own_users);
    let map = format!("         0 {FIRST:10}      65536\n");
    let script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u:%g / /bin/busybox /proc /dev /dev/shm /sys /v /etc/hosts; \
        echo of root > /v/a && echo of root > /root-was-here && mkdir /d && chown 33:34 /v/a /d && stat -c %u:%g /v/a /d";
    let mut spec = host.shell("app", script);
    let folder = volume(&host, &mut spec);
    let (code, _, said) = host.complete(&spec).await;
    // What this machine's root owns besides is nobody's.
    let owners = "0:0\n0:0\n65534:65534\n0:0\n0:0\n65534:65534\n0:0\n0:0\n";
    assert_eq!(said, format!("{map}{map}0\n{owners}33:34\n33:34\n"));
    assert_eq!(code, 0);
    // On the disk they have the Pod's numbers, for whoever shares them.
    let of = |path: &std::path::Path| fs::metadata(path).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!(of(&folder.join("a")), (33, 34));
    let written = spec.oci.as_ref().unwrap().upper.join("upper");
    assert_eq!(of(&written.join("root-was-here")), (0, 0));
    assert_eq!(of(&written.join("d")), (33, 34));
    assert_eq!(of(&written), (0, 0));
    host.end().await;
}

#[tokio::test]
async fn a_guest_shares_volumes() {
    let host = host!(own_users);
    let folder = host.path().join("volume");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("guests"), "of the guest\n").unwrap();
    std::os::unix::fs::chown(folder.join("guests"), Some(GUEST), Some(GUEST)).unwrap();
    fs::set_permissions(folder.join("guests"), std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .unwrap();
    let mut spec = host.shell("app", "stat -c %u /v/guests; echo more >> /v/guests; cat /v/guests");
    volume(&host, &mut spec);
    assert_eq!(host.complete(&spec).await.2, "65534\nof the guest\nmore\n");
    assert_eq!(fs::metadata(folder.join("guests")).unwrap().uid(), GUEST);
    host.end().await;
}

#[tokio::test]
async fn programs_are_executed_as_the_pods_users() {
    let host = host!(own_users);
    let mut spec = host.shell("app", "echo here; sleep 31415");
    spec.oci.as_mut().unwrap().user = "web".into();
    spec.oci.as_mut().unwrap().seccomp = Seccomp::RuntimeDefault;
    host.launch(&spec).await;
    host.said("app", "here").await;
    let told = "cat /proc/self/uid_map; id -u; id -g; id -G; hostname; echo $$ >/dev/null; pwd; grep -E 'CapEff|CapBnd|Seccomp:' /proc/self/status | tr -d '\\t'";
    let ran = host.run("app", &["sh", "-c", told]).await;
    let map = format!("         0 {FIRST:10}      65536\n");
    assert_eq!(
        ran.output,
        format!(
            "{map}33\n34\n34 40\nbox\n/\nCapEff:0000000000000000\nCapBnd:00000000a80425fb\nSeccomp:2\n"
        )
    );
    assert_eq!(ran.code, 0);
    assert!(users_of_processes("31415").iter().all(|uid| *uid == FIRST + 33));
    let missing = host
        .client
        .run(
            &host.pod.id,
            "app",
            &coracle_sandbox::RunSpec {
                args: vec!["/no/such".into()],
                timeout_milliseconds: 10_000,
            },
        )
        .await;
    assert!(missing.unwrap_err().to_string().contains("no such file or directory"));
    // With a terminal, which is the user's.
    let args = ["sh", "-c", "tty; stat -c %u $(tty); read line; echo got $line"];
    let args = args.map(str::to_owned).to_vec();
    let exec = ExecSpec { args, stdin: true, stdout: true, stderr: false, tty: true };
    let mut session = host.client.exec(&host.pod.id, "app", &exec).await.unwrap();
    session.input.send(Input::Stdin("it\n".into())).await.unwrap();
    let mut said = String::new();
    loop {
        match session.output.recv().await {
            Some(Output::Stdout(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Output::Exit(code)) => break assert_eq!(code, 0),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        said.contains("/dev/pts/") && said.contains("33\r\n") && said.contains("got it"),
        "{said}"
    );
    host.end().await;
}

#[tokio::test]
async fn rights_are_over_the_pods_namespaces() {
    let host = host!(|pod: &mut SandboxSpec| {
        own_users(pod);
        let oci = pod.oci.as_mut().unwrap();
        oci.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
        oci.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    });
    let script = "ip link add dummy0 type dummy 2>&1; ip link set lo up && ip addr add 10.1.2.3/32 dev lo && ip addr show lo | grep -c 10.1.2.3; \
        hostname elsewhere; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ping_group_range | tr '\\t' ' '; \
        mount -t tmpfs none /tmp && echo mounted; test -c /proc/interrupts && echo masked; echo 81 > /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let mut spec = host.shell("app", script);
    let oci = spec.oci.as_mut().unwrap();
    oci.capabilities.add = vec!["NET_ADMIN".into(), "SYS_ADMIN".into(), "SYS_RESOURCE".into()];
    let (code, _, said) = host.complete(&spec).await;
    assert!(said.contains("1\nelsewhere\n80\n1\n0 65535\nmounted\nmasked\n"), "{said}");
    assert!(said.contains("Read-only file system") && code != 0, "{said}");
    let mut bare = host.shell("bare", "echo 81 > /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; test -c /proc/interrupts || echo no mask");
    bare.oci.as_mut().unwrap().unmasked = true;
    bare.oci.as_mut().unwrap().capabilities.add = vec!["NET_ADMIN".into()];
    assert_eq!(host.complete(&bare).await.2, "81\nno mask\n");
    let mut all =
        host.shell("all", "id -u; ls /dev/null /dev/full; cat /proc/self/uid_map | wc -l");
    all.oci.as_mut().unwrap().privileged = true;
    assert_eq!(host.complete(&all).await.2, "0\n/dev/full\n/dev/null\n1\n");
    let mut terminal = host.shell("terminal", "tty; stat -c %u $(tty)");
    terminal.oci.as_mut().unwrap().tty = true;
    let (_, _, said) = host.complete(&terminal).await;
    assert!(said.contains("/dev/pts/0"), "{said}");
    host.end().await;
}

#[tokio::test]
async fn processes_may_be_shared() {
    let host = host!(|pod: &mut SandboxSpec| {
        own_users(pod);
        pod.oci.as_mut().unwrap().share_pids = true;
    });
    host.launch(&host.shell("app", "echo here; sleep 27182")).await;
    host.said("app", "here").await;
    let other = host.shell("other", "ps | grep -c 'sleep 27182'; head -1 /proc/1/status; ls /proc/1/root 2>&1 | head -1; kill -0 1 && echo may");
    let (_, _, said) = host.complete(&other).await;
    assert!(said.contains("Name:\tpause"), "{said}");
    assert_eq!(host.run("app", &["id", "-u"]).await.output, "0\n");
    // An ephemeral container joins the processes of another.
    let mut target = host.shell("debug", "ps | grep -c 'sleep 27182'");
    target.oci.as_mut().unwrap().target = Some("app".into());
    assert_ne!(host.complete(&target).await.2, "0\n");
    host.end().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let host = host!(own_users);
    let mut spec = host.shell("refused", "true");
    spec.oci.as_mut().unwrap().user = "65536".into();
    let message = refusal(&host, &spec).await;
    assert!(message.contains("hostUsers") && message.contains("user 65536"), "{message}");
    let mut spec = host.shell("refused", "true");
    spec.mounts.push(Mount {
        host_path: "/proc".into(),
        guest_path: "/v".into(),
        ..Mount::default()
    });
    let message = refusal(&host, &spec).await;
    assert!(message.contains("hostUsers") && message.contains("ID-mapped"), "{message}");
    let mut spec = host.shell("refused", "true");
    volume(&host, &mut spec);
    spec.mounts[0].propagation = coracle_sandbox::Propagation::Bidirectional;
    let message = refusal(&host, &spec).await;
    assert!(message.contains("Bidirectional"), "{message}");
    host.end().await;
}
