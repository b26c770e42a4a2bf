//! The host's process killed beneath ten thousand Pods.

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
/// Clients wait a moment before they ask again.
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
    // Those that do not answer yet are asked again and again; who answered is not asked again.
    let mut silent = crowd.addresses.clone();
    let mut half = None;
    while !silent.is_empty() {
        let mut still = Vec::new();
        for part in silent.chunks(64) {
            let asked = futures::future::join_all(part.iter().map(|a| crowd::answers(*a))).await;
            still.extend(part.iter().zip(asked).filter(|(_, ok)| !ok).map(|(a, _)| *a));
        }
        silent = still;
        tokio::time::sleep(AGAIN).await;
        if half.is_none() && silent.len() * 2 <= COUNT {
            half = Some(begun.elapsed());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{} of {COUNT} Pods do not answer after {PATIENCE:?}", silent.len());
        }
    }
    let took = begun.elapsed();
    Ok(Measured {
        value: format!("{:.1} s", took.as_secs_f64()),
        met: took <= Duration::from_secs(3),
        notes: format!(
            "`kill -9` of the Wasm host under {COUNT} HTTP Pods until each has answered a request again; half of them after \
             {:.1} s. The asking shares the cores with the recovery.",
            half.unwrap_or(took).as_secs_f64(),
        ),
    })
}
