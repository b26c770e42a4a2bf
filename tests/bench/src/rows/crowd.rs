//! Many Pods on one node: made through the API, followed by a watch until they are Ready, then asked one by one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::load::Client;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Connections that create Pods.
const CREATORS: usize = 8;
/// Connections that ask Pods.
const ASKERS: usize = 16;
/// How long nothing may happen before it is given up.
const STALL: Duration = Duration::from_secs(60);

/// Pods that are Ready (or, for commands, run).
pub(super) struct Crowd {
    /// Where each is, in no order.
    pub(super) addresses: Vec<SocketAddr>,
    /// From the first create sent to the last Pod seen Ready.
    pub(super) took: Duration,
}

/// Creates `count` Pods `PREFIX-N` from `manifest(name)` and waits until all are Ready.
pub(super) async fn gather(
    cluster: &Cluster,
    prefix: &str,
    count: usize,
    manifest: fn(&str) -> String,
) -> anyhow::Result<Crowd> {
    let mut connection = cluster.connect().await?;
    let response = connection
        .send(Method::GET, &format!("{PODS}?watch=1&labelSelector=crowd%3D{prefix}"), Bytes::new())
        .await?;
    let begun = Instant::now();
    let watching = tokio::spawn(ready(response.into_body(), count));
    let next = Arc::new(AtomicUsize::new(0));
    let mut creators = Vec::new();
    for _ in 0..CREATORS {
        let (mut connection, next) = (cluster.connect().await?, next.clone());
        let prefix = prefix.to_owned();
        creators.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                connection.create(PODS, manifest(&format!("{prefix}-{number}"))).await?;
            }
        }));
    }
    for creator in creators {
        creator.await??;
    }
    let addresses = watching.await??;
    Ok(Crowd { addresses, took: begun.elapsed() })
}

/// What is read of a watch's line; the rest is skipped, since the reader shares the cores with what it measures.
#[derive(Deserialize)]
struct Line {
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(rename = "podIP")]
    ip: Option<IpAddr>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

async fn ready(mut body: Incoming, count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let mut found: HashMap<String, SocketAddr> = HashMap::with_capacity(count);
    let mut buffer = BytesMut::new();
    while found.len() < count {
        let frame = tokio::time::timeout(STALL, body.frame()).await;
        let frame = frame.with_context(|| {
            format!("of {count} Pods, {} are ready after {STALL:?} without news", found.len())
        })?;
        let frame = frame.context("the watch ended")??;
        buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let Line { object: pod } = serde_json::from_slice(&line)?;
            let conditions = &pod.status.conditions;
            if let Some(ip) = pod.status.ip
                && conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
            {
                found.insert(pod.metadata.name, SocketAddr::new(ip, 8080));
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Asks every Pod once, over a connection of its own each; how long each request took, connecting included. Any answer but
/// 200 is an error.
pub(super) async fn ask_all(addresses: &[SocketAddr]) -> anyhow::Result<Vec<Duration>> {
    ask(addresses, addresses.len()).await
}

/// Asks `requests` times, the next Pod each time.
pub(super) async fn ask(
    addresses: &[SocketAddr],
    requests: usize,
) -> anyhow::Result<Vec<Duration>> {
    let addresses: Arc<[SocketAddr]> = addresses.into();
    let next = Arc::new(AtomicUsize::new(0));
    let mut askers = Vec::new();
    for _ in 0..ASKERS {
        let (addresses, next) = (addresses.clone(), next.clone());
        askers.push(tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return anyhow::Ok(times);
                }
                let address = addresses[number % addresses.len()];
                let begun = Instant::now();
                let mut client = Client::connect(address, Duration::from_secs(5)).await?;
                let status = tokio::time::timeout(Duration::from_secs(10), client.get()).await??;
                if status != 200 {
                    bail!("{address} answered {status}");
                }
                times.push(begun.elapsed());
            }
        }));
    }
    let mut times = Vec::with_capacity(requests);
    for asker in askers {
        times.extend(asker.await??);
    }
    Ok(times)
}

/// Proportional set size of each process of a cluster, by its command, in bytes.
pub(super) fn memory(cluster: &Cluster) -> anyhow::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for pid in cluster.processes() {
        let Ok(rollup) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
            continue;
        };
        let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        found.push((super::memory::command(pid), kib << 10));
    }
    Ok(found)
}

/// CPU time that a cluster's processes have used.
pub(super) fn cpu(cluster: &Cluster) -> Duration {
    let ticks: u64 = cluster
        .processes()
        .into_iter()
        .map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            let times = fields.split_whitespace().skip(11).take(2);
            times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
        })
        .sum();
    // In hundredths of a second on every Linux that matters.
    Duration::from_millis(ticks * 10)
}

/// `up 123.4, host wasm 56.7` in MiB, and the growth of the sum in bytes.
pub(super) fn growth(before: &[(String, u64)], after: &[(String, u64)]) -> (String, u64) {
    let sum = |all: &[(String, u64)]| all.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let parts: Vec<String> = after
        .iter()
        .map(|(command, bytes)| {
            let was = before.iter().find(|(c, _)| c == command).map_or(0, |(_, bytes)| *bytes);
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            format!("`{command}` {:.0} → {:.0} MiB", mib(was), mib(*bytes))
        })
        .collect();
    (parts.join(", "), sum(after).saturating_sub(sum(before)))
}

/// Whether a Pod answers within a second.
pub(super) async fn answers(address: SocketAddr) -> bool {
    answers_within(address, Duration::from_secs(1)).await
}

/// Whether a Pod answers within that time.
pub(super) async fn answers_within(address: SocketAddr, most: Duration) -> bool {
    let work = async {
        let mut client = Client::connect(address, most).await?;
        client.get().await
    };
    matches!(tokio::time::timeout(most, work).await, Ok(Ok(200)))
}
