//! What is new is ready before what is old stops: code of Deployments, and the program itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coracle_test_cluster::load::Load;
use coracle_test_cluster::{Cluster, Part, Runtime, User, eventually, http};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello, serves};
use crate::ingress;

/// An event about an object: when it happened, in nanoseconds, its reason and its message.
type Told = (u128, String, String);

/// What was told of an object, the oldest first. The name of an event ends with its time, which its fields have in seconds.
async fn told(cluster: &Cluster, object: &str) -> anyhow::Result<Vec<Told>> {
    let events = cluster.get(&["events"]).await?;
    let mut all = Vec::new();
    for event in events["items"].as_array().into_iter().flatten() {
        if event["involvedObject"]["name"] != object {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&event["metadata"]["name"]);
        let at = name.rsplit('.').next().unwrap_or_default();
        let at = u128::from_str_radix(at, 16).with_context(|| name.clone())?;
        all.push((at, text(&event["reason"]), text(&event["message"])));
    }
    all.sort();
    Ok(all)
}

fn first<'a>(events: &'a [Told], reason: &str) -> anyhow::Result<&'a Told> {
    let found = events.iter().find(|(_, r, _)| r == reason);
    found.with_context(|| format!("no event {reason} in {events:?}"))
}

/// Name of the only Pod of the app that is not on its way out.
async fn only_pod(cluster: &Cluster, app: &str) -> anyhow::Result<String> {
    let pods = cluster.get(&["pods", "-l", &format!("app={app}")]).await?;
    let pods: Vec<_> = pods["items"].as_array().cloned().unwrap_or_default();
    let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let names: Vec<_> = pods.iter().filter(stays).map(|pod| &pod["metadata"]["name"]).collect();
    anyhow::ensure!(names.len() == 1, "{names:?}");
    Ok(names[0].as_str().unwrap_or_default().to_owned())
}

fn recreated(name: &str, image: &str) -> String {
    hello(name, image, 1)
        .replace("  replicas: 1", "  replicas: 1\n  strategy: {type: Recreate}")
        .replace("httpGet: {path: /health, port: http}", "tcpSocket: {port: http}")
}

/// `Recreate` has a moment in which nobody answers. Pulling and compiling the new image is no part of it, and requests that
/// are under way end on the old code.
pub(crate) async fn new_code_is_compiled_before_the_old_pod_stops(
    context: Arc<Context>,
) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "app:old"), ("hello-v2", "app:new")]).await?;
    cluster.apply(&recreated("web", "app:old")).await?;
    cluster.rolled_out("web").await?;
    let old = only_pod(&cluster, "web").await?;
    let address = cluster.service("default", "web").await?;
    let slow = tokio::spawn(http::get(address, "/sleep?ms=6000"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.kubectl(&["set", "image", "deployment/web", "app=app:new"]).await?;
    let slow = slow.await??;
    anyhow::ensure!(slow.status == 200, "{slow:?}");
    cluster.rolled_out("web").await?;
    serves(address, "v2").await?;

    eventually(SOON, "the events tell the order", async || {
        let events = told(&cluster, &old).await?;
        let (prepared, _, message) = first(&events, "Prepared")?;
        expect(message, &["\"app:new\"", "pulled in"])?;
        if context.runtime == Runtime::Wasm {
            expect(message, &["compiled in"])?;
        }
        let (killed, ..) = first(&events, "Killing")?;
        anyhow::ensure!(prepared < killed, "{events:?}");
        let new = only_pod(&cluster, "web").await?;
        let events = told(&cluster, &new).await?;
        expect(&first(&events, "Pulled")?.2, &["already present on machine"])?;
        first(&events, "Started")?;
        anyhow::ensure!(first(&events, "Compiled").is_err(), "{events:?}");
        Ok(())
    })
    .await?;

    // An image that is not to be had keeps nobody: what was declared is done.
    let old = only_pod(&cluster, "web").await?;
    cluster.kubectl(&["set", "image", "deployment/web", "app=app:missing"]).await?;
    eventually(SOON, "the Pod goes, and says why nothing was prepared", async || {
        let events = told(&cluster, &old).await?;
        expect(&first(&events, "NotPrepared")?.2, &["\"app:missing\"", "not found"])?;
        first(&events, "Killing")?;
        anyhow::ensure!(only_pod(&cluster, "web").await? != old);
        Ok(())
    })
    .await
}

/// Without a surge an old Pod goes first. While others serve, nobody notices; and what is scaled down waits for nothing.
pub(crate) async fn an_update_without_surge_drops_nothing(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    let strategy = "  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}";
    let text =
        hello("web", "hello:v1", 2).replace("  replicas: 2", &format!("  replicas: 2\n{strategy}"));
    cluster.apply(&text).await?;
    cluster.rolled_out("web").await?;
    let address = cluster.service("default", "web").await?;
    let load = Load::start(address, "/version", 2);
    cluster.kubectl(&["set", "image", "deployment/web", "app=hello:v2"]).await?;
    cluster.rolled_out("web").await?;
    let report = load.stop().await;
    report.nothing_dropped()?;
    serves(address, "v2").await?;

    cluster.kubectl(&["scale", "deployment/web", "--replicas=1"]).await?;
    eventually(SOON, "one Pod is left", async || {
        let left = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]).await?;
        anyhow::ensure!(left.lines().count() == 1, "{left}");
        Ok(())
    })
    .await?;
    // Nothing came after the one that went.
    let events = cluster.kubectl(&["get", "events", "--no-headers"]).await?;
    anyhow::ensure!(!events.contains("NotPrepared"), "{events}");
    Ok(())
}

/// Names of compiled code on the node.
fn compiled(cluster: &Cluster) -> Vec<String> {
    let files = std::fs::read_dir(cluster.data().join("agent/compiled")).into_iter().flatten();
    let names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".cwasm")).collect();
    names.sort();
    names
}

/// Processes of the hosts that Pods without a wish of their own are in.
fn shared_hosts(cluster: &Cluster) -> Vec<i32> {
    let hosts = cluster.hosts().into_iter().filter(|host| host.group == "shared");
    let mut pids: Vec<i32> = hosts.map(|host| host.pid).collect();
    pids.sort_unstable();
    pids
}

async fn no_restarts(cluster: &Cluster, app: &str) -> Outcome {
    let pods = cluster.get(&["pods", "-l", &format!("app={app}")]).await?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let status = &pod["status"]["containerStatuses"][0];
        anyhow::ensure!(status["restartCount"] == 0 && status["ready"] == true, "{status}");
    }
    Ok(())
}

/// Both processes come back as another version, whose engine can use nothing that was compiled. Pods stay where they are and
/// serve; code is made anew in the background; new Pods come to a host of the new version; the old one ends with its Pods. What
/// serves Ingresses gives its sockets to a process of the new version.
pub(crate) async fn the_program_is_upgraded_under_load(context: Arc<Context>) -> Outcome {
    let cluster = context.split().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    cluster.deploy_hello("web", "hello:v1", 3).await?;
    let alone = hello("alone", "hello:v1", 1).replace(
        "metadata: {labels: {app: alone}}",
        "metadata: {labels: {app: alone}, annotations: {coracle.dev/isolation: namespace}}",
    );
    cluster.apply(&alone).await?;
    cluster.rolled_out("alone").await?;
    let before = compiled(&cluster);
    let old = shared_hosts(&cluster);
    anyhow::ensure!(old.len() == 1 && before.len() == 1, "{old:?} {before:?}");
    let (old, isolated) = (old[0], cluster.hosts().len());
    anyhow::ensure!(isolated == 2, "{:?}", cluster.hosts());
    let address = cluster.service("default", "web").await?;
    let load = Load::start(address, "/version", 3);
    cluster.apply(&ingress::all_to("web")).await?;
    let (front, _) = ingress::address(&cluster, "web").await?;
    let through_ingress = Load::start(front, "/version", 2);
    let proxy = cluster.proxies();
    anyhow::ensure!(proxy.len() == 1, "{proxy:?}");

    cluster.end(Part::Agent, Signal::SIGTERM).await?;
    cluster.end(Part::Server, Signal::SIGINT).await?;
    cluster.upgrade().await?;
    cluster.start(Part::Server).await?;
    cluster.start(Part::Agent).await?;
    // Killed while it compiles anew, or just after: what is missing is made by the next one.
    cluster.kill9(Part::Agent).await?;
    cluster.start(Part::Agent).await?;
    // What is made ahead of need is made at the lowest priority, and there is load.
    eventually(4 * SOON, "the image in use is compiled for the new engine", async || {
        let now = compiled(&cluster);
        let all = before.iter().all(|name| now.contains(name));
        anyhow::ensure!(now.len() == 2 && all, "{before:?} {now:?}");
        Ok(())
    })
    .await?;
    no_restarts(&cluster, "web").await?;
    anyhow::ensure!(shared_hosts(&cluster) == [old], "{:?}", cluster.hosts());
    eventually(4 * SOON, "another process serves Ingresses", async || {
        let now = cluster.proxies();
        anyhow::ensure!(now.len() == 1 && now != proxy, "{now:?}, before {proxy:?}");
        let program = std::fs::read_link(format!("/proc/{}/exe", now[0]))?;
        anyhow::ensure!(program == cluster.binary(), "{}", program.display());
        Ok(())
    })
    .await?;
    anyhow::ensure!(ingress::address(&cluster, "web").await?.0 == front);
    eventually(SOON, "the node says which Pods stay in the older program", async || {
        let node = cluster.get(&["nodes"]).await?;
        let node = node["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let events = told(&cluster, &node).await?;
        expect(&first(&events, "OlderHost")?.2, &["3 Pods", "kubectl rollout restart"])
    })
    .await?;

    // New Pods are in a host of the new program, beside those of the old one.
    cluster.kubectl(&["scale", "deployment/web", "deployment/alone", "--replicas=4"]).await?;
    cluster.rolled_out("web").await?;
    cluster.rolled_out("alone").await?;
    let both = shared_hosts(&cluster);
    anyhow::ensure!(both.len() == 2 && both.contains(&old), "{both:?}");
    let new = both.into_iter().find(|pid| *pid != old).context("a new host")?;
    let program = std::fs::read_link(format!("/proc/{new}/exe"))?;
    anyhow::ensure!(program == cluster.binary(), "{}", program.display());
    anyhow::ensure!(cluster.hosts().len() == 4, "{:?}", cluster.hosts());
    anyhow::ensure!(compiled(&cluster).len() == 2, "nothing was compiled for Pods that came");
    no_restarts(&cluster, "web").await?;
    // An agent that returns finds both.
    cluster.kill9(Part::Agent).await?;
    cluster.start(Part::Agent).await?;
    for app in ["web", "alone"] {
        cluster.kubectl(&["logs", "-l", &format!("app={app}")]).await?;
        no_restarts(&cluster, app).await?;
    }

    cluster.kubectl(&["rollout", "restart", "deployment/alone"]).await?;
    cluster.kubectl(&["set", "image", "deployment/web", "app=hello:v2"]).await?;
    cluster.rolled_out("web").await?;
    cluster.rolled_out("alone").await?;
    let address = cluster.service("default", "alone").await?;
    serves(address, "v1").await?;
    eventually(SOON, "hosts of the old program end with their Pods", async || {
        for host in cluster.hosts() {
            let program = std::fs::read_link(format!("/proc/{}/exe", host.pid))?;
            // An ordinary user's Services have their sockets in the shared host, which stays for them.
            let keeps_sockets = context.user == User::Ordinary && host.pid == old;
            anyhow::ensure!(program == cluster.binary() || keeps_sockets, "{host:?}");
        }
        Ok(())
    })
    .await?;
    load.stop().await.nothing_dropped()?;
    through_ingress.stop().await.nothing_dropped()
}
