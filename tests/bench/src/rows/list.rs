//! How fast a large list is read.

use std::time::Instant;

use anyhow::bail;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyStream;
use hyper::Method;

use super::{QUIET, create};
use crate::Bench;
use crate::cluster::Cluster;
use crate::report::{Measured, ms, quantile};

const PODS: usize = 12_500;
const ROUNDS: usize = 15;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, QUIET).await?;
    create::pods(&cluster, PODS).await?;
    let mut connection = cluster.connect().await?;
    let (mut times, mut firsts, mut size) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let response = connection.send(Method::GET, "/api/v1/pods", Bytes::new()).await?;
        if !response.status().is_success() {
            bail!("the list answered {}", response.status());
        }
        firsts.push(begun.elapsed());
        size = 0;
        let mut frames = BodyStream::new(response.into_body());
        while let Some(frame) = frames.next().await {
            size += frame?.data_ref().map_or(0, Bytes::len);
        }
        times.push(begun.elapsed());
    }
    let first = times[0];
    let median = quantile(&mut times, 0.5);
    Ok(Measured {
        value: ms(median),
        met: median.as_millis() <= 100,
        notes: format!(
            "{:.1} MB over HTTPS to the last byte, decrypted but not parsed; median of {ROUNDS} on one connection (the \
             first {}, the slowest {}; response headers after {}).",
            size as f64 / 1e6,
            ms(first),
            ms(times[ROUNDS - 1]),
            ms(quantile(&mut firsts, 0.5)),
        ),
    })
}
