//! Thousands of Wasm HTTP Pods on this node.

use std::time::Duration;

use serde_json::json;

use super::{crowd, pod};
use crate::Bench;
use crate::cluster::Cluster;
use crate::report::{Measured, ms, quantile};

/// Pods that the large crowd's requests are compared with.
const FEW: usize = 100;
/// Requests of either side.
const REQUESTS: usize = 20_000;
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_secs(10);

/// What a run found, for whoever judges it.
pub(super) struct Density {
    pub(super) rate: f64,
    pub(super) per_pod: f64,
    pub(super) p99_few: Duration,
    pub(super) p99_all: Duration,
    pub(super) notes: String,
}

/// A Pod of the example component that belongs to a crowd.
pub(super) fn manifest(name: &str) -> String {
    let crowd = name.rsplit_once('-').map_or(name, |(crowd, _)| crowd);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"crowd": crowd}},
        "spec": {"containers": [{
            "name": "hello", "image": "bench:v1",
            "ports": [{"containerPort": 8080, "name": "http"}],
        }]},
    });
    pod.to_string()
}

pub(super) async fn run(bench: &Bench, count: usize) -> anyhow::Result<Density> {
    let limit = (count + 1000).to_string();
    let cluster = Cluster::start(bench, &["up", "--max-pods", &limit]).await?;
    let _ = pod::prepare(&cluster).await?;
    // The first makes the image's code and everybody's pools; no Pod of the crowd pays for that.
    let few = crowd::gather(&cluster, "few", FEW, manifest).await?;
    crowd::ask(&few.addresses, REQUESTS).await?;
    let mut times = crowd::ask(&few.addresses, REQUESTS).await?;
    let p99_few = quantile(&mut times, 0.99);
    tokio::time::sleep(SETTLE).await;
    let before = crowd::memory(&cluster)?;

    let crowd = crowd::gather(&cluster, "crowd", count, manifest).await?;
    let rate = count as f64 / crowd.took.as_secs_f64();
    // Memory of Pods that answered, not of Pods that were never asked.
    crowd::ask_all(&crowd.addresses).await?;
    tokio::time::sleep(SETTLE).await;
    let after = crowd::memory(&cluster)?;
    let idle = crowd::cpu(&cluster);
    tokio::time::sleep(SETTLE).await;
    let idle = (crowd::cpu(&cluster) - idle).as_secs_f64() / SETTLE.as_secs_f64();
    let mut times = crowd::ask(&crowd.addresses, REQUESTS.max(count)).await?;
    let [p50, p99_all] = [0.5, 0.99].map(|part| quantile(&mut times, part));
    let (parts, growth) = crowd::growth(&before, &after);
    Ok(Density {
        rate,
        per_pod: growth as f64 / count as f64,
        p99_few,
        p99_all,
        notes: format!(
            "{count} Pods created over 8 connections in {:.1} s until the last is Ready, then each answers; memory is the \
             growth of the proportional set sizes ({parts}) from {FEW} Pods on, per Pod. A request with a connection of its \
             own to the next Pod each time, 16 at once: p50 {}, p99 {}; with {FEW} Pods p99 {}. Idle, all processes use \
             {:.1} % of a core.",
            crowd.took.as_secs_f64(),
            ms(p50),
            ms(p99_all),
            ms(p99_few),
            idle * 100.0,
        ),
    })
}

pub(super) async fn ten_thousand(bench: &Bench) -> anyhow::Result<Measured> {
    let found = run(bench, 10_000).await?;
    Ok(Measured {
        value: format!("{:.0} Pods/s, {:.1} kB", found.rate, found.per_pod / 1e3),
        met: found.rate >= 500.0 && found.per_pod <= 50e3,
        notes: found.notes,
    })
}

pub(super) async fn fifty_thousand(bench: &Bench) -> anyhow::Result<Measured> {
    let found = run(bench, 50_000).await?;
    let ratio = found.p99_all.as_secs_f64() / found.p99_few.as_secs_f64();
    Ok(Measured {
        value: format!("all answer, {ratio:.1} ×"),
        met: ratio <= 2.0,
        notes: format!(
            "{:.0} Pods/s, {:.1} kB a Pod. {}",
            found.rate,
            found.per_pod / 1e3,
            found.notes
        ),
    })
}
