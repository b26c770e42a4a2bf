//! How soon a new cluster answers.

use crate::Bench;
use crate::cluster::Cluster;
use crate::report::{Measured, ms, quantile};

const STARTS: usize = 11;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let mut up = Vec::new();
    let mut server = Vec::new();
    for _ in 0..STARTS {
        up.push(Cluster::start(bench, &["up"]).await?.start);
        server.push(Cluster::start(bench, &["server"]).await?.start);
    }
    let median = quantile(&mut up, 0.5);
    Ok(Measured {
        value: ms(median),
        met: median.as_millis() <= 150,
        notes: format!(
            "median of {STARTS} starts of `coracle up`, each on an empty folder, so with a new CA and store (slowest {}); \
             `coracle server` alone {}.",
            ms(up[STARTS - 1]),
            ms(quantile(&mut server, 0.5)),
        ),
    })
}
