//! What a Pod serves, against other servers on the same machine in the same run, in alternating rounds.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use super::crowd::answers;
use super::pod;
use super::rival::Rival;
use crate::Bench;
use crate::cluster::Cluster;
use crate::load::rate;
use crate::report::{Measured, quantile};

pub(super) const CONNECTIONS: usize = 64;
/// Many short rounds: how fast the machine is changes within seconds, and is to meet all alike.
pub(super) const ROUNDS: usize = 41;
pub(super) const ROUND: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

/// A fresh instance for every request, against hyper alone and `wasmtime serve` as it comes.
pub(super) async fn fresh(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let ours = serve(&cluster, json!({})).await?;
    let bare = Rival::bare().await?;
    let wasmtime = Rival::wasmtime(bench, &[]).await?;
    let rates = alternate(&[ours, bare.address, wasmtime.address]).await?;
    let [to_bare, to_wasmtime] = [1, 2].map(|other| ratio(&rates, other));
    Ok(Measured {
        value: format!("{to_bare:.2}; {to_wasmtime:.1} ×"),
        met: to_bare >= 0.25 && to_wasmtime >= 4.0,
        notes: format!("{} {}", speeds(&rates, &["hyper alone", "`wasmtime serve`"]), how()),
    })
}

/// An instance that serves many requests, against `wasmtime serve` doing likewise.
pub(super) async fn reused(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let ours = serve(&cluster, json!({"coracle.dev/reuse-instances": "true"})).await?;
    let bare = Rival::bare().await?;
    let options = ["--max-instance-reuse-count", "1000000"];
    let wasmtime = Rival::wasmtime(bench, &options).await?;
    let rates = alternate(&[ours, bare.address, wasmtime.address]).await?;
    let [to_bare, to_wasmtime] = [1, 2].map(|other| ratio(&rates, other));
    Ok(Measured {
        value: format!("{to_wasmtime:.2} ×"),
        met: to_wasmtime >= 1.0,
        notes: format!(
            "{} To hyper: {to_bare:.2}. {}",
            speeds(&rates, &["hyper alone", "`wasmtime serve --max-instance-reuse-count 1000000`"]),
            how(),
        ),
    })
}

fn how() -> String {
    format!(
        "`GET /` of the Rust example over {CONNECTIONS} connections; medians of {ROUNDS} alternating rounds of {ROUND:?}, of \
         the rates and of the ratios in a round. The load generator shares the cores with each."
    )
}

/// A Pod of the example component with annotations: where it answers.
pub(super) async fn serve(cluster: &Cluster, annotations: Value) -> anyhow::Result<SocketAddr> {
    let mut connection = pod::prepare(cluster).await?;
    let mut pod: Value = serde_json::from_str(&pod::pod("requests"))?;
    pod["metadata"]["annotations"] = annotations;
    connection.create("/api/v1/namespaces/default/pods", pod.to_string()).await?;
    let begun = Instant::now();
    loop {
        let pod = connection.read("/api/v1/namespaces/default/pods/requests").await?;
        if let Some(ip) = pod["status"]["podIP"].as_str() {
            let address = SocketAddr::new(ip.parse::<IpAddr>()?, 8080);
            if answers(address).await {
                return Ok(address);
            }
        }
        if begun.elapsed() > PATIENCE {
            bail!("the Pod does not answer after {PATIENCE:?}: {}", pod["status"]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Requests a second of each, per round.
pub(super) async fn alternate(addresses: &[SocketAddr]) -> anyhow::Result<Vec<Vec<f64>>> {
    for address in addresses {
        rate(*address, CONNECTIONS, Duration::from_secs(1)).await?;
    }
    let mut rates = vec![Vec::new(); addresses.len()];
    for round in 0..ROUNDS {
        // Who is first in one round is last in the next.
        for turn in 0..addresses.len() {
            let turn = if round % 2 == 0 { turn } else { addresses.len() - 1 - turn };
            rates[turn].push(rate(addresses[turn], CONNECTIONS, ROUND).await?);
        }
    }
    Ok(rates)
}

/// Median of the ratios in a round.
pub(super) fn ratio(rates: &[Vec<f64>], other: usize) -> f64 {
    ratios(rates, other)[1]
}

/// Quartiles of the ratios in a round.
pub(super) fn ratios(rates: &[Vec<f64>], other: usize) -> [f64; 3] {
    let mut ratios: Vec<f64> = rates[0].iter().zip(&rates[other]).map(|(a, b)| a / b).collect();
    [0.25, 0.5, 0.75].map(|part| quantile(&mut ratios, part))
}

fn speeds(rates: &[Vec<f64>], others: &[&str]) -> String {
    let median = |rates: &[f64]| quantile(&mut rates.to_vec(), 0.5);
    let others: Vec<String> = others
        .iter()
        .zip(&rates[1..])
        .map(|(name, rates)| format!("{name} {:.0}", median(rates)))
        .collect();
    format!("The Pod: {:.0} requests/s; {}.", median(&rates[0]), others.join("; "))
}
