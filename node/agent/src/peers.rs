//! The cluster's other machines: a watch on Nodes, handed to the network, which leads to their Pods.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use coracle_network::{Network, Peer};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::watcher;

use crate::balancers::Standing;

/// How long changes are collected: when a cluster starts, machines come in crowds.
const COLLECT: Duration = Duration::from_millis(50);
/// How soon what the kernel refused is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often everything is looked at that may have been changed by others.
const LOOK: Duration = Duration::from_secs(60);

/// Follows the Nodes for ever. `own` is this node's name and address; `tell` is told of all of them when something changed.
pub async fn follow(
    client: kube::Client,
    network: Network,
    own: (String, Ipv4Addr),
    tell: impl Fn(&BTreeMap<String, Standing>),
) {
    let (name, address) = own;
    let mut events = watcher(Api::<Node>::all(client), watcher::Config::default()).boxed();
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    let mut listed: BTreeMap<String, Peer> = BTreeMap::new();
    let (mut standings, mut standings_listed) = (BTreeMap::new(), BTreeMap::new());
    let mut due = None;
    let mut next_look = tokio::time::Instant::now() + LOOK;
    loop {
        let at = due.unwrap_or(next_look);
        let event = tokio::select! {
            Some(event) = events.next() => event,
            () = tokio::time::sleep_until(at) => {
                next_look = tokio::time::Instant::now() + LOOK;
                let done = network.set_peers(address, peers.values().copied().collect()).await;
                due = done.is_err().then(|| tokio::time::Instant::now() + AGAIN);
                if let Err(error) = done {
                    tracing::warn!(%error, "not all machines' Pods can be reached; trying again");
                }
                continue;
            }
        };
        let is_new = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                standings_listed.clear();
                false
            }
            Ok(watcher::Event::InitApply(node)) => {
                standings_listed.insert(name_of(&node), Standing::of(&node));
                listed.extend(peer(&node).filter(|(peer, _)| *peer != name));
                false
            }
            Ok(watcher::Event::InitDone) => {
                peers = std::mem::take(&mut listed);
                standings = std::mem::take(&mut standings_listed);
                tell(&standings);
                // Also when there is none: what an earlier agent left leads nowhere.
                due.get_or_insert_with(tokio::time::Instant::now);
                false
            }
            Ok(watcher::Event::Apply(node)) => {
                let standing = Standing::of(&node);
                if standings.get(&name_of(&node)) != Some(&standing) {
                    standings.insert(name_of(&node), standing);
                    tell(&standings);
                }
                match peer(&node) {
                    Some((other, peer)) if other != name => peers.insert(other, peer) != Some(peer),
                    _ => false,
                }
            }
            Ok(watcher::Event::Delete(node)) => {
                standings.remove(&name_of(&node));
                tell(&standings);
                peers.remove(node.metadata.name.as_deref().unwrap_or_default()).is_some()
            }
            // The watcher backs off and tries again by itself when polled; until then everything stays as it is.
            Err(error) => {
                tracing::debug!(%error, "watch of Nodes interrupted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                false
            }
        };
        if is_new {
            due.get_or_insert_with(|| tokio::time::Instant::now() + COLLECT);
        }
    }
}

fn name_of(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

/// A node's name, the range of its Pods and its address, if it has told both.
fn peer(node: &Node) -> Option<(String, Peer)> {
    let pods = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().find(|address| address.type_ == "InternalIP")?;
    let address = internal.address.parse().ok()?;
    Some((node.metadata.name.clone()?, Peer { pods, address }))
}
