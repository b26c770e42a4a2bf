//! Limits that hold, and neighbours that do not notice. How well they do is measured in tests/bench.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_test_cluster::{Cluster, Runtime, eventually, http};
use futures::future::join_all;
use serde_json::Value;
use tokio::time::timeout;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

/// A Pod of the component that misbehaves on request, and one that must not notice.
struct Scene {
    cluster: Arc<Cluster>,
    hostile: SocketAddr,
    neighbour: SocketAddr,
}

async fn scene(context: &Context, resources: &str, annotations: &str) -> anyhow::Result<Scene> {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("probe-http", "probe:v1")]).await?;
    let pod = |name: &str, image: &str, resources: &str, annotations: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}, annotations: {annotations}}}
spec:
  containers:
  - name: app
    image: {image}
    ports: [{{containerPort: 8080}}]
    resources: {resources}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
"#
        )
    };
    let both =
        pod("hostile", "probe:v1", resources, annotations) + &pod("quiet", "hello:v1", "{}", "{}");
    cluster.apply(&both).await?;
    let mut addresses = Vec::new();
    for name in ["hostile", "quiet"] {
        let address = cluster.service("default", name).await?;
        eventually(SOON, "it answers", async || answers(address).await).await?;
        addresses.push(address);
    }
    Ok(Scene { cluster, hostile: addresses[0], neighbour: addresses[1] })
}

async fn answers(address: SocketAddr) -> Outcome {
    let answer = http::get(address, "/").await?;
    anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok(())
}

async fn container(cluster: &Cluster) -> anyhow::Result<Value> {
    Ok(cluster.get(&["pod", "hostile"]).await?["status"]["containerStatuses"][0].clone())
}

/// Asks many times at once; the statuses, 0 for a connection that was broken off.
async fn ask(address: SocketAddr, path: &str, times: usize) -> Vec<u16> {
    let answers = join_all((0..times).map(|_| http::get(address, path))).await;
    answers.into_iter().map(|answer| answer.map_or(0, |answer| answer.status.as_u16())).collect()
}

pub(crate) async fn memory_is_a_containers_own_trouble(context: Arc<Context>) -> Outcome {
    let Scene { cluster, hostile, neighbour } =
        scene(&context, "{limits: {memory: 64Mi}}", "{}").await?;
    anyhow::ensure!(ask(hostile, "/grow?mib=25", 1).await == [200]);
    let wasm = context.runtime == Runtime::Wasm;
    if wasm {
        // Many that fit one or two at a time wait for each other, once it is known what they need.
        let statuses = ask(hostile, "/grow?mib=25&ms=20", 20).await;
        anyhow::ensure!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    }
    anyhow::ensure!(container(&cluster).await?["restartCount"] == 0);
    // One that does not fit alone ends its container, which comes back. Of a process nobody is left to answer.
    anyhow::ensure!(ask(hostile, "/grow?mib=80", 1).await == [if wasm { 500 } else { 0 }]);
    answers(neighbour).await?;
    eventually(SOON, "the container was killed and is back", async || {
        let container = container(&cluster).await?;
        let ended = &container["lastState"]["terminated"];
        anyhow::ensure!(
            ended["reason"] == "OOMKilled" && ended["exitCode"] == 137,
            "{container:#}"
        );
        if wasm {
            expect(ended["message"].as_str().unwrap_or_default(), &["over the limit of 67108864"])?;
        }
        anyhow::ensure!(container["restartCount"] == 1 && container["ready"] == true);
        answers(hostile).await
    })
    .await?;
    // Again and again: it has to wait longer each time.
    eventually(SOON, "it backs off", async || {
        let _ = http::get(hostile, "/grow?mib=80").await;
        let container = container(&cluster).await?;
        let waiting = &container["state"]["waiting"]["reason"];
        anyhow::ensure!(waiting == "CrashLoopBackOff", "{container:#}");
        Ok(())
    })
    .await?;
    answers(neighbour).await
}

pub(crate) async fn a_flood_stays_in_its_log(context: Arc<Context>) -> Outcome {
    let annotations = "{coracle.dev/log-max-size: 100Ki, coracle.dev/log-max-files: '3', coracle.dev/request-timeout: 3s}";
    let Scene { cluster, hostile, neighbour } = scene(&context, "{}", annotations).await?;
    // Components are ended by their request's timeout, programs when nobody waits for an answer any longer.
    let ask = move |path| timeout(Duration::from_secs(4), http::get(hostile, path));
    let flood = tokio::spawn(ask("/flood?bytes=1000"));
    let endless = tokio::spawn(ask("/flood?bytes=0"));
    while !flood.is_finished() || !endless.is_finished() {
        answers(neighbour).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Three files of 100 KiB, and what was written at once when one was full.
    let log = cluster.kubectl(&["logs", "hostile"]).await?;
    anyhow::ensure!((50_000..500_000).contains(&log.len()), "{} bytes", log.len());
    anyhow::ensure!(log.contains(&"x".repeat(1000)));
    let tail = cluster.kubectl(&["logs", "hostile", "--tail=3"]).await?;
    anyhow::ensure!(tail.lines().count() <= 3, "{tail}");
    answers(hostile).await
}

pub(crate) async fn hostile_guests_harm_no_neighbour(context: Arc<Context>) -> Outcome {
    let resources = "{limits: {cpu: 100m, memory: 64Mi}}";
    let annotations = "{coracle.dev/request-timeout: 2s}";
    let Scene { cluster, hostile, neighbour } = scene(&context, resources, annotations).await?;
    // What ends by itself, with a status, and never with the container.
    for (path, expected) in
        [("/trap", 500), ("/stack", 500), ("/random?bytes=1000000000", 500), ("/silent", 500)]
    {
        let statuses = ask(hostile, path, 5).await;
        anyhow::ensure!(statuses.iter().all(|status| *status == expected), "{path}: {statuses:?}");
        answers(neighbour).await?;
    }
    // What never ends by itself.
    for path in ["/busy", "/fill?mib=32", "/flood?bytes=10"] {
        let asked = tokio::spawn(async move { ask(hostile, path, 4).await });
        while !asked.is_finished() {
            answers(neighbour).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let statuses = asked.await?;
        let ended = |status: &u16| [503, 504].contains(status);
        anyhow::ensure!(statuses.iter().all(ended), "{path}: {statuses:?}");
    }
    let container = container(&cluster).await?;
    anyhow::ensure!(container["restartCount"] == 0, "{container:#}");
    eventually(SOON, "it is itself again", async || answers(hostile).await).await?;
    let log = cluster.kubectl(&["logs", "hostile", "--tail=-1"]).await?;
    expect(&log, &["unreachable"])
}
