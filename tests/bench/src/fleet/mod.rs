//! Thousands of nodes in one process, against a real server over its real API.
//!
//! Each does what an agent does with the API (node/agent/src/node.rs, sync.rs and pod/worker/report.rs), as the identity that
//! an agent has: it registers, renews its Lease, watches its own Pods, reports them Running after a while, and ends those that
//! are deleted. It runs nothing. Unlike agents, which have a connection each, a hundred nodes share one, so that TLS costs this
//! process little; and of an agent's watches they have the one on Pods, for what depends on the rest (ways to other nodes,
//! Services) is not theirs.

mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::task::JoinHandle;

use crate::api::Api;
use node::FakeNode;

/// Nodes on one connection: fewer than requests that a server takes at a time on one.
const PER_CONNECTION: usize = 80;
/// Nodes that register at a time.
const REGISTERING: usize = 64;

/// What nodes are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) nodes: usize,
    /// Zones that they are in, in turn.
    pub(crate) zones: usize,
    /// How long a Pod takes from being seen to being Ready, and from being told to end to having ended.
    pub(crate) delay: Duration,
}

/// What all nodes have done so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    registered: AtomicUsize,
    /// Pods that their nodes have seen.
    seen: AtomicUsize,
    /// Pods that are Ready, as the server has acknowledged.
    ready: AtomicUsize,
    leases: AtomicUsize,
    /// Answers that were not what an agent hopes for, and watches that broke off.
    failures: AtomicUsize,
}

/// Nodes that live until this is dropped.
pub(crate) struct Fleet {
    nodes: Vec<JoinHandle<()>>,
    counts: Arc<Counts>,
}

impl Fleet {
    /// Starts nodes; returns when all are registered.
    pub(crate) async fn start(api: &Api, options: Options) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        let mut nodes = Vec::new();
        let mut connection = api.share().await?;
        let turns = Arc::new(tokio::sync::Semaphore::new(REGISTERING));
        for number in 0..options.nodes {
            if number > 0 && number % PER_CONNECTION == 0 {
                connection = api.share().await?;
            }
            let node = FakeNode::new(number, options, connection.clone(), counts.clone());
            nodes.push(tokio::spawn(node.live(turns.clone())));
        }
        let fleet = Self { nodes, counts };
        let all = |counts: &Counts| counts.registered.load(Ordering::Relaxed) == options.nodes;
        fleet.until("all nodes are registered", Duration::from_secs(300), all).await?;
        Ok(fleet)
    }

    /// The first so many nodes fall silent. What they had counts no more.
    pub(crate) fn lose(&mut self, count: usize) {
        self.nodes.drain(..count).for_each(|node| node.abort());
    }

    /// Pods that some node has seen so far.
    pub(crate) fn seen(&self) -> usize {
        self.counts.seen.load(Ordering::Relaxed)
    }

    /// Pods that were reported to be Ready so far.
    pub(crate) fn ready(&self) -> usize {
        self.counts.ready.load(Ordering::Relaxed)
    }

    /// Renewals of Leases so far.
    pub(crate) fn leases(&self) -> usize {
        self.counts.leases.load(Ordering::Relaxed)
    }

    /// Requests that did not succeed, and watches that broke off, so far.
    pub(crate) fn failures(&self) -> usize {
        self.counts.failures.load(Ordering::Relaxed)
    }

    /// Waits until so many Pods were seen by their nodes, or are Ready.
    pub(crate) async fn reach(
        &self,
        what: &str,
        patience: Duration,
        done: impl Fn(&Fleet) -> bool,
    ) -> anyhow::Result<()> {
        self.until(what, patience, |_| done(self)).await
    }

    async fn until(
        &self,
        what: &str,
        patience: Duration,
        done: impl Fn(&Counts) -> bool,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !done(&self.counts) {
            if begun.elapsed() > patience {
                bail!("not within {patience:?}: {what}; {:?}", self.counts);
            }
            if let Some(ended) = self.nodes.iter().position(JoinHandle::is_finished) {
                bail!("node {ended} has ended");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.nodes.iter().for_each(JoinHandle::abort);
    }
}
