//! Who outlives whom.

use coracle_sandbox::{Client, ClientError, ProblemCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::{PATIENCE, cleanup, make_pod, start_zygote};
use crate::host;

#[tokio::test]
async fn pods_outlive_the_zygote_and_are_found_again() {
    let mut host = host!();
    host.launch(&host.shell("app", "echo up; sleep 1000")).await;
    let before = host.client.info().await.unwrap();
    host.zygote.kill().unwrap();
    host.zygote.wait().unwrap();
    assert_eq!(host.run("app", &["echo", "alive"]).await.output, "alive\n");
    host.zygote = start_zygote(host.path());
    let zygote = Client::new(host.path().join("zygote"));
    zygote.wait_ready(PATIENCE).await.unwrap();
    let found = zygote.sandboxes().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].socket.as_deref(), Some(host.client.socket()));
    // Asked for again, it is the same.
    let again = make_pod(host.path(), &host.pod).await.unwrap();
    assert_eq!(again.info().await.unwrap().instance, before.instance);
    host.end().await;
}

#[tokio::test]
async fn what_a_killed_shim_leaves_is_refused_until_it_is_cleaned_up() {
    let host = host!();
    let status = host.launch(&host.shell("app", "sleep 1000 & sleep 1000")).await;
    let shim = host.client.info().await.unwrap().pid;
    kill(Pid::from_raw(shim as i32), Signal::SIGKILL).unwrap();
    while host.client.info().await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    match make_pod(host.path(), &host.pod).await {
        Err(ClientError::Problem(problem)) => {
            assert_eq!(problem.code, ProblemCode::Conflict, "{problem}");
            assert!(problem.message.contains("--cleanup"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
    let cgroup = host.pod.oci.as_ref().unwrap().cgroup.clone();
    assert!(cleanup(&host.path().join("data").join(&host.pod.id), &cgroup));
    let app = Pid::from_raw(status.pid.unwrap() as i32);
    // Whoever has become its parent may take a while to notice.
    let stat = std::fs::read_to_string(format!("/proc/{app}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "the container runs on: {stat}");
    make_pod(host.path(), &host.pod).await.unwrap();
    assert_eq!(host.complete(&host.shell("app", "exit 4")).await.0, 4);
    host.end().await;
}

#[tokio::test]
async fn the_program_cannot_be_written_through_a_container() {
    let host =
        host!(|pod: &mut coracle_sandbox::SandboxSpec| pod.oci.as_mut().unwrap().host_pid = true);
    let shim = host.client.info().await.unwrap().pid;
    let program = std::fs::File::open(format!("/proc/{shim}/exe")).unwrap();
    let mount = nix::sys::statvfs::fstatvfs(&program).unwrap();
    assert!(mount.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    drop(program);
    let script = format!("mount -o remount,rw / ; echo x >> /proc/{shim}/exe && echo written");
    let mut spec = host.shell("app", &script);
    spec.oci.as_mut().unwrap().privileged = true;
    let log = host.complete(&spec).await.2;
    assert!(!log.contains("written"), "{log}");
    host.end().await;
}
