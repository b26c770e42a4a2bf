//! Containers and what happens to them: kills of every part, the loss of everything, another program.

use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, Part, User, eventually, http, tools};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::container_features::{app, apply, becomes, boxes, events, is_ready, one};
use crate::containers::{push_script, web};
use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

async fn uid(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    let pod = cluster.get(&["pod", pod]).await?;
    Ok(pod["metadata"]["uid"].as_str().context("no UID")?.to_owned())
}

fn of<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["containerStatuses"].as_array();
    all.and_then(|all| all.iter().find(|c| c["name"] == name)).unwrap_or(&Value::Null)
}

fn kill9(pid: i32) -> Outcome {
    Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?)
}

/// In a mixed Pod, whoever is killed is started again, and the others go on.
pub(crate) async fn who_is_killed_comes_back_alone(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    cluster.push(&tools::component("hello-v1"), "hello:v1").await?;
    let spec = json!({"containers": [
        {"name": "app", "image": "box:v1"},
        {"name": "other", "image": "box:v1"},
        {"name": "wasm", "image": "hello:v1", "ports": [{"containerPort": 8080}]},
    ]});
    apply(&cluster, "mixed", spec).await?;
    becomes(&cluster, "mixed", "all run", is_ready).await?;
    let uid = uid(&cluster, "mixed").await?;
    let restarts = |s: &Value, counts: [u64; 3]| {
        let names = ["app", "other", "wasm"];
        is_ready(s) && names.iter().zip(counts).all(|(n, count)| of(s, n)["restartCount"] == count)
    };
    // The first process of a container is its end.
    let first = cluster.first_process_of(&uid, "app")?;
    kill9(first)?;
    let status = becomes(&cluster, "mixed", "it is restarted", |s| restarts(s, [1, 0, 0])).await?;
    let last = &of(&status, "app")["lastState"]["terminated"];
    anyhow::ensure!(last["exitCode"] == 137 && last["reason"] == "Error", "{last:#}");
    // So is the host of its components theirs.
    let host = cluster.hosts().into_iter().find(|host| host.group.contains(&uid));
    kill9(host.context("no Wasm host")?.pid)?;
    becomes(&cluster, "mixed", "the component is restarted", |s| restarts(s, [1, 0, 1])).await?;
    let get = [
        "exec",
        "mixed",
        "-c",
        "other",
        "--",
        "wget",
        "-q",
        "-O",
        "-",
        "http://127.0.0.1:8080/version",
    ];
    eventually(SOON, "it serves again", async || expect(&cluster.kubectl(&get).await?, &["v1"]))
        .await
}

/// Everything is killed at once, and nothing is cleared up. The next start finds leftovers of every kind and Pods that are
/// gone, and makes all of it anew; in the end nothing is left.
pub(crate) async fn all_is_lost_and_made_anew(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    push_script(&cluster, "web:v1", &web("v1")).await?;
    cluster.deploy_hello("web", "web:v1", 2).await?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut spec = one(json!({
        "command": ["sh", "-c", "echo life >> /disk/lives; mkdir /w; cp /disk/lives /w/index.html; exec httpd -f -p 80 -h /w"],
        "ports": [{"containerPort": 80, "hostPort": port}],
        "volumeMounts": [{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}],
    }));
    spec["volumes"] = json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]);
    apply(&cluster, "box", spec).await?;
    apply(&cluster, "gone", one(json!({}))).await?;
    for pod in ["box", "gone"] {
        becomes(&cluster, pod, "it runs", is_ready).await?;
    }
    let address = cluster.service("default", "web").await?;
    let outside = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    eventually(SOON, "the machine's port leads to the Pod", async || {
        expect(&http::get(outside, "/").await?.body, &["life"])
    })
    .await?;
    cluster.kubectl(&["delete", "pod", "gone", "--wait=false", "--grace-period=30"]).await?;
    cluster.kill9_all(Part::Up).await?;
    anyhow::ensure!(http::get(outside, "/").await.is_err(), "it should be dead");
    cluster.start(Part::Up).await?;
    let status =
        becomes(&cluster, "box", "it runs again", |s| is_ready(s) && app(s)["restartCount"] == 1)
            .await?;
    anyhow::ensure!(app(&status)["lastState"]["terminated"]["exitCode"] == 137, "{status:#}");
    eventually(SOON, "what it kept on disk is there", async || {
        let body = http::get(outside, "/").await?.body;
        anyhow::ensure!(body == "life\nlife\n", "{body}");
        Ok(())
    })
    .await?;
    cluster.rolled_out("web").await?;
    eventually(SOON, "the Service answers", async || {
        expect(&http::get(address, "/version").await?.body, &["v1"])
    })
    .await?;
    eventually(SOON, "the Pod that was to go is gone", async || {
        cluster.kubectl_with(&["get", "pod", "gone"], "").await?.refused().map(drop)
    })
    .await?;
    let uid = uid(&cluster, "box").await?;
    anyhow::ensure!(cluster.processes_of(&uid, "app").len() == 1, "one attempt runs");
    Ok(())
}

/// Pods of the older program stay as they are; the next are made by the new one, whose zygote takes the other's place.
pub(crate) async fn another_program_takes_over(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.split().await?;
    if !push_script(&cluster, "web:v1", &web("v1")).await? {
        return Ok(());
    }
    apply(&cluster, "older", one(json!({"image": "web:v1"}))).await?;
    becomes(&cluster, "older", "it runs", is_ready).await?;
    let before = cluster.zygote().context("no zygote")?;
    cluster.end(Part::Agent, Signal::SIGTERM).await?;
    cluster.upgrade().await?;
    cluster.start(Part::Agent).await?;
    apply(&cluster, "newer", one(json!({"image": "web:v1"}))).await?;
    becomes(&cluster, "newer", "it runs", is_ready).await?;
    // Nobody may have asked what became of it.
    let stat = std::fs::read_to_string(format!("/proc/{before}/stat")).unwrap_or_default();
    anyhow::ensure!(stat.is_empty() || stat.contains(") Z "), "the older zygote stays: {stat}");
    let said = cluster.kubectl(&["exec", "older", "--", "cat", "/www/version"]).await?;
    expect(&said, &["v1"])?;
    let status = cluster.get(&["pod", "older"]).await?["status"].clone();
    anyhow::ensure!(app(&status)["restartCount"] == 0 && is_ready(&status), "{status:#}");
    cluster.kubectl(&["delete", "pod", "older", "newer", "--timeout=60s"]).await.map(drop)
}

/// A mount that is made on one side of a volume is seen on the other, as far as the volume says so.
pub(crate) async fn mounts_pass_on_as_asked(context: Arc<Context>) -> Outcome {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let shared = cluster.data().join("shared");
    std::fs::create_dir(&shared)?;
    mount(Some("none"), &shared, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    let checked = async {
        for folder in ["machines", "containers"] {
            std::fs::create_dir(shared.join(folder))?;
        }
        let container = |name: &str, propagation: &str, privileged: bool| {
            json!({"name": name, "image": "box:v1", "securityContext": {"privileged": privileged},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": propagation}]})
        };
        let spec = json!({
            "containers": [container("app", "Bidirectional", true), container("hears", "HostToContainer", false),
                container("apart", "None", true)],
            "volumes": [{"name": "v", "hostPath": {"path": shared}}],
        });
        apply(&cluster, "mounts", spec.clone()).await?;
        becomes(&cluster, "mounts", "all run", is_ready).await?;
        let run = async |name: &str, script: &str| {
            cluster.kubectl(&["exec", "mounts", "-c", name, "--", "sh", "-c", script]).await
        };
        let inner = shared.join("machines");
        mount(Some("none"), &inner, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        std::fs::write(inner.join("file"), "from the machine")?;
        for (name, sees) in [("app", true), ("hears", true), ("apart", false)] {
            let said = run(name, "cat /v/machines/file || true").await?;
            anyhow::ensure!((said == "from the machine") == sees, "{name}: {said}");
        }
        run(
            "app",
            "mount -t tmpfs none /v/containers && echo from a container > /v/containers/file",
        )
        .await?;
        let seen = std::fs::read_to_string(shared.join("containers/file"))?;
        expect(&seen, &["from a container"])?;
        expect(&run("hears", "cat /v/containers/file").await?, &["from a container"])?;
        run("apart", "mount -t tmpfs none /v/containers").await?;
        let seen = std::fs::read_to_string(shared.join("containers/file"))?;
        expect(&seen, &["from a container"])?;
        let mut refused = spec;
        refused["containers"][0]["securityContext"] = json!({});
        let refused = apply(&cluster, "refused", refused).await.err().context("it is refused")?;
        expect(&format!("{refused:#}"), &["available only to privileged containers"])?;
        cluster.kubectl(&["delete", "pod", "mounts", "--timeout=60s"]).await?;
        events(&cluster, "mounts", &["Killing"]).await
    };
    let checked = checked.await;
    for place in ["containers", "machines", ""] {
        let _ = umount2(&shared.join(place), MntFlags::MNT_DETACH);
    }
    checked
}
