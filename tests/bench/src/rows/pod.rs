//! How soon a new Pod answers through its Service.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{crowd, density};
use crate::api::Connection;
use crate::cluster::Cluster;
use crate::load::Client;
use crate::report::{Measured, ms, quantile};
use crate::{Bench, root};

const PODS: usize = 250;
/// Pods that are there already, for the second row.
const MANY: usize = 10_000;
/// How long a Pod may take before the row fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn alone(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let mut connection = prepare(&cluster).await?;
    measure(&mut connection).await
}

pub(super) async fn among_many(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up", "--max-pods", "11000"]).await?;
    let mut connection = prepare(&cluster).await?;
    let crowd = crowd::gather(&cluster, "crowd", MANY, density::manifest).await?;
    crowd::ask_all(&crowd.addresses).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    measure(&mut connection).await
}

async fn measure(connection: &mut Connection) -> anyhow::Result<Measured> {
    // The first makes the image's code; it is no part of the measure.
    let first = one(connection, "warm").await?;
    let mut times = Vec::new();
    for number in 0..PODS {
        times.push(one(connection, &format!("p{number}")).await?);
    }
    let [p50, p99] = [0.5, 0.99].map(|part| quantile(&mut times, part));
    Ok(Measured {
        value: format!("p50 {}, p99 {}", ms(p50), ms(p99)),
        met: p50 <= Duration::from_millis(8) && p99 <= Duration::from_millis(30),
        notes: format!(
            "{PODS} Pods, each with a ClusterIP Service made before it; from sending the create until a client that \
             retries every half millisecond has the whole answer. p90 {}, slowest {}; the very first, with pull and \
             compilation, {}.",
            ms(quantile(&mut times, 0.9)),
            ms(times[PODS - 1]),
            ms(first),
        ),
    })
}

/// Pushes the example component as `bench:v1` and waits until Pods can be created.
pub(super) async fn prepare(cluster: &Cluster) -> anyhow::Result<Connection> {
    let component = root().join("examples/prebuilt/hello-v1.wasm");
    cluster.run(&[&"push", &component, &"bench:v1"])?;
    let mut connection = cluster.connect().await?;
    let begun = Instant::now();
    let wanted = ["/api/v1/namespaces/default/serviceaccounts/default", "/api/v1/nodes"];
    for path in wanted {
        loop {
            let (status, body) = connection.get(path).await?;
            let there = status.is_success()
                && (!path.ends_with("nodes") || ready_node(&serde_json::from_slice(&body)?));
            if there {
                break;
            }
            if begun.elapsed() > PATIENCE {
                bail!("the cluster has no ready node after {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(connection)
}

fn ready_node(list: &Value) -> bool {
    let items = list["items"].as_array().into_iter().flatten();
    let mut conditions = items.flat_map(|node| node["status"]["conditions"].as_array()).flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A Pod of the example component.
pub(super) fn pod(name: &str) -> String {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{
            "name": "hello", "image": "bench:v1",
            "ports": [{"containerPort": 8080, "name": "http"}],
        }]},
    });
    pod.to_string()
}

/// One Pod and its Service, from create to answer; both are gone afterwards.
async fn one(connection: &mut Connection, name: &str) -> anyhow::Result<Duration> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let path = "/api/v1/namespaces/default/services";
    let service: Value =
        serde_json::from_slice(&connection.create(path, service.to_string()).await?)?;
    let ip = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
    let address = SocketAddr::new(ip.parse::<IpAddr>()?, 80);
    // The node learns of the Service before the Pod.
    tokio::time::sleep(Duration::from_millis(50)).await;

    let pod = pod(name);
    let begun = Instant::now();
    connection.create("/api/v1/namespaces/default/pods", pod).await?;
    let time = loop {
        if let Ok(mut client) = Client::connect(address, Duration::from_millis(5)).await
            && let Ok(Ok(200)) = tokio::time::timeout(Duration::from_secs(5), client.get()).await
        {
            break begun.elapsed();
        }
        if begun.elapsed() > PATIENCE {
            let path = format!("/api/v1/namespaces/default/pods/{name}");
            let status = connection.read(&path).await?["status"].to_string();
            bail!("Pod {name} does not answer at {address} after {PATIENCE:?}: {status}");
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    };
    connection.delete(&format!("/api/v1/namespaces/default/pods/{name}")).await?;
    connection.delete(&format!("{path}/{name}")).await?;
    Ok(time)
}
