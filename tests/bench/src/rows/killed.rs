//! The host's process killed beneath ten thousand Pods.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{crowd, density, memory, pod};
use crate::Bench;
use crate::cluster::Cluster;
use crate::report::Measured;

const COUNT: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Who asks. More would take from the recovery what they measure.
const CLIENTS: usize = 64;
/// A client that finds nobody waits a moment before it asks again.
const AGAIN: Duration = Duration::from_millis(20);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up", "--max-pods", "11000"]).await?;
    let _ = pod::prepare(&cluster).await?;
    let crowd = crowd::gather(&cluster, "crowd", COUNT, density::manifest).await?;
    crowd::ask_all(&crowd.addresses).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let host = cluster.processes().into_iter().find(|pid| memory::command(*pid) == "host wasm");
    let host = host.context("the host's process is not found")?;

    let begun = Instant::now();
    kill(Pid::from_raw(host), Signal::SIGKILL)?;
    // Each client has its share of the Pods; one that does not answer has its turn again after the others.
    let answered = AtomicUsize::new(0);
    let half = OnceLock::new();
    let clients = crowd.addresses.chunks(COUNT.div_ceil(CLIENTS)).map(async |share| {
        let mut silent: VecDeque<_> = share.iter().copied().collect();
        while let Some(address) = silent.pop_front() {
            if !crowd::answers(address).await {
                silent.push_back(address);
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            if answered.fetch_add(1, Relaxed) + 1 == COUNT / 2 {
                let _ = half.set(begun.elapsed());
            }
        }
    });
    let all = tokio::time::timeout(PATIENCE, futures::future::join_all(clients)).await;
    if all.is_err() {
        let answered = answered.load(Relaxed);
        bail!("{answered} of {COUNT} Pods answered within {PATIENCE:?}");
    }
    let took = begun.elapsed();
    Ok(Measured {
        value: format!("{:.1} s", took.as_secs_f64()),
        met: took <= Duration::from_secs(3),
        notes: format!(
            "`kill -9` of the Wasm host under {COUNT} HTTP Pods until each has answered a request again; half of them had after \
             {:.1} s. {CLIENTS} clients ask one Pod after the other, and share the cores with the recovery.",
            half.get().unwrap_or(&took).as_secs_f64(),
        ),
    })
}
