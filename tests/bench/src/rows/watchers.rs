//! What many watchers cost, and how long they wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use http_body_util::BodyStream;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::{QUIET, create, crowd};
use crate::Bench;
use crate::cluster::Cluster;
use crate::report::{Measured, ms, quantile};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// Watches on one connection.
const PER_CONNECTION: usize = 80;
/// Those that are opened at a time.
const OPENING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(20);

const WATCHERS: usize = 1000;
const EVENTS: usize = 100;
/// From one event to the next: nobody is to wait for the one before.
const PAUSE: Duration = Duration::from_millis(100);

const NODES: usize = 5000;
const CREATES: usize = 4000;
const ROUNDS: usize = 3;

/// Watches that are open, and when each of them has seen how many events.
struct Watches {
    tasks: JoinSet<anyhow::Result<()>>,
    seen: mpsc::UnboundedReceiver<Instant>,
}

impl Watches {
    /// Opens one for each path and form.
    async fn open(
        cluster: &Cluster,
        all: impl Iterator<Item = (String, &'static str)>,
    ) -> anyhow::Result<Self> {
        let (sender, seen) = mpsc::unbounded_channel();
        let (mut tasks, turns) = (JoinSet::new(), Arc::new(Semaphore::new(OPENING)));
        let (opened, mut open) = mpsc::unbounded_channel();
        let mut connection = cluster.api.share().await?;
        let mut count = 0;
        for (path, accept) in all {
            if count > 0 && count % PER_CONNECTION == 0 {
                connection = cluster.api.share().await?;
            }
            count += 1;
            let (mut connection, sender) = (connection.clone(), sender.clone());
            let (turns, opened) = (turns.clone(), opened.clone());
            tasks.spawn(async move {
                let turn = turns.acquire_owned().await?;
                let response = connection.get(accept, &path).await?;
                if !response.status().is_success() {
                    bail!("{path}: {}", response.status());
                }
                drop(turn);
                let _ = opened.send(());
                follow(response.into_body(), accept == PROTOBUF, &sender).await
            });
        }
        for _ in 0..count {
            let one = tokio::time::timeout(PATIENCE, open.recv()).await;
            one.context("the watches were not opened in time")?;
        }
        Ok(Self { tasks, seen })
    }

    /// Waits for so many events; when each was seen.
    async fn until(&mut self, count: usize) -> anyhow::Result<Vec<Instant>> {
        let mut times = Vec::with_capacity(count);
        let all = async {
            while times.len() < count {
                tokio::select! {
                    Some(at) = self.seen.recv() => times.push(at),
                    Some(ended) = self.tasks.join_next() => {
                        ended??;
                        bail!("a watch ended");
                    }
                }
            }
            Ok(())
        };
        let all = tokio::time::timeout(PATIENCE, all).await;
        all.with_context(|| format!("{count} events were not seen in time"))??;
        Ok(times)
    }
}

/// Tells of every whole event of a watch, which is looked at no further: the reader shares the cores with what it measures.
async fn follow(
    body: Incoming,
    is_framed: bool,
    seen: &mpsc::UnboundedSender<Instant>,
) -> anyhow::Result<()> {
    let mut frames = BodyStream::new(body);
    // Of a frame: its length, as far as it has come, and what is still missing behind it.
    let (mut length, mut missing) = (Vec::new(), 0);
    while let Some(frame) = frames.next().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        let mut events = 0;
        if !is_framed {
            events = data.iter().filter(|byte| **byte == b'\n').count();
        }
        while is_framed && !data.is_empty() {
            if missing == 0 {
                let head = data.split_to(data.len().min(4 - length.len()));
                length.extend_from_slice(&head);
                if let Ok(bytes) = <[u8; 4]>::try_from(&length[..]) {
                    missing = u32::from_be_bytes(bytes) as usize;
                    length.clear();
                }
            } else {
                let part = data.split_to(data.len().min(missing));
                missing -= part.len();
                events += usize::from(missing == 0);
            }
        }
        let now = Instant::now();
        for _ in 0..events {
            let _ = seen.send(now);
        }
    }
    Ok(())
}

async fn revision(cluster: &Cluster) -> anyhow::Result<String> {
    let list = cluster.connect().await?.read("/api/v1/pods?limit=1").await?;
    let revision = list["metadata"]["resourceVersion"].as_str().context("a revision")?;
    Ok(revision.to_owned())
}

pub(super) async fn many(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, QUIET).await?;
    create::pods_in(&cluster, "default", "first", 1, &create::pod).await?;
    let path = format!("/api/v1/pods?watch=true&resourceVersion={}", revision(&cluster).await?);
    let all = (0..WATCHERS).map(|number| (path.clone(), [JSON, PROTOBUF][number % 2]));
    let mut watches = Watches::open(&cluster, all).await?;
    let mut connection = cluster.connect().await?;
    let (mut times, mut slowest) = (Vec::new(), Vec::new());
    for number in 0..EVENTS {
        let pod = create::pod(&format!("seen-{number}")).to_string();
        connection.create("/api/v1/namespaces/default/pods", pod).await?;
        // It is committed before it is answered for, and before anybody sees it.
        let answered = Instant::now();
        let seen = watches.until(WATCHERS).await?;
        let committed = seen.iter().copied().fold(answered, Instant::min);
        times.extend(seen.iter().map(|at| *at - committed));
        slowest.extend(seen.iter().map(|at| *at - committed).max());
        tokio::time::sleep(PAUSE).await;
    }
    let p99 = quantile(&mut times, 0.99);
    Ok(Measured {
        value: format!("p99 {}", ms(p99)),
        met: p99 <= Duration::from_millis(20),
        notes: format!(
            "{WATCHERS} watches over HTTPS, {PER_CONNECTION} on a connection, and {EVENTS} Pods created {} ms apart; from the answer to \
             the create, or the first watcher's event if that is earlier, to the event's last byte in the client: p50 {}, slowest {}; \
             the last of all watchers, median {}. The client shares the cores with the server.",
            PAUSE.as_millis(),
            ms(quantile(&mut times, 0.5)),
            ms(quantile(&mut times, 1.0)),
            ms(quantile(&mut slowest, 0.5)),
        ),
    })
}

pub(super) async fn of_nodes(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, QUIET).await?;
    let nodes = bench.nodes.unwrap_or(NODES);
    create::pods_in(&cluster, "default", "first", CREATES / 2, &create::pod).await?;
    let (mut alone, mut among, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let none = cost(&cluster, &format!("alone-{round}")).await?;
        let since = revision(&cluster).await?;
        let path = |node: usize| {
            format!(
                "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dsim-{node:04}&resourceVersion={since}"
            )
        };
        let watches = Watches::open(&cluster, (0..nodes).map(|node| (path(node), JSON))).await?;
        let some = cost(&cluster, &format!("among-{round}")).await?;
        drop(watches);
        tokio::time::sleep(Duration::from_secs(1)).await;
        alone.push(none);
        among.push(some);
        ratios.push(some / none);
    }
    let ratio = quantile(&mut ratios, 0.5);
    Ok(Measured {
        value: format!("{ratio:.2}"),
        met: ratio <= 1.1,
        notes: format!(
            "{CREATES} Pods of no node, as `create`, without and then with {nodes} watches of the Pods of one node each: {:.0} and {:.0} µs a \
             Pod; medians of {ROUNDS} rounds, of the ratios in a round ({:.2} to {:.2}).",
            quantile(&mut alone, 0.5),
            quantile(&mut among, 0.5),
            ratios[0],
            ratios[ROUNDS - 1],
        ),
    })
}

/// CPU time of the server for a created Pod, in µs.
async fn cost(cluster: &Cluster, prefix: &str) -> anyhow::Result<f64> {
    // What came before may still be in its last steps.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = crowd::cpu(cluster);
    create::pods_in(cluster, "default", prefix, CREATES, &create::pod).await?;
    Ok((crowd::cpu(cluster) - before).as_secs_f64() * 1e6 / CREATES as f64)
}
