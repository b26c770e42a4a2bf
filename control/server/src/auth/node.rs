//! The Node authorizer: a node touches its own Node, Lease and Pods, and reads what its Pods refer to
//! (Kubernetes, "Using Node Authorization").

use coracle_api::{Cluster, Object, kinds};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{Attributes, Identity, NODES};

/// The authorizer's word.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow,
    /// It is a node, and may not.
    Deny(String),
    /// It is no node.
    NoOpinion,
}

/// Decides on a node's request.
pub fn authorize(cluster: &Cluster, identity: &Identity, wanted: &Attributes) -> Decision {
    let Some(node) = identity.user.strip_prefix("system:node:") else { return Decision::NoOpinion };
    if !identity.groups.iter().any(|g| g == NODES) {
        return Decision::NoOpinion;
    }
    let reads = matches!(wanted.verb.as_str(), "get" | "list" | "watch");
    let allowed = match (wanted.group.as_str(), wanted.resource.as_str()) {
        // Images are pulled from the built-in registry; discovery and versions are no secret.
        ("", "") => {
            wanted.verb == "get" || (wanted.verb == "head" && wanted.path.starts_with("/v2/"))
        }
        ("", "nodes") => match wanted.verb.as_str() {
            "get" | "list" | "watch" => true,
            "create" => wanted.name.is_empty() || wanted.name == node,
            "update" | "patch" => wanted.name == node,
            _ => false,
        },
        ("coordination.k8s.io", "leases") => {
            wanted.namespace == "kube-node-lease"
                && matches!(wanted.verb.as_str(), "get" | "create" | "update" | "patch")
                && (wanted.name.is_empty() || wanted.name == node)
        }
        ("", "pods") => match (wanted.verb.as_str(), wanted.subresource.as_str()) {
            ("get", "") => is_on(cluster, node, wanted),
            // Only those bound to it: the gate insists on the field selector.
            ("list" | "watch", "") => true,
            ("patch" | "update", "status") | ("delete", "") => is_on(cluster, node, wanted),
            _ => false,
        },
        // Their annotations are defaults of their Pods.
        ("", "namespaces") => reads && wanted.subresource.is_empty(),
        ("", "services" | "endpoints")
        | ("discovery.k8s.io", "endpointslices")
        | ("node.k8s.io", "runtimeclasses") => reads,
        ("" | "events.k8s.io", "events") => {
            matches!(wanted.verb.as_str(), "create" | "patch" | "update")
        }
        // Lists and watches of one object by name are about that object.
        ("", "configmaps") => reads && refers(cluster, node, wanted, config_maps),
        ("", "secrets") => reads && refers(cluster, node, wanted, secrets),
        ("", "serviceaccounts") => {
            wanted.verb == "create"
                && wanted.subresource == "token"
                && refers(cluster, node, wanted, |s, name| {
                    s.service_account_name.as_deref() == Some(name)
                })
        }
        ("authorization.k8s.io", _) => wanted.verb == "create",
        _ => false,
    };
    match allowed {
        true => Decision::Allow,
        false => Decision::Deny(format!("node \"{node}\" has no relationship to this object")),
    }
}

/// The node of a caller that is one: lists and watches of Pods are only of those bound to it.
pub fn name(identity: &Identity) -> Option<&str> {
    identity
        .user
        .strip_prefix("system:node:")
        .filter(|_| identity.groups.iter().any(|g| g == NODES))
}

fn is_on(cluster: &Cluster, node: &str, wanted: &Attributes) -> bool {
    cluster
        .get(&kinds::POD, &wanted.namespace, &wanted.name)
        // One that is gone is answered with 404, not 403.
        .is_none_or(|pod| pod.node_name.as_deref() == Some(node))
}

/// Some Pod of the node in that namespace refers to that name.
fn refers(
    cluster: &Cluster,
    node: &str,
    wanted: &Attributes,
    by: impl Fn(&PodSpec, &str) -> bool,
) -> bool {
    if wanted.name.is_empty() {
        return false;
    }
    let quoted = format!("\"{}\"", wanted.name);
    let mut pods = cluster.pods_on(node).filter(|pod| pod.meta.namespace == wanted.namespace);
    pods.any(|pod| {
        // Most Pods do not even mention it; those that do are not kept in their typed form for one question.
        std::str::from_utf8(pod.json()).is_ok_and(|text| text.contains(&quoted))
            && serde_json::from_slice::<Pod>(pod.json())
                .is_ok_and(|pod| pod.spec.as_ref().is_some_and(|s| by(s, &wanted.name)))
    })
}

/// A node gets tokens only for Pods that it runs, and as the ServiceAccount that they run as (upstream's
/// NodeRestriction). `Ok` for callers that are no nodes.
pub fn may_have_token(
    identity: &Identity,
    account: &str,
    pod: Option<&Object>,
) -> Result<(), String> {
    let Some(node) = name(identity) else { return Ok(()) };
    let Some(pod) = pod else { return Err("node requested token not bound to a pod".to_owned()) };
    if pod.node_name.as_deref() != Some(node) {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let runs_as = pod.value()["spec"]["serviceAccountName"] == account;
    match runs_as {
        true => Ok(()),
        false => {
            Err("node requested token for a service account that the pod does not use".to_owned())
        }
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn config_maps(spec: &PodSpec, name: &str) -> bool {
    let in_env = containers(spec).any(|c| {
        c.env_from
            .iter()
            .flatten()
            .filter_map(|e| e.config_map_ref.as_ref())
            .any(|r| r.name == name)
            || c.env
                .iter()
                .flatten()
                .filter_map(|e| e.value_from.as_ref()?.config_map_key_ref.as_ref())
                .any(|r| r.name == name)
    });
    in_env
        || spec.volumes.iter().flatten().any(|v| {
            v.config_map.as_ref().is_some_and(|m| m.name == name)
                || v.projected
                    .iter()
                    .flat_map(|p| p.sources.iter().flatten())
                    .any(|s| s.config_map.as_ref().is_some_and(|m| m.name == name))
        })
}

fn secrets(spec: &PodSpec, name: &str) -> bool {
    let in_env = containers(spec).any(|c| {
        c.env_from.iter().flatten().filter_map(|e| e.secret_ref.as_ref()).any(|r| r.name == name)
            || c.env
                .iter()
                .flatten()
                .filter_map(|e| e.value_from.as_ref()?.secret_key_ref.as_ref())
                .any(|r| r.name == name)
    });
    in_env
        || spec.image_pull_secrets.iter().flatten().any(|r| r.name == name)
        || spec.volumes.iter().flatten().any(|v| {
            v.secret.as_ref().is_some_and(|s| s.secret_name.as_deref() == Some(name))
                || v.projected
                    .iter()
                    .flat_map(|p| p.sources.iter().flatten())
                    .any(|s| s.secret.as_ref().is_some_and(|m| m.name == name))
        })
}
