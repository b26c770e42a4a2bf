//! How soon an autoscaler has made enough of ten times the load.
//!
//! Requests come at their rate, whatever becomes of those before, each on a connection of its own, so that every replica gets
//! its share at once. How many replicas are enough follows from what the Pods really use after the step.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use coracle_test_cluster::containers;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::pod;
use crate::Bench;
use crate::api::Connection;
use crate::cluster::Cluster;
use crate::report::Measured;
use crate::root;

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments";
/// What a replica requests, in thousandths of a core, and the part of that which is aimed at, in percent.
const REQUESTED: u32 = 40;
const AIM: u32 = 70;
/// Requests a second before and after the step; each takes two milliseconds of CPU, and what serving it takes.
const BEFORE: u32 = 8;
const AFTER: u32 = 80;
/// How long the load is as it was before it is as it will be, and is then looked at.
const EVEN: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(30);

/// Components.
pub(super) async fn wasm(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let probe = root().join("examples/prebuilt/probe-http.wasm");
    cluster.run(&[&"push", &probe, &"scaled:v1"])?;
    measure(&cluster, Duration::from_secs(4)).await
}

/// Containers that do the same.
pub(super) async fn oci(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let folder = tempfile::tempdir_in(&bench.folder)?;
    containers::twin("probe-http")?.write(folder.path())?;
    cluster.run(&[&"push", &folder.path(), &"scaled:v1"])?;
    measure(&cluster, Duration::from_secs(6)).await
}

async fn measure(cluster: &Cluster, goal: Duration) -> anyhow::Result<Measured> {
    let mut connection = pod::prepare(cluster).await?;
    let address = deploy(&mut connection).await?;
    let load = Load::start(address, BEFORE);
    tokio::time::sleep(EVEN).await;
    let before = ready(&mut connection).await?;
    load.rate.store(AFTER.into(), Relaxed);
    let step = Instant::now();
    let mut seen = vec![(Duration::ZERO, before)];
    while step.elapsed() < EVEN {
        let now = ready(&mut connection).await?;
        if seen.last().is_some_and(|(_, last)| *last != now) {
            seen.push((step.elapsed(), now));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let used = used(&mut connection).await?;
    let failed = load.stop().await;
    // Within its tolerance, an autoscaler does nothing.
    let enough = (used / (f64::from(REQUESTED * AIM) / 100.0 * 1.1)).ceil() as i64;
    let course: Vec<String> =
        seen.iter().map(|(at, count)| format!("{count} after {:.1} s", at.as_secs_f64())).collect();
    let took = seen.iter().find(|(_, count)| *count >= enough).map(|(at, _)| *at);
    let took =
        took.with_context(|| format!("{enough} replicas never came: {}", course.join(", ")))?;
    Ok(Measured {
        value: format!("{:.1} s", took.as_secs_f64()),
        met: took <= goal && failed == 0,
        notes: format!(
            "{BEFORE} requests a second, then {AFTER}, each on a connection of its own through a Service and of 2 ms of CPU; \
             replicas request {REQUESTED}m, of which {AIM} % are aimed at. After the step they use {used:.0}m together, for \
             which {enough} are enough. Ready: {}. Requests that failed: {failed}.",
            course.join(", "),
        ),
    })
}

/// A Deployment of one replica with its Service and its autoscaler; where it answers.
async fn deploy(connection: &mut Connection) -> anyhow::Result<SocketAddr> {
    let labels = json!({"app": "scaled"});
    let container = json!({
        "name": "app",
        "image": "scaled:v1",
        "ports": [{"containerPort": 8080}],
        "resources": {"requests": {"cpu": format!("{REQUESTED}m"), "memory": "16Mi"}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1},
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "scaled"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "scaled"},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scaled"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled"},
            "minReplicas": 1,
            "maxReplicas": 20,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": AIM}}}],
        },
    });
    let path = "/api/v1/namespaces/default/services";
    let service: Value =
        serde_json::from_slice(&connection.create(path, service.to_string()).await?)?;
    connection.create(DEPLOYMENT, deployment.to_string()).await?;
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    connection.create(path, autoscaler.to_string()).await?;
    let ip: IpAddr = service["spec"]["clusterIP"].as_str().context("no address")?.parse()?;
    let address = SocketAddr::new(ip, 80);
    let begun = Instant::now();
    while ask(address).await.is_err() {
        if begun.elapsed() > PATIENCE {
            bail!("the Service does not answer at {address} after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(address)
}

async fn ready(connection: &mut Connection) -> anyhow::Result<i64> {
    let deployment = connection.read(&format!("{DEPLOYMENT}/scaled")).await?;
    Ok(deployment["status"]["readyReplicas"].as_i64().unwrap_or(0))
}

/// What all replicas use together, in thousandths of a core.
async fn used(connection: &mut Connection) -> anyhow::Result<f64> {
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app=scaled";
    let list = connection.read(path).await?;
    let pods = list["items"].as_array().into_iter().flatten();
    let containers = pods.flat_map(|pod| pod["containers"].as_array()).flatten();
    let nanocores =
        |it: &Value| it["usage"]["cpu"].as_str()?.strip_suffix('n')?.parse::<f64>().ok();
    let sum: f64 = containers.filter_map(nanocores).sum();
    Ok(sum / 1e6)
}

/// Requests at a rate that may be changed.
struct Load {
    rate: Arc<AtomicU64>,
    running: tokio::task::JoinHandle<()>,
    failed: Arc<AtomicU64>,
}

impl Load {
    fn start(address: SocketAddr, rate: u32) -> Load {
        let (rate, failed) = (Arc::new(AtomicU64::new(rate.into())), Arc::new(AtomicU64::new(0)));
        let (wanted, failures) = (rate.clone(), failed.clone());
        let running = tokio::spawn(async move {
            let mut asking = JoinSet::new();
            loop {
                let failures = failures.clone();
                asking.spawn(async move {
                    let answer = tokio::time::timeout(Duration::from_secs(5), ask(address)).await;
                    if !matches!(answer, Ok(Ok(()))) {
                        failures.fetch_add(1, Relaxed);
                    }
                });
                while asking.try_join_next().is_some() {}
                let pause =
                    Duration::from_secs(1) / u32::try_from(wanted.load(Relaxed)).unwrap_or(1);
                tokio::time::sleep(pause).await;
            }
        });
        Load { rate, running, failed }
    }

    /// Stops; how many requests failed.
    async fn stop(self) -> u64 {
        self.running.abort();
        // An error means that it was aborted, which it was.
        let _ = self.running.await;
        self.failed.load(Relaxed)
    }
}

/// One request on a connection of its own.
async fn ask(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET /busy?ms=2 HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
