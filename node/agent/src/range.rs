//! The node's Pod range: asked for once, of the control plane, and kept.
//!
//! A machine makes its Node as soon as it has an identity, since the range (`spec.podCIDR`) is given to that; everything that
//! needs addresses starts afterwards. An agent that returns has its range on disk, whether or not a server answers.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};

use crate::identity::write;
use crate::join::{JoinError, NetworkFacts};
use crate::node::Machine;

/// File in which the range is kept.
const FILE: &str = "pod-range";
/// How long the control plane may take to give one.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the server's word is waited for on a range that is known.
const ANSWER: Duration = Duration::from_secs(3);

/// Why a node has no Pod range.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// The server refused the Node, or could not be asked.
    #[error("cannot register node {name}: {source}")]
    Register {
        /// The node.
        name: String,
        /// As the server said.
        source: kube::Error,
    },
    /// None was given.
    #[error(
        "the server gave node {name} no Pod range within 30 s: the cluster's range {cluster} may have no room for {pods} more Pods. Give the node fewer with --max-pods, delete nodes that are gone, or start a cluster with a larger --pod-range"
    )]
    None {
        /// The node.
        name: String,
        /// The cluster's range.
        cluster: String,
        /// Most Pods that the node takes.
        pods: u32,
    },
    /// It could not be kept.
    #[error(transparent)]
    Keep(#[from] JoinError),
}

/// The range of the node, as kept in `dir` or as the control plane gives it.
///
/// # Errors
/// See [`RangeError`].
pub async fn of_node(
    client: &kube::Client,
    machine: &Machine,
    facts: &NetworkFacts,
    dir: &Path,
) -> Result<String, RangeError> {
    let path = dir.join(FILE);
    let name = &machine.name;
    let nodes: Api<Node> = Api::all(client.clone());
    if let Ok(kept) = std::fs::read_to_string(&path) {
        let kept = kept.trim().to_owned();
        let asked = tokio::time::timeout(ANSWER, still_has(&nodes, machine, &kept)).await;
        match asked {
            Ok(Ok(false)) => tracing::warn!(
                range = kept,
                "this node was deleted, and its Pod range is another's by now: asking for a new one"
            ),
            // Without a server it is the range all the same.
            _ => return Ok(kept),
        }
    }
    let failed = |source| RangeError::Register { name: name.clone(), source };
    let node = match nodes.create(&PostParams::default(), &machine.node()).await {
        Ok(node) => node,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            nodes.get(name).await.map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let none = || RangeError::None {
        name: name.clone(),
        cluster: facts.pod_range.clone(),
        pods: machine.max_pods,
    };
    let given = match range(&node) {
        Some(range) => range,
        None => tokio::time::timeout(PATIENCE, given(&nodes, name))
            .await
            .map_err(|_| none())?
            .map_err(failed)?,
    };
    write(&path, &format!("{given}\n"))?;
    Ok(given)
}

/// Whether a node has the range that it had. One whose Node was deleted makes it again with that, unless it was given away.
async fn still_has(nodes: &Api<Node>, machine: &Machine, kept: &str) -> Result<bool, kube::Error> {
    if let Some(node) = nodes.get_opt(&machine.name).await? {
        return Ok(range(&node).is_none_or(|range| range == kept));
    }
    let machine = Machine { pod_range: kept.to_owned(), ..machine.clone() };
    match nodes.create(&PostParams::default(), &machine.node()).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        made => made.map(|_| true),
    }
}

fn range(node: &Node) -> Option<String> {
    node.spec.as_ref()?.pod_cidr.clone().filter(|range| !range.is_empty())
}

/// Waits until the Node has a range.
async fn given(nodes: &Api<Node>, name: &str) -> Result<String, kube::Error> {
    use futures::TryStreamExt;
    let field = format!("metadata.name={name}");
    loop {
        let list = nodes.list(&ListParams::default().fields(&field)).await?;
        if let Some(range) = list.items.iter().find_map(range) {
            return Ok(range);
        }
        let version = list.metadata.resource_version.unwrap_or_default();
        let mut events =
            Box::pin(nodes.watch(&WatchParams::default().fields(&field), &version).await?);
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Added(node) | WatchEvent::Modified(node) = event
                && let Some(range) = range(&node)
            {
                return Ok(range);
            }
        }
    }
}
