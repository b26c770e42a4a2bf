//! What a program that is executed in a container may do: what the container's own process may, no more and no less.

use coracle_sandbox::stream::Output;
use coracle_sandbox::{ContainerSpec, ExecSpec, Rlimit, Seccomp};

use crate::fixture::Host;
use crate::host;
use crate::users::own_users;

/// Everything about a process that is not its own doing.
const TOLD: &str = "\
    grep -E '^(Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Sig(Blk|Ign|Cgt))' /proc/$$/status; \
    cat /proc/$$/limits /proc/$$/oom_score_adj /proc/$$/cgroup /proc/$$/uid_map; \
    for kind in cgroup ipc mnt net pid user uts; do readlink /proc/$$/ns/$kind; done; \
    pwd; env | sort; echo open:; ls /proc/$$/fd; true";

/// A container that tells of itself, and of which an executed program then says the same.
async fn same(host: &Host, name: &str, change: impl FnOnce(&mut ContainerSpec)) -> String {
    let mut spec = host.shell(name, &format!("{TOLD}; echo over; sleep 1000"));
    change(&mut spec);
    host.launch(&spec).await;
    host.said(name, "over").await;
    let container = host.log(name).replace("over\n", "");
    let executed = host.run(name, &["sh", "-c", TOLD]).await;
    assert_eq!((executed.code, executed.output.as_str()), (0, container.as_str()), "{name}");
    assert!(container.ends_with("open:\n0\n1\n2\n"), "{name}: {container}");
    container
}

async fn same_in_all(host: &Host) {
    same(host, "plain", |_| {}).await;
    let user = same(host, "user", |spec| {
        let oci = spec.oci.as_mut().unwrap();
        oci.user = "web".into();
        oci.seccomp = Seccomp::RuntimeDefault;
    })
    .await;
    assert!(user.contains("Seccomp:\t2\nSeccomp_filters:\t1\n"), "{user}");
    same(host, "root-filtered", |spec| {
        spec.oci.as_mut().unwrap().seccomp = Seccomp::RuntimeDefault;
    })
    .await;
    let little = same(host, "little", |spec| {
        let oci = spec.oci.as_mut().unwrap();
        oci.capabilities.drop = vec!["ALL".into()];
        oci.no_new_privileges = true;
        oci.seccomp = Seccomp::RuntimeDefault;
    })
    .await;
    assert!(little.contains("CapBnd:\t0000000000000000\n"), "{little}");
    let bounded = same(host, "bounded", |spec| {
        spec.working_dir = Some("/work/deep".into());
        let oci = spec.oci.as_mut().unwrap();
        oci.user = "7:8".into();
        oci.groups = vec![9, 10];
        oci.umask = Some(0o027);
        oci.oom_score_adj = Some(700);
        oci.rlimits = vec![Rlimit { name: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }];
    })
    .await;
    let words = ["Umask:\t0027\n", "Groups:\t9 10", "\n700\n", "\n/work/deep\n"];
    assert!(words.iter().all(|word| bounded.contains(word)), "{bounded}");
    let files = bounded.lines().find_map(|line| line.strip_prefix("Max open files"));
    assert!(files.is_some_and(|line| line.split_whitespace().eq(["100", "200", "files"])));
    same(host, "all", |spec| spec.oci.as_mut().unwrap().privileged = true).await;
}

#[tokio::test]
async fn programs_have_what_their_container_has() {
    let host = host!();
    same_in_all(&host).await;
    host.end().await;
}

#[tokio::test]
async fn programs_have_what_their_container_has_with_users_of_its_own() {
    let host = host!(own_users);
    same_in_all(&host).await;
    host.end().await;
}

#[tokio::test]
async fn programs_have_what_their_container_has_among_the_machines_processes() {
    let host = host!(|pod: &mut coracle_sandbox::SandboxSpec| {
        pod.oci.as_mut().unwrap().host_pid = true;
    });
    same(&host, "app", |_| {}).await;
    host.end().await;
}

#[tokio::test]
async fn terminals_belong_to_their_users() {
    let host = host!();
    let mut spec = host.shell("app", "stat -c 'of %u' $(tty) /dev/console; sleep 1000");
    let oci = spec.oci.as_mut().unwrap();
    oci.user = "web".into();
    oci.tty = true;
    host.launch(&spec).await;
    host.said("app", "of 33\nof 33\n").await;
    let args = ["sh", "-c", "stat -c 'of %u' $(tty)"].map(str::to_owned).to_vec();
    let spec = ExecSpec { args, stdin: false, stdout: true, stderr: false, tty: true };
    let mut session = host.client.exec(&host.pod.id, "app", &spec).await.unwrap();
    let mut said = String::new();
    loop {
        match session.output.recv().await {
            Some(Output::Stdout(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Output::Exit(code)) => break assert_eq!((code, said.as_str()), (0, "of 33\r\n")),
            other => panic!("{other:?}"),
        }
    }
    host.end().await;
}
