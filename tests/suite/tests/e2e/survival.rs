//! What is killed, and what goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coracle_test_cluster::load::Load;
use coracle_test_cluster::{Cluster, Part, eventually, http};
use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, serves};

/// (name, restart count) of each container of the app, sorted.
async fn restarts(cluster: &Cluster, app: &str) -> anyhow::Result<Vec<(String, u64)>> {
    let pods = cluster.get(&["pods", "-l", &format!("app={app}")]).await?;
    let count = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> =
        pods.iter().map(|pod| (name(pod), count(pod).unwrap_or_default())).collect();
    all.sort();
    Ok(all)
}

pub(crate) async fn the_agent_is_killed_under_load(context: Arc<Context>) -> Outcome {
    let cluster = context.split().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 3).await?;
    let before = restarts(&cluster, "web").await?;
    let load = Load::start(cluster.service("default", "web").await?, "/health", 4);
    for _ in 0..2 {
        cluster.kill9(Part::Agent).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.start(Part::Agent).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // The agent that came back serves as before.
    cluster.kubectl(&["scale", "deployment/web", "--replicas=4"]).await?;
    cluster.rolled_out("web").await?;
    let after = restarts(&cluster, "web").await?;
    anyhow::ensure!(before.iter().all(|pod| after.contains(pod)), "{before:?}\n{after:?}");
    cluster.kubectl(&["logs", "deployment/web"]).await?;
    load.stop().await.nothing_dropped()
}

pub(crate) async fn up_is_killed_under_load(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    let before = restarts(&cluster, "web").await?;
    let load = Load::start(cluster.service("default", "web").await?, "/health", 3);
    cluster.kill9(Part::Up).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.start(Part::Up).await?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]).await?;
    cluster.rolled_out("web").await?;
    let after = restarts(&cluster, "web").await?;
    anyhow::ensure!(before.iter().all(|pod| after.contains(pod)), "{before:?}\n{after:?}");
    load.stop().await.nothing_dropped()
}

pub(crate) async fn the_host_is_killed(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 3).await?;
    let address = cluster.service("default", "web").await?;
    cluster.kill9(Part::Host).await?;
    let killed = Instant::now();
    eventually(SOON, "every container was restarted once and is ready", async || {
        let pods = cluster.get(&["pods", "-l", "app=web"]).await?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let status = &pod["status"]["containerStatuses"][0];
            anyhow::ensure!(status["restartCount"] == 1 && status["ready"] == true, "{status}");
        }
        expect(&http::get(address, "/health").await?.body, &["ok"])
    })
    .await?;
    // A second in a release build on a machine with nothing else to do; here it may be neither.
    anyhow::ensure!(killed.elapsed() < Duration::from_secs(15), "took {:?}", killed.elapsed());
    let after = restarts(&cluster, "web").await?;
    anyhow::ensure!(after.len() == 3 && after.iter().all(|(_, count)| *count == 1), "{after:?}");
    Ok(())
}

pub(crate) async fn up_finds_everything_again(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]).await?;
    let address = cluster.service("default", "web").await?;
    let identities = async || {
        let all = cluster.get(&["deployments,services,configmaps,namespaces", "-A"]).await?;
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let mut all: Vec<_> =
            items.iter().map(|item| item["metadata"]["uid"].to_string()).collect();
        all.sort();
        anyhow::Ok(all)
    };
    let before = identities().await?;
    cluster.end(Part::Up, Signal::SIGINT).await?;
    // Something else on the way may answer for an address that nobody has.
    let gone = http::get(address, "/health").await;
    anyhow::ensure!(!gone.is_ok_and(|reply| reply.body == "ok\n"), "workloads end with `up`");
    cluster.start(Part::Up).await?;
    let after = identities().await?;
    anyhow::ensure!(before == after, "{before:?}\n{after:?}");
    eventually(SOON, "the Service answers again", async || {
        expect(&http::get(address, "/version").await?.body, &["v1"])
    })
    .await?;
    // Images are still there, and so is everything that makes an update.
    cluster.kubectl(&["set", "image", "deployment/web", "app=hello:v2"]).await?;
    cluster.rolled_out("web").await?;
    serves(address, "v2").await
}

/// Kills the control plane in the middle of writes, again and again: every write that was acknowledged is there.
pub(crate) async fn no_acknowledged_write_is_lost(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let mut acknowledged = Vec::new();
    for round in 0..100 {
        let stop = AtomicBool::new(false);
        let client = cluster.client().await?;
        let writers = (0..8).map(|writer| write(client.clone(), round * 8 + writer, &stop));
        let killing = async {
            tokio::time::sleep(Duration::from_millis(100 + 30 * (round % 7))).await;
            let killed = cluster.kill9(Part::Up).await;
            stop.store(true, Ordering::Relaxed);
            killed
        };
        let (written, killed) = tokio::join!(join_all(writers), killing);
        killed?;
        acknowledged.extend(written.into_iter().flatten());
        cluster.start(Part::Up).await?;
    }
    anyhow::ensure!(acknowledged.len() > 50, "too few writes to tell: {}", acknowledged.len());
    let api: Api<ConfigMap> = Api::namespaced(cluster.client().await?, "default");
    let there = api.list(&ListParams::default()).await?;
    let there: std::collections::HashSet<_> =
        there.items.into_iter().filter_map(|map| map.metadata.name).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(*name)).collect();
    anyhow::ensure!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
    Ok(())
}

/// Creates ConfigMaps until told to stop; the names of those that were acknowledged.
async fn write(client: kube::Client, writer: u64, stop: &AtomicBool) -> Vec<String> {
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut written = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("written-{writer}-{number}");
        let map = json!({"metadata": {"name": name}, "data": {"number": number.to_string()}});
        let Ok(map) = serde_json::from_value(map) else { break };
        let params = PostParams::default();
        let create = api.create(&params, &map);
        match tokio::time::timeout(Duration::from_secs(2), create).await {
            Ok(Ok(_)) => written.push(name),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    written
}
