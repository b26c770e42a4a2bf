//! Pods of a container image that is on the node: how soon one is Ready, how many at once, and programs executed in one.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use coracle_test_cluster::containers;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use super::{crowd, pod};
use crate::Bench;
use crate::api::Connection;
use crate::cluster::Cluster;
use crate::report::{Measured, ms, quantile};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Pods one after the other.
const ALONE: usize = 50;
/// Pods at once.
const MANY: usize = 200;
/// Programs executed.
const EXECS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_secs(5);

/// A Pod of busybox that does nothing.
fn manifest(name: &str) -> String {
    let crowd = name.rsplit_once('-').map_or(name, |(crowd, _)| crowd);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"crowd": crowd}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "box", "image": "box:v1", "command": ["sleep", "3600"]}],
        },
    });
    pod.to_string()
}

/// A cluster whose node has the image.
async fn start(bench: &Bench) -> anyhow::Result<(Cluster, Connection)> {
    let cluster = Cluster::start(bench, &["up", "--max-pods", "300"]).await?;
    let mut connection = pod::prepare(&cluster).await?;
    let folder = tempfile::tempdir_in(&bench.folder)?;
    containers::busybox()?.write(folder.path())?;
    cluster.run(&[&"push", &folder.path(), &"box:v1"])?;
    one(&mut connection, "warm").await?;
    Ok((cluster, connection))
}

/// From sending the create until the API says that the Pod is Ready. It stays.
async fn one(connection: &mut Connection, name: &str) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    connection.create(PODS, manifest(name)).await?;
    loop {
        let status = connection.read(&format!("{PODS}/{name}")).await?["status"].take();
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        if conditions.any(|c| c["type"] == "Ready" && c["status"] == "True") {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > PATIENCE {
            bail!("Pod {name} is not ready after {PATIENCE:?}: {status}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) async fn alone(bench: &Bench) -> anyhow::Result<Measured> {
    let (_cluster, mut connection) = start(bench).await?;
    let mut times = Vec::new();
    for number in 0..ALONE {
        let name = format!("alone-{number}");
        times.push(one(&mut connection, &name).await?);
        connection.delete(&format!("{PODS}/{name}")).await?;
    }
    let p50 = quantile(&mut times, 0.5);
    Ok(Measured {
        value: format!("p50 {}", ms(p50)),
        met: p50 <= Duration::from_millis(100),
        notes: format!(
            "{ALONE} Pods of busybox, one after the other, each deleted before the next; from sending the create until a GET \
             every millisecond says Ready. p90 {}, slowest {}.",
            ms(quantile(&mut times, 0.9)),
            ms(times[ALONE - 1]),
        ),
    })
}

pub(super) async fn at_once(bench: &Bench) -> anyhow::Result<Measured> {
    let (cluster, _connection) = start(bench).await?;
    tokio::time::sleep(SETTLE).await;
    // Not the containers' own processes.
    let ours = |all: Vec<(String, u64)>| -> u64 {
        let ours = all.iter().filter(|(name, _)| name == "up" || name.starts_with("host "));
        ours.map(|(_, bytes)| bytes).sum()
    };
    let before = ours(crowd::memory(&cluster)?);
    let crowd = crowd::gather(&cluster, "crowd", MANY, manifest).await?;
    tokio::time::sleep(SETTLE).await;
    let per_pod = ours(crowd::memory(&cluster)?).saturating_sub(before) as f64 / MANY as f64;
    let rate = MANY as f64 / crowd.took.as_secs_f64();
    let mib = per_pod / f64::from(1 << 20);
    Ok(Measured {
        value: format!("{rate:.0}/s, {mib:.2} MiB"),
        met: rate >= 30.0 && mib <= 2.0,
        notes: format!(
            "{MANY} Pods of busybox created over 8 connections in {:.1} s until a watch says that the last is Ready; memory is \
             the growth of the proportional set sizes of all processes but the containers', per Pod.",
            crowd.took.as_secs_f64(),
        ),
    })
}

pub(super) async fn exec(bench: &Bench) -> anyhow::Result<Measured> {
    let (cluster, _connection) = start(bench).await?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await?);
    let mut times = Vec::new();
    for _ in 0..EXECS {
        let begun = Instant::now();
        let params = AttachParams::default().stdout(true).stderr(true);
        let mut process = pods.exec("warm", ["true"], &params).await?;
        let status = process.take_status().context("there is no status")?;
        let mut said = Vec::new();
        if let Some(mut out) = process.stdout() {
            out.read_to_end(&mut said).await?;
        }
        let status = status.await.context("the stream ended without a status")?;
        if status.status.as_deref() != Some("Success") {
            bail!("`true` failed: {status:?}");
        }
        times.push(begun.elapsed());
    }
    let p50 = quantile(&mut times, 0.5);
    Ok(Measured {
        value: format!("p50 {}", ms(p50)),
        met: p50 <= Duration::from_millis(40),
        notes: format!(
            "{EXECS} times `true` in a container of busybox over WebSocket, each on a connection of its own, from the request \
             to the exit's status. p90 {}, slowest {}.",
            ms(quantile(&mut times, 0.9)),
            ms(times[EXECS - 1]),
        ),
    })
}
