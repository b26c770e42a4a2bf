//! Users, capabilities, system calls, devices, mounts.

use coracle_sandbox::{ClientError, Mount, OciContainer, Problem, ProblemCode, Seccomp};

use crate::fixture::Host;
use crate::host;

async fn said(
    host: &Host,
    name: &str,
    script: &str,
    change: impl FnOnce(&mut OciContainer),
) -> String {
    let mut spec = host.shell(name, script);
    change(spec.oci.as_mut().unwrap());
    host.complete(&spec).await.2
}

async fn refusal(host: &Host, change: impl FnOnce(&mut OciContainer)) -> Problem {
    let mut spec = host.shell("refused", "true");
    change(spec.oci.as_mut().unwrap());
    match host.client.start_container(&host.pod.id, &spec).await {
        Err(ClientError::Problem(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn users_are_the_images() {
    let host = host!();
    let named = |user: &'static str| move |oci: &mut OciContainer| oci.user = user.into();
    let script = "id -u; id -g; id -G; echo $HOME";
    assert_eq!(said(&host, "a", script, named("web")).await, "33\n34\n34 40\n/home/web\n");
    assert_eq!(said(&host, "b", script, named("1000:2000")).await, "1000\n2000\n2000\n/\n");
    let more = |oci: &mut OciContainer| {
        oci.user = "7".into();
        oci.groups = vec![8];
        oci.fs_group = Some(9);
    };
    assert_eq!(said(&host, "c", "id -G", more).await, "0 8 9\n");
    // Its own output can be opened by its name, whoever it is.
    assert_eq!(said(&host, "d", "echo again > /dev/stdout", named("web")).await, "again\n");
    let problem = refusal(&host, |oci| oci.run_as_non_root = true).await;
    assert!(problem.message.contains("runAsNonRoot"), "{problem}");
    let problem = refusal(&host, named("nobody")).await;
    assert!(problem.message.contains("unable to find user nobody"), "{problem}");
    host.end().await;
}

#[tokio::test]
async fn capabilities_are_the_usual_ones_unless_changed() {
    let host = host!();
    let script =
        "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'";
    let usual = said(&host, "a", script, |oci| oci.seccomp = Seccomp::RuntimeDefault).await;
    let expected = "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\n\
                    CapBnd:00000000a80425fb\nCapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:2\n";
    assert_eq!(usual, expected);
    let none = said(&host, "b", script, |oci| {
        oci.capabilities.drop = vec!["ALL".into()];
        oci.capabilities.add = vec!["NET_BIND_SERVICE".into()];
        oci.no_new_privileges = true;
    })
    .await;
    let expected = "CapInh:0000000000000000\nCapPrm:0000000000000400\nCapEff:0000000000000400\n\
                    CapBnd:0000000000000400\nCapAmb:0000000000000000\nNoNewPrivs:1\nSeccomp:0\n";
    assert_eq!(none, expected);
    // A user that is not root, with a filter but without no_new_privs.
    let user = said(&host, "c", script, |oci| {
        oci.user = "web".into();
        oci.seccomp = Seccomp::RuntimeDefault;
    })
    .await;
    assert!(
        user.contains("CapEff:0000000000000000") && user.contains("CapBnd:00000000a80425fb"),
        "{user}"
    );
    assert!(user.contains("Seccomp:2"), "{user}");
    host.end().await;
}

#[tokio::test]
async fn system_calls_follow_the_profile() {
    let host = host!();
    let script = "mkdir /tmp/a && chmod 700 /tmp/a && echo changed; unshare -U true; echo done";
    let usual = said(&host, "a", script, |oci| oci.seccomp = Seccomp::RuntimeDefault).await;
    assert!(usual.contains("changed") && usual.contains("Operation not permitted"), "{usual}");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let own = |oci: &mut OciContainer| oci.seccomp = Seccomp::Localhost { profile: profile.into() };
    let own = said(&host, "b", script, own).await;
    assert!(!own.contains("changed") && own.contains("Operation not permitted"), "{own}");
    // Programs that are executed later are no exception.
    let mut spec = host.shell("c", "echo up; sleep 1000");
    spec.oci.as_mut().unwrap().seccomp = Seccomp::RuntimeDefault;
    host.launch(&spec).await;
    let entered = host.run("c", &["grep", "Seccomp:", "/proc/self/status"]).await;
    assert_eq!(entered.output, "Seccomp:\t2\n");
    let bad = |oci: &mut OciContainer| oci.seccomp = Seccomp::Localhost { profile: "{}".into() };
    let problem = refusal(&host, bad).await;
    assert_eq!(problem.code, ProblemCode::InvalidSpec);
    assert!(problem.message.contains("seccompProfile"), "{problem}");
    host.end().await;
}

#[tokio::test]
async fn what_is_hidden_is_hidden_and_devices_are_out_of_reach() {
    let host = host!();
    let script = "cat /proc/interrupts | wc -c; echo 1 > /proc/sys/kernel/panic; \
                  mknod /tmp/disk b 254 0 && cat /tmp/disk | head -c1 | wc -c; \
                  mknod /dev/null2 c 1 3 && echo x > /dev/null2 && echo usable";
    let log = said(&host, "a", script, |_| {}).await;
    assert!(log.starts_with("0\n"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(log.contains("Operation not permitted") && log.contains("usable"), "{log}");
    let read_only = said(&host, "b", "touch /file; echo over", |oci| oci.read_only = true).await;
    assert!(
        read_only.contains("Read-only file system") && read_only.contains("over"),
        "{read_only}"
    );
    host.end().await;
}

#[tokio::test]
async fn mounts_are_the_machines_and_files_the_pods() {
    let host = host!(|pod: &mut coracle_sandbox::SandboxSpec| {
        pod.ips = vec!["10.9.8.7".parse().unwrap()];
    });
    let volume = host.path().join("volume, with: odd name");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("motto"), "festina lente\n").unwrap();
    let mount = |guest: &str, read_only| Mount {
        host_path: volume.clone(),
        guest_path: guest.into(),
        read_only,
        ..Mount::default()
    };
    let script = "cat /data/motto; echo more > /data/more; touch /ro/file; grep box /etc/hosts; pwd; touch here";
    let mut spec = host.shell("app", script);
    spec.mounts = vec![mount("/data", false), mount("/ro", true)];
    spec.working_dir = Some("/work/deep".into());
    let (code, _, log) = host.complete(&spec).await;
    assert_eq!(code, 0, "{log}");
    let words =
        ["festina lente\n", "/ro/file: Read-only file system\n", "10.9.8.7\tbox\n", "/work/deep\n"];
    assert!(words.iter().all(|word| log.contains(word)), "{log}");
    assert_eq!(std::fs::read_to_string(volume.join("more")).unwrap(), "more\n");
    host.end().await;
}

#[tokio::test]
async fn an_image_whose_dev_leads_elsewhere_is_refused() {
    let host = host!();
    let layer = host.path().join("layer");
    std::fs::remove_dir(layer.join("dev")).unwrap();
    std::os::unix::fs::symlink("/tmp", layer.join("dev")).unwrap();
    let problem = refusal(&host, |_| {}).await;
    assert!(problem.message.contains("/dev is not a folder"), "{problem}");
    host.end().await;
}
