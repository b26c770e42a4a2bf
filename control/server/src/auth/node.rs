//! The Node authorizer: a node touches its own Node, Lease and Pods, and reads what its Pods refer to
//! (Kubernetes, "Using Node Authorization"), and what those Pods come from.

use coracle_api::{Cluster, Object, kinds, metrics, tunnel};

use super::{Attributes, Identity, NODES};

/// Where a node that returns asks whether this is its cluster.
const JOIN: &str = "/coracle/v1/join";

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
    if wanted.resource.is_empty() {
        let own = match wanted.verb.as_str() {
            // Images are pulled from the built-in registry.
            "get" | "head" => {
                wanted.path.starts_with("/v2/")
                    || matches!(wanted.path.as_str(), "/v2" | JOIN | tunnel::PATH)
            }
            "post" => wanted.path == metrics::PATH,
            _ => false,
        };
        // Discovery and versions are as they are for everybody.
        return if own { Decision::Allow } else { Decision::NoOpinion };
    }
    let whole = wanted.subresource.is_empty();
    let reads = matches!(wanted.verb.as_str(), "get" | "list" | "watch");
    let allowed = match (wanted.group.as_str(), wanted.resource.as_str()) {
        // Its kubelet API, `nodes/proxy`, is everybody's but nodes': the server calls there as an administrator.
        ("", "nodes") => match (wanted.verb.as_str(), wanted.subresource.as_str()) {
            ("get" | "list" | "watch", "") | ("get", "status") => true,
            // What a new object is called, its path does not say: see `registry::admission::node_restriction`.
            ("create", "") => true,
            ("update" | "patch", "" | "status") => wanted.name == node,
            _ => false,
        },
        ("coordination.k8s.io", "leases") => {
            wanted.namespace == "kube-node-lease"
                && whole
                && matches!(wanted.verb.as_str(), "get" | "create" | "update" | "patch")
                && (wanted.name.is_empty() || wanted.name == node)
        }
        ("", "pods") => match (wanted.verb.as_str(), wanted.subresource.as_str()) {
            ("get", "" | "status") => is_on(cluster, node, wanted),
            // Only those bound to it: the gate insists on the field selector.
            ("list" | "watch", "") => true,
            ("patch" | "update", "status") | ("delete", "") | ("create", "eviction") => {
                is_on(cluster, node, wanted)
            }
            _ => false,
        },
        // Their annotations are defaults of their Pods.
        ("", "namespaces") => reads && whole,
        ("", "services" | "endpoints")
        | ("discovery.k8s.io", "endpointslices")
        | ("networking.k8s.io", "ingresses" | "ingressclasses")
        | ("node.k8s.io", "runtimeclasses") => reads && whole,
        ("" | "events.k8s.io", "events") => {
            whole && matches!(wanted.verb.as_str(), "create" | "patch" | "update")
        }
        ("", "configmaps") => reads && refers(cluster, node, wanted, "configmaps"),
        // Every node serves every Ingress, with the certificates that those name.
        ("", "secrets") => {
            reads
                && (refers(cluster, node, wanted, "secrets")
                    || whole && cluster.is_certificate(&wanted.namespace, &wanted.name))
        }
        ("", "persistentvolumeclaims") => {
            wanted.verb == "get" && refers(cluster, node, wanted, "persistentvolumeclaims")
        }
        ("", "persistentvolumes") => wanted.verb == "get" && holds_claim(cluster, node, wanted),
        ("apps", "replicasets") => {
            wanted.verb == "get" && refers(cluster, node, wanted, "replicasets")
        }
        ("apps", "statefulsets") => {
            wanted.verb == "get" && refers(cluster, node, wanted, "statefulsets")
        }
        ("apps", "daemonsets") => {
            wanted.verb == "get" && refers(cluster, node, wanted, "daemonsets")
        }
        ("apps", "deployments") => wanted.verb == "get" && comes_from(cluster, node, wanted),
        ("", "serviceaccounts") => {
            wanted.verb == "create"
                && wanted.subresource == "token"
                && cluster.is_referred_to(node, "serviceaccounts", &wanted.namespace, &wanted.name)
        }
        ("authorization.k8s.io" | "authentication.k8s.io", _) => whole && wanted.verb == "create",
        // Which ones, `registry::admission::node_restriction` says; what is approved without anybody, the others of these subresources.
        ("certificates.k8s.io", "certificatesigningrequests") => matches!(
            (wanted.verb.as_str(), wanted.subresource.as_str()),
            ("create", "" | "selfnodeclient" | "selfnodeserver") | ("get" | "list" | "watch", "")
        ),
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

/// Some Pod of the node in that namespace refers to that name. Lists and watches of one object by name are about that
/// object.
fn refers(cluster: &Cluster, node: &str, wanted: &Attributes, resource: &'static str) -> bool {
    wanted.subresource.is_empty()
        && cluster.is_referred_to(node, resource, &wanted.namespace, &wanted.name)
}

/// The volume is for a claim that some Pod of the node refers to.
fn holds_claim(cluster: &Cluster, node: &str, wanted: &Attributes) -> bool {
    let volume = cluster.get(&kinds::PERSISTENT_VOLUME, "", &wanted.name);
    wanted.subresource.is_empty()
        && volume.is_some_and(|volume| {
            let volume = volume.value();
            let claim = &volume["spec"]["claimRef"];
            let of = |field: &str| claim[field].as_str().unwrap_or_default();
            cluster.is_referred_to(node, "persistentvolumeclaims", of("namespace"), of("name"))
        })
}

/// Some Pod of the node comes from the Deployment: what it declares is what replaces that Pod. (Upstream's nodes have no
/// use for this; ours make the next image ready before they stop a Pod.)
fn comes_from(cluster: &Cluster, node: &str, wanted: &Attributes) -> bool {
    let deployment = cluster.get(&kinds::DEPLOYMENT, &wanted.namespace, &wanted.name);
    let sets = deployment
        .into_iter()
        .flat_map(|deployment| cluster.owned_of_kind(&deployment.meta.uid, &kinds::REPLICA_SET));
    wanted.subresource.is_empty()
        && sets.into_iter().any(|set| {
            cluster.is_referred_to(node, "replicasets", &wanted.namespace, &set.meta.name)
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
