//! Many simulated nodes: how fast a Deployment spreads over them, and what a cluster of the largest size costs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::crowd;
use crate::Bench;
use crate::api::Connection;
use crate::cluster::Cluster;
use crate::fleet::{Fleet, Options};
use crate::report::{Measured, quantile};

const ROUNDS: usize = 5;
const ZONES: usize = 3;
/// Pods of each simulated node of the large fleet, and the replicas of each Deployment.
const PODS: usize = 30;
const REPLICAS: usize = 1000;
/// One node of so many falls silent.
const LOST: usize = 10;
const PATIENCE: Duration = Duration::from_secs(900);
/// How long things may settle before memory is read.
const SETTLE: Duration = Duration::from_secs(10);

/// Ranges for every node's Pods, though they have none.
const SERVER: &[&str] = &["server", "--pod-range", "10.128.0.0/9"];

pub(super) async fn replicas(bench: &Bench) -> anyhow::Result<Measured> {
    let nodes = bench.nodes.unwrap_or(1000);
    let cluster = Cluster::start(bench, SERVER).await?;
    let options = Options { nodes, zones: ZONES, delay: Duration::from_millis(200) };
    let fleet = Fleet::start(&cluster.api, options).await?;
    let mut connection = cluster.connect().await?;
    until_ready(&mut connection, nodes).await?;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let (seen, ready) = (fleet.seen(), fleet.ready());
        let name = format!("replicas-{round}");
        let begun = Instant::now();
        create(&mut connection, &name, nodes).await?;
        fleet.reach("every Pod is bound", PATIENCE, |fleet| fleet.seen() >= seen + nodes).await?;
        times.push(begun.elapsed().as_secs_f64());
        // The next round begins when this one is over: all run, all go.
        fleet.reach("every Pod runs", PATIENCE, |fleet| fleet.ready() >= ready + nodes).await?;
        connection = cluster.connect().await?;
        connection.delete(&format!("/apis/apps/v1/namespaces/default/deployments/{name}")).await?;
        while !connection.read("/api/v1/pods?limit=1").await?["items"]
            .as_array()
            .is_none_or(Vec::is_empty)
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let median = quantile(&mut times, 0.5);
    Ok(Measured {
        value: format!("{median:.2} s"),
        met: median <= 0.8,
        notes: format!(
            "from sending the Deployment until each Pod has come to the watch of the node that it is bound to, durably; median \
             of {ROUNDS} ({:.2} to {:.2} s). {nodes} nodes in {ZONES} zones, in one process on the same machine, renew their \
             Leases meanwhile, as often as agents, and report their Pods Running 200 ms after seeing them.",
            times[0],
            times[ROUNDS - 1],
        ),
    })
}

pub(super) async fn large(bench: &Bench) -> anyhow::Result<Measured> {
    let nodes = bench.nodes.unwrap_or(5000);
    let pods = nodes * PODS;
    let arguments = [SERVER, &["--node-eviction-rate", "100"]].concat();
    let cluster = Cluster::start(bench, &arguments).await?;
    let begun = Instant::now();
    let options = Options { nodes, zones: ZONES, delay: Duration::from_secs(1) };
    let mut fleet = Fleet::start(&cluster.api, options).await?;
    let mut connection = cluster.connect().await?;
    until_ready(&mut connection, nodes).await?;
    let registered = begun.elapsed();
    let idle = Usage::begin(&cluster, &fleet);
    tokio::time::sleep(SETTLE).await;
    let idle = idle.end(&cluster, &fleet);
    let empty = memory(&cluster)?;

    let replicas = REPLICAS.min(pods / 3);
    let begun = Instant::now();
    for number in 0..pods / replicas {
        create(&mut connection, &format!("fleet-{number}"), replicas).await?;
    }
    let wanted = pods / replicas * replicas;
    fleet.reach("every Pod is bound", PATIENCE, |fleet| fleet.seen() >= wanted).await?;
    let placed = begun.elapsed();
    fleet.reach("every Pod runs", PATIENCE, |fleet| fleet.ready() >= wanted).await?;
    let ready = begun.elapsed();
    tokio::time::sleep(SETTLE).await;
    let before = memory(&cluster)?;
    let full = Usage::begin(&cluster, &fleet);
    tokio::time::sleep(SETTLE).await;
    let full = full.end(&cluster, &fleet);

    let lost = nodes / LOST;
    let names: Vec<String> = (0..lost).map(|number| format!("sim-{number:04}")).collect();
    // Servers do not keep connections for long on which nothing is asked.
    let mut connection = cluster.connect().await?;
    let on_lost = on(&mut connection, &names).await?;
    let running = fleet.ready();
    let begun = Instant::now();
    fleet.lose(lost);
    fleet
        .reach("lost Pods run elsewhere", PATIENCE, |fleet| fleet.ready() >= running + on_lost)
        .await?;
    let recovered = begun.elapsed();
    let available = available(&mut cluster.connect().await?).await?;
    tokio::time::sleep(SETTLE).await;
    let after = memory(&cluster)?;

    let rate = wanted as f64 / placed.as_secs_f64();
    let most = before.max(after);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Ok(Measured {
        value: format!(
            "{rate:.0}/s; {} of {wanted} available {:.0} s after; {:.2} GiB",
            available,
            recovered.as_secs_f64(),
            gib(most)
        ),
        met: rate >= 3000.0 && available >= wanted && most <= 3 << 30,
        notes: format!(
            "{nodes} nodes, in {ZONES} zones, registered and Ready in {:.1} s; with no Pods the server used {idle}. {} Deployments \
             of {replicas} replicas: {:.1} s from the first request until each Pod had come to the watch of its node, {:.1} s \
             until all were reported Running, a second after being seen. Then the server had a proportional set size of {:.2} GiB, {:.1} kB a Pod more than before, and \
             used {full}. {lost} nodes with {on_lost} Pods fell silent (their Leases run out first: among so many, agents renew them every 12.5 s and they last 50; no toleration \
             of that, `--node-eviction-rate 100`): {:.1} s until as many others were reported Running; {:.2} GiB after that. {} requests of \
             nodes failed. Nodes are simulated in one process that shares the cores with the server.",
            registered.as_secs_f64(),
            wanted / replicas,
            placed.as_secs_f64(),
            ready.as_secs_f64(),
            gib(before),
            before.saturating_sub(empty) as f64 / wanted as f64 / 1000.0,
            recovered.as_secs_f64(),
            gib(after),
            fleet.failures(),
        ),
    })
}

/// Until the server takes all nodes for Ready and has taken their taints away.
async fn until_ready(connection: &mut Connection, nodes: usize) -> anyhow::Result<()> {
    loop {
        let list = connection.read("/api/v1/nodes").await?;
        let untainted = |node: &&Value| node["spec"]["taints"].as_array().is_none_or(Vec::is_empty);
        if list["items"].as_array().into_iter().flatten().filter(untainted).count() == nodes {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A Deployment like many, whose Pods leave a node that is lost at once.
async fn create(connection: &mut Connection, name: &str, replicas: usize) -> anyhow::Result<()> {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{
                        "name": "web", "image": "registry.example.com/team-a/web:v1.27.3",
                        "ports": [{"containerPort": 8080, "name": "http"}],
                        "env": [{"name": "GREETING", "value": "hello"}],
                        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                    }],
                    "tolerations": [
                        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
                        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
                    ],
                },
            },
        },
    });
    let path = "/apis/apps/v1/namespaces/default/deployments";
    connection.create(path, deployment.to_string()).await.map(drop)
}

/// How many Pods nodes have.
async fn on(connection: &mut Connection, nodes: &[String]) -> anyhow::Result<usize> {
    let mut count = 0;
    for node in nodes {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
        count += connection.read(&path).await?["items"].as_array().map_or(0, Vec::len);
    }
    Ok(count)
}

/// Replicas that all Deployments have available, once these say so.
async fn available(connection: &mut Connection) -> anyhow::Result<usize> {
    let begun = Instant::now();
    loop {
        let list = connection.read("/apis/apps/v1/deployments").await?;
        let sum = |field: &str| {
            let items = list["items"].as_array().into_iter().flatten();
            items.filter_map(|d| d["status"][field].as_u64()).sum::<u64>() as usize
        };
        if sum("availableReplicas") == sum("replicas") || begun.elapsed() > 6 * SETTLE {
            return Ok(sum("availableReplicas"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// CPU of a server and renewals of Leases over some time.
struct Usage {
    since: Instant,
    cpu: Duration,
    leases: usize,
}

impl Usage {
    fn begin(cluster: &Cluster, fleet: &Fleet) -> Self {
        Self { since: Instant::now(), cpu: crowd::cpu(cluster), leases: fleet.leases() }
    }

    fn end(self, cluster: &Cluster, fleet: &Fleet) -> String {
        let seconds = self.since.elapsed().as_secs_f64();
        let used = (crowd::cpu(cluster) - self.cpu).as_secs_f64() / seconds * 100.0;
        let leases = (fleet.leases() - self.leases) as f64 / seconds;
        format!("{used:.0} % of a core for {leases:.0} renewals of Leases a second")
    }
}

/// Bytes, of all of its processes.
fn memory(cluster: &Cluster) -> anyhow::Result<u64> {
    Ok(crowd::memory(cluster)?.iter().map(|(_, bytes)| bytes).sum())
}
