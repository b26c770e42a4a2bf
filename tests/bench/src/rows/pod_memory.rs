//! What an idle Pod costs the server's memory: it holds each as JSON, and beside that what it finds it by.

use std::time::Duration;

use super::{QUIET, create, crowd};
use crate::Bench;
use crate::cluster::Cluster;
use crate::report::Measured;

/// Pods that are there first: buffers and rings are filled by them.
const FIRST: usize = 5000;
const PODS: usize = 20_000;
const MOST: f64 = 6000.0;
/// How long it takes until memory that is free again is given back.
const SETTLE: Duration = Duration::from_secs(12);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, QUIET).await?;
    create::pods_in(&cluster, "default", "first", FIRST, &create::pod).await?;
    tokio::time::sleep(SETTLE).await;
    let before = crowd::memory(&cluster)?;
    create::pods(&cluster, PODS).await?;
    tokio::time::sleep(SETTLE).await;
    let (_, grown) = crowd::growth(&before, &crowd::memory(&cluster)?);
    let mut connection = cluster.connect().await?;
    let (_, json) = connection.get("/api/v1/namespaces/default/pods/pod-0").await?;
    let each = grown as f64 / PODS as f64;
    let beyond = each - json.len() as f64;
    Ok(Measured {
        value: format!("{:.1} kB", beyond / 1e3),
        met: beyond <= MOST,
        notes: format!(
            "growth of the server's proportional set size from {FIRST} to {} Pods as in `create`, nothing of which is scheduled: \
             {:.1} kB each, of which {:.1} kB are its JSON, `managedFields` among it.",
            FIRST + PODS,
            each / 1e3,
            json.len() as f64 / 1e3,
        ),
    })
}
