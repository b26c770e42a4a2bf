//! What nodes may write into what they may write (upstream's admission plugin NodeRestriction): the Node authorizer knows
//! paths only, and a path says neither what a new object is called nor what is in it.

use std::collections::BTreeMap;

use coracle_api::csr::{self, NODE_CLIENT, NODE_SERVING, NODE_USER, Request};
use coracle_api::json::Json;
use coracle_api::{ApiError, Cluster, Kind, kinds};
use coracle_controllers::owner_of_range;
use serde_json::Value;

use crate::auth::{Identity, node};

/// Labels of these domains decide on more than their Node: those that nodes may give themselves are listed.
const DOMAINS: [&str; 2] = ["kubernetes.io", "k8s.io"];
const OWN: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels by which administrators keep workloads apart.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// Checks a new object.
///
/// # Errors
/// 403 for what a node may not create.
pub(super) fn create(
    cluster: &Cluster,
    kind: &Kind,
    identity: &Identity,
    new: &Value,
) -> Result<(), ApiError> {
    let Some(node) = node::name(identity) else { return Ok(()) };
    let name = new.text(&["metadata", "name"]);
    let refuse = |why: String| Err(ApiError::forbidden(kind, name, &why));
    if kind.resource == kinds::NODE.resource {
        if name != node {
            return refuse(format!("node \"{node}\" is not allowed to modify node \"{name}\""));
        }
        let forbidden = forbidden_labels(new, &Value::Null);
        if !forbidden.is_empty() {
            return refuse(format!(
                "node \"{node}\" is not allowed to set the following labels: {}",
                forbidden.join(", ")
            ));
        }
        // A node that was deleted meanwhile comes with the range that it had (upstream's come with none): addresses of others'
        // Pods must not lead to it.
        let range = new.text(&["spec", "podCIDR"]);
        if let Some(other) = owner_of_range(cluster, range, node) {
            return refuse(format!(
                "node \"{node}\" is not allowed to have the Pod range {range}: it is of node \"{other}\""
            ));
        }
    } else if kind.resource == kinds::LEASE.resource && name != node {
        return refuse(
            "can only access node lease with the same name as the requesting node".into(),
        );
    } else if kind.resource == kinds::CERTIFICATE_SIGNING_REQUEST.resource {
        let signer = new.text(&["spec", "signerName"]);
        let other = |request: Request| request.common_name.strip_prefix(NODE_USER) != Some(node);
        if ![NODE_CLIENT, NODE_SERVING].contains(&signer) {
            return refuse(format!("node \"{node}\" can only ask for certificates of nodes"));
        }
        if csr::Request::of(new).is_ok_and(other) {
            return refuse(format!("node \"{node}\" can only ask for certificates of its own"));
        }
    }
    Ok(())
}

/// Checks a changed object.
///
/// # Errors
/// 403 for what a node may not change.
pub(super) fn change(
    cluster: &Cluster,
    kind: &Kind,
    identity: &Identity,
    subresource: &str,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    let Some(node) = node::name(identity) else { return Ok(()) };
    let name = old.text(&["metadata", "name"]);
    let refuse = |why: String| Err(ApiError::forbidden(kind, name, &why));
    if kind.is_pod() && subresource == "status" {
        let finalizers = |pod: &Value| pod.list(&["metadata", "finalizers"]).to_vec();
        let what = if labels(new) != labels(old) {
            "labels"
        } else if finalizers(new) != finalizers(old) {
            "finalizers"
        } else {
            return Ok(());
        };
        return refuse(format!("node \"{node}\" cannot update {what} through pod status"));
    }
    if kind.resource == kinds::NODE.resource {
        let forbidden = forbidden_labels(new, old);
        let range = new.text(&["spec", "podCIDR"]);
        if range != old.text(&["spec", "podCIDR"])
            && let Some(other) = owner_of_range(cluster, range, node)
        {
            return refuse(format!(
                "node \"{node}\" is not allowed to have the Pod range {range}: it is of node \"{other}\""
            ));
        }
        for (path, what) in [
            (["spec", "taints"], "taints"),
            (["spec", "configSource"], "configSource"),
            (["metadata", "ownerReferences"], "ownerReferences"),
        ] {
            if differ(new, old, &path) {
                return refuse(format!("node \"{node}\" is not allowed to modify {what}"));
            }
        }
        if !forbidden.is_empty() {
            return refuse(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
        }
    }
    Ok(())
}

/// Absent and empty are the same.
fn differ(new: &Value, old: &Value, path: &[&str]) -> bool {
    let value = |it: &Value| {
        let found = it.at(path).cloned().unwrap_or_default();
        let is_empty = found.as_array().is_some_and(Vec::is_empty)
            || found.as_object().is_some_and(serde_json::Map::is_empty);
        if is_empty { Value::Null } else { found }
    };
    value(new) != value(old)
}

type Labels<'a> = BTreeMap<&'a str, &'a str>;

fn labels(it: &Value) -> Labels<'_> {
    let pairs = it.pairs(&["metadata", "labels"]);
    pairs.map(|(key, value)| (key, value.as_str().unwrap_or_default())).collect()
}

/// Labels that differ and are not a node's to give.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let (new, old) = (labels(new), labels(old));
    let mut keys: Vec<&str> = new.keys().chain(old.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let changed = keys.into_iter().filter(|key| new.get(key) != old.get(key));
    changed.filter(|key| !is_own(key)).map(str::to_owned).collect()
}

fn is_own(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let within = |outer: &str| {
        domain == outer || domain.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.'))
    };
    if within(RESTRICTED) {
        return false;
    }
    !DOMAINS.into_iter().any(within) || OWN.contains(&label) || OWN_DOMAINS.into_iter().any(within)
}

#[cfg(test)]
mod tests;
