//! How soon a server answers that finds many objects in its store.

use anyhow::ensure;

use crate::Bench;
use crate::cluster::Cluster;
use crate::report::{Measured, ms, quantile};

const OBJECTS: usize = 100_000;
const STARTS: usize = 5;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let mut cluster = Cluster::start_among(bench, OBJECTS, &["server"]).await?;
    let found = objects(&cluster).await?;
    ensure!(found >= OBJECTS, "only {found} objects are there");
    let mut times = Vec::new();
    for _ in 0..STARTS {
        cluster = cluster.restart(&["server"]).await?;
        times.push(cluster.start);
    }
    let median = quantile(&mut times, 0.5);
    Ok(Measured {
        value: ms(median),
        met: median.as_millis() <= 1500,
        notes: format!(
            "median of {STARTS} starts of `coracle server`, each ended before by Ctrl-C ({} to {}), over {found} objects: ConfigMaps, \
             Secrets, Pods, Deployments, ReplicaSets, Services, EndpointSlices, Events, Leases, custom objects.",
            ms(times[0]),
            ms(times[STARTS - 1]),
        ),
    })
}

/// How many there are.
async fn objects(cluster: &Cluster) -> anyhow::Result<usize> {
    let mut connection = cluster.connect().await?;
    let mut sum = 0;
    for path in [
        "/api/v1/configmaps",
        "/api/v1/secrets",
        "/api/v1/pods",
        "/api/v1/services",
        "/api/v1/events",
        "/apis/apps/v1/deployments",
        "/apis/apps/v1/replicasets",
        "/apis/discovery.k8s.io/v1/endpointslices",
        "/apis/coordination.k8s.io/v1/leases",
        "/apis/filled.example.com/v1/fillings",
    ] {
        let page = connection.read(&format!("{path}?limit=1")).await?;
        let more = page["metadata"]["remainingItemCount"].as_u64().unwrap_or_default();
        sum += page["items"].as_array().map_or(0, Vec::len) + more as usize;
    }
    Ok(sum)
}
