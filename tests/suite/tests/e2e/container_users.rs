//! Pods with users of their own: `hostUsers: false`.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, Part, User, eventually, http, tools};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::container_features::{app, apply, becomes, boxes, events, is_ready, one};
use crate::containers::push_script;
use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

/// Users and groups that the kubelet gives a Pod.
const COUNT: u64 = 0x1_0000;

/// A Pod's spec, with users of its own.
fn own(mut spec: Value) -> Value {
    spec["hostUsers"] = json!(false);
    spec
}

async fn exec(cluster: &Cluster, pod: &str, script: &str) -> anyhow::Result<String> {
    cluster.kubectl(&["exec", pod, "-c", "app", "--", "sh", "-c", script]).await
}

/// The first of this machine's users that are the Pod's.
async fn first_user(cluster: &Cluster, pod: &str) -> anyhow::Result<u64> {
    let map = exec(cluster, pod, "cat /proc/self/uid_map").await?;
    let fields: Vec<u64> = map.split_whitespace().flat_map(str::parse).collect();
    let [0, first, COUNT] = fields[..] else { anyhow::bail!("{pod}: {map}") };
    Ok(first)
}

async fn uid(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    let pod = cluster.get(&["pod", pod]).await?;
    Ok(pod["metadata"]["uid"].as_str().context("no UID")?.to_owned())
}

/// What this machine says of a container's first process (proc_pid_status(5)).
fn status_of(cluster: &Cluster, uid: &str, field: &str) -> anyhow::Result<u64> {
    let pid = cluster.first_process_of(uid, "app")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such line")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

/// Two Pods share no user, with each other or the machine; both keep theirs when the agent is killed, and get others' when
/// these have gone.
pub(crate) async fn no_two_pods_share_users(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    for pod in ["one", "two"] {
        apply(&cluster, pod, own(one(json!({})))).await?;
    }
    apply(&cluster, "machines", one(json!({}))).await?;
    let mut firsts = Vec::new();
    for pod in ["one", "two"] {
        becomes(&cluster, pod, "it runs", is_ready).await?;
        let first = first_user(&cluster, pod).await?;
        anyhow::ensure!(status_of(&cluster, &uid(&cluster, pod).await?, "Uid:")? == first, "{pod}");
        anyhow::ensure!(first >= 1 << 31 && first + COUNT <= u64::from(u32::MAX), "{first}");
        firsts.push(first);
    }
    anyhow::ensure!(firsts[0].abs_diff(firsts[1]) >= COUNT, "{firsts:?}");
    becomes(&cluster, "machines", "it runs", is_ready).await?;
    anyhow::ensure!(status_of(&cluster, &uid(&cluster, "machines").await?, "Uid:")? == 0);

    cluster.kill9(Part::Up).await?;
    cluster.start(Part::Up).await?;
    apply(&cluster, "three", own(one(json!({})))).await?;
    let status = becomes(&cluster, "three", "it runs", is_ready).await?;
    anyhow::ensure!(app(&status)["restartCount"] == 0, "{status:#}");
    let third = first_user(&cluster, "three").await?;
    let mut all = HashSet::from([third]);
    for (pod, first) in ["one", "two"].into_iter().zip(&firsts) {
        let status = becomes(&cluster, pod, "it still runs", is_ready).await?;
        anyhow::ensure!(app(&status)["restartCount"] == 0, "{status:#}");
        anyhow::ensure!(first_user(&cluster, pod).await? == *first, "{pod}");
        all.insert(*first);
    }
    anyhow::ensure!(all.len() == 3, "{all:?}");
    // A killed shim costs the Pod its containers, not its users.
    let shim = status_of(&cluster, &uid(&cluster, "two").await?, "PPid:")?;
    kill(Pid::from_raw(i32::try_from(shim)?), Signal::SIGKILL)?;
    becomes(&cluster, "two", "it is made anew", |s| is_ready(s) && app(s)["restartCount"] == 1)
        .await?;
    anyhow::ensure!(first_user(&cluster, "two").await? == firsts[1]);
    for pod in ["one", "two"] {
        cluster.kubectl(&["delete", "pod", pod, "--timeout=60s"]).await?;
    }
    eventually(SOON, "users that nobody has are given again", async || {
        let _ = cluster.kubectl(&["delete", "pod", "four", "--ignore-not-found"]).await?;
        apply(&cluster, "four", own(one(json!({})))).await?;
        becomes(&cluster, "four", "it runs", is_ready).await?;
        let first = first_user(&cluster, "four").await?;
        anyhow::ensure!(firsts.contains(&first), "{first} of {firsts:?}");
        Ok(())
    })
    .await
}

/// Files have the Pod's numbers on the disk, and are whose they should be within; rights end at what is the Pod's.
pub(crate) async fn files_and_rights_are_the_pods(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let folder = cluster.home().join("shared");
    std::fs::create_dir_all(&folder)?;
    cluster.kubectl(&["create", "secret", "generic", "s", "--from-literal=k=secret"]).await?;
    cluster.kubectl(&["create", "configmap", "c", "--from-literal=k=config"]).await?;
    let mut spec = own(one(json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1001},
        "volumeMounts": [
            {"name": "empty", "mountPath": "/empty"}, {"name": "memory", "mountPath": "/memory"},
            {"name": "s", "mountPath": "/s"}, {"name": "c", "mountPath": "/c"},
            {"name": "token", "mountPath": "/p"}, {"name": "c", "mountPath": "/one", "subPath": "k"},
            {"name": "host", "mountPath": "/host"},
        ],
        "livenessProbe": {"exec": {"command": ["sh", "-c", "test $(id -u) = 1000"]}, "periodSeconds": 1},
        "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "id -u > /empty/hook"]}}},
    })));
    spec["securityContext"] = json!({"fsGroup": 2000});
    spec["volumes"] = json!([
        {"name": "empty", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o440}},
        {"name": "c", "configMap": {"name": "c"}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        {"name": "host", "hostPath": {"path": folder}},
    ]);
    apply(&cluster, "files", spec).await?;
    becomes(&cluster, "files", "it runs", is_ready).await?;
    let said = exec(
        &cluster,
        "files",
        "id; cat /s/k /c/k /one /empty/hook; test -s /p/token && echo token; \
         for d in empty memory; do echo x > /$d/x; stat -c %u:%g:%a /$d; stat -c %u:%g /$d/x; done; \
         stat -c %u:%g /host /etc/passwd /bin /bin/busybox; echo x > /host/x || true",
    )
    .await?;
    let volume = "0:2000:2777\n1000:2000\n";
    let parts = [
        "uid=1000(app) gid=1001 groups=2000(extra)\nsecretconfigconfig1000\ntoken\n",
        volume,
        volume,
        "0:0\n",
    ];
    expect(&said, &parts)?;
    anyhow::ensure!(!folder.join("x").exists(), "root's folder is not for others");

    // Its root may do with the folder what the machine's may, under its own number there; but not under others'.
    let mut spec = own(one(json!({
        "volumeMounts": [{"name": "host", "mountPath": "/host"}],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN", "SYS_ADMIN"]}},
    })));
    spec["volumes"] = json!([{"name": "host", "hostPath": {"path": folder}}]);
    apply(&cluster, "root", spec).await?;
    becomes(&cluster, "root", "it runs", is_ready).await?;
    std::fs::write(folder.join("foreign"), "")?;
    std::os::unix::fs::chown(folder.join("foreign"), Some(70_000), Some(70_000))?;
    let said = exec(
        &cluster,
        "root",
        "touch /host/r; stat -c %u /host/r /host/foreign; chown 0 /host/foreign 2>/dev/null || echo denied; \
         ip addr add 10.9.9.9/32 dev lo && echo added; mount -t tmpfs none /tmp && echo mounted; \
         hostname changed && hostname; ls -ln /proc/1/exe > /dev/null && echo looked; cat /sys/class/net/eth0/operstate",
    )
    .await?;
    expect(&said, &["0\n65534\ndenied\nadded\nmounted\nchanged\nlooked\nup\n"])?;
    anyhow::ensure!(std::fs::metadata(folder.join("r"))?.uid() == 0);
    Ok(())
}

/// An unmasked `/proc` shows all of the Pod's, and changes nothing but the Pod's.
pub(crate) async fn proc_may_be_unmasked(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let rights = json!({"capabilities": {"add": ["NET_ADMIN"]}});
    let mut bare = rights.clone();
    bare["procMount"] = json!("Unmasked");
    apply(&cluster, "masked", own(one(json!({"securityContext": rights})))).await?;
    apply(&cluster, "bare", own(one(json!({"securityContext": bare.clone()})))).await?;
    for pod in ["masked", "bare"] {
        becomes(&cluster, pod, "it runs", is_ready).await?;
    }
    let look = "test -c /proc/interrupts && echo hidden || echo shown; \
        echo 7 > /proc/sys/net/ipv4/tcp_fin_timeout; cat /proc/sys/net/ipv4/tcp_fin_timeout; \
        echo 1 > /proc/sys/vm/drop_caches || echo denied";
    let own_timeout = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fin_timeout")?;
    let masked = exec(&cluster, "masked", look).await?;
    expect(&masked, &["hidden\n", "denied"])?;
    anyhow::ensure!(!masked.contains("\n7\n"), "{masked}");
    expect(&exec(&cluster, "bare", look).await?, &["shown\n7\ndenied"])?;
    let now = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fin_timeout")?;
    anyhow::ensure!(now == own_timeout, "the machine's is as it was");

    let refused = async |name: &str, spec: Value, words: &[&str]| {
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let said =
            cluster.kubectl_with(&["apply", "-f", "-"], &pod.to_string()).await?.refused()?;
        expect(&said, words)
    };
    let mut spec = own(one(json!({})));
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        spec[field] = json!(true);
    }
    let words = [
        "spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
        "spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false",
        "spec.HostIPC: Forbidden: when `pod.Spec.HostUsers` is false",
    ];
    refused("with-hosts", spec, &words).await?;
    let words =
        ["procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"];
    refused("bare-host", one(json!({"securityContext": bare})), &words).await
}

/// What a node cannot do for such a Pod is said, and the Pod does not run as the machine's root instead.
pub(crate) async fn what_cannot_be_is_said(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let mut spec = own(one(json!({"volumeMounts": [{"name": "host", "mountPath": "/host"}]})));
    spec["volumes"] = json!([{"name": "host", "hostPath": {"path": "/proc/sys"}}]);
    apply(&cluster, "unmappable", spec).await?;
    apply(&cluster, "too-high", own(one(json!({"securityContext": {"runAsUser": 65536}})))).await?;
    let mut spec = own(one(json!({
        "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}],
    })));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    apply(&cluster, "both-ways", spec).await?;
    for (pod, words) in [
        (
            "unmappable",
            ["hostUsers: cannot map the owners of files in /proc/sys", "no ID-mapped mounts"],
        ),
        (
            "too-high",
            ["hostUsers: a Pod with users of its own has those from 0 to 65535", "user 65536"],
        ),
        ("both-ways", ["mountPropagation: Bidirectional is not possible", "hostUsers: false"]),
    ] {
        becomes(&cluster, pod, "it waits", |s| {
            app(s)["state"]["waiting"]["reason"] == "CreateContainerError"
        })
        .await?;
        events(&cluster, pod, &words).await?;
    }
    Ok(())
}

/// Components have no users, and share volumes and localhost with containers that have.
pub(crate) async fn components_are_beside_them(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    let serve = "mkdir -p /www; echo from-container > /www/index.html; httpd -f -p 80 -h /www & \
        trap 'exit 0' TERM; wait";
    if !push_script(&cluster, "box:v1", serve).await? {
        return Ok(());
    }
    cluster.push(&tools::component("hello-v1"), "hello:v1").await?;
    let component =
        json!({"name": "wasm", "image": "hello:v1", "ports": [{"containerPort": 8080}]});
    apply(&cluster, "alone", json!({"hostUsers": false, "containers": [component.clone()]}))
        .await?;
    let mixed =
        json!({"hostUsers": false, "containers": [{"name": "app", "image": "box:v1"}, component]});
    apply(&cluster, "mixed", mixed).await?;
    for pod in ["alone", "mixed"] {
        becomes(&cluster, pod, "it runs", is_ready).await?;
    }
    first_user(&cluster, "mixed").await?;
    let get = "wget -q -O - http://127.0.0.1:8080/version";
    expect(&exec(&cluster, "mixed", get).await?, &["v1"])?;
    let ip = cluster.get(&["pod", "mixed"]).await?["status"]["podIP"].clone();
    let address = format!("{}:80", ip.as_str().context("no address")?).parse()?;
    expect(&http::get(address, "/").await?.body, &["from-container"])
}
