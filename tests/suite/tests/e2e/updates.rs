//! What is new is ready before what is old stops: code of Deployments, and the program itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coracle_test_cluster::load::Load;
use coracle_test_cluster::{Cluster, eventually, http};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello};

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
    expect(&http::get(address, "/version").await?.body, &["v2"])?;

    eventually(SOON, "the events tell the order", async || {
        let events = told(&cluster, &old).await?;
        let (prepared, _, message) = first(&events, "Prepared")?;
        expect(message, &["\"app:new\"", "pulled in", "compiled in"])?;
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
    expect(&http::get(address, "/version").await?.body, &["v2"])?;

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
