//! Namespace: empties a namespace that is being deleted, then lets it go.
//!
//! What other API servers hold there, somebody else deletes, who can ask them; what is left of it is in [`Cluster::extensions`].

use std::time::Duration;

use coracle_api::extensions::Leftover;
use coracle_api::kinds::{API_SERVICE, NAMESPACE, POD};
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Kind, Object, Plan};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{BURST, patch};

/// How soon it is seen what has become of what others hold.
const LOOK: Duration = Duration::from_secs(1);

/// The finalizer in `spec.finalizers` that stands for a namespace's content.
const FINALIZER: &str = "kubernetes";

/// Plans the end of Namespaces.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceController;

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == NAMESPACE.resource {
            return vec![Key::of(object)];
        }
        let namespace = &object.meta.namespace;
        let going = !namespace.is_empty()
            && cluster.get(&NAMESPACE, "", namespace).is_some_and(|n| n.is_deleting());
        if going { vec![Key::new("", namespace.as_str())] } else { Vec::new() }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(namespace) =
            cluster.get(&NAMESPACE, "", &key.name).filter(|namespace| namespace.is_deleting())
        else {
            return plan;
        };
        // What Pods may still use while they end, such as a NetworkPolicy, goes after them.
        let pods = cluster.list_in(&POD, &key.name).next().is_some();
        let mut content = Vec::new();
        for kind in cluster.kinds().filter(|kind| kind.namespaced) {
            let mut here = Content { kind, count: 0, finalizers: Vec::new() };
            for object in cluster.list_in(kind, &key.name) {
                here.count += 1;
                here.finalizers.extend(object.meta.finalizers.iter().cloned());
                let in_turn = kind.is_pod() || !pods;
                if in_turn && !object.is_deleting() && plan.writes.len() < BURST {
                    plan.delete(object, Propagation::Background);
                }
            }
            if here.count > 0 {
                content.push(here);
            }
        }

        let value = namespace.value();
        let finalizers = value["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
        let elsewhere = elsewhere(cluster, namespace);
        if elsewhere.as_ref().is_none_or(|left| !left.is_empty()) {
            plan.requeue(LOOK);
        }
        let left = elsewhere.clone().unwrap_or_default();
        if content.is_empty() && elsewhere.is_some_and(|left| left.is_empty()) {
            let others: Vec<_> = finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect();
            if others.len() != finalizers.len() || finalizers.is_empty() {
                plan.patch(namespace, json!({"spec": {"finalizers": others}}));
                if let Some(coracle_api::Write::Patch { subresource, .. }) = plan.writes.last_mut()
                {
                    *subresource = Some("finalize");
                }
                return plan;
            }
        }
        let known = &value["status"]["conditions"];
        let told = conditions(cluster.now, known, &content, &left);
        if *known != told {
            plan.patch_status(namespace, json!({"status": {"conditions": told}}));
        }
        plan
    }
}

/// What other API servers still hold; none if that is not known yet.
fn elsewhere(cluster: &Cluster, namespace: &Object) -> Option<Leftover> {
    let is_remote = |api: &Object| !api.value()["spec"]["service"].is_null();
    if !cluster.list(&API_SERVICE).any(|api| is_remote(api)) {
        return Some(Leftover::default());
    }
    cluster.extensions.of(&namespace.meta.uid).cloned()
}

/// What is left of one kind.
struct Content {
    kind: &'static Kind,
    count: usize,
    finalizers: Vec<String>,
}

/// The conditions that tell why a namespace is still there, in upstream's words.
fn conditions(now: Timestamp, known: &Value, content: &[Content], left: &Leftover) -> Value {
    let here = content.iter().map(|c| (resource(c.kind), c.count));
    let remaining: Vec<String> = here
        .chain(left.remaining.iter().cloned())
        .map(|(resource, count)| format!("{resource} has {count} resource instances"))
        .collect();
    let mut finalizers: Vec<&str> =
        content.iter().flat_map(|c| &c.finalizers).map(String::as_str).collect();
    finalizers.sort_unstable();
    let held: Vec<String> = finalizers
        .chunk_by(|a, b| a == b)
        .map(|same| (same[0].to_owned(), same.len()))
        .chain(left.finalizers.iter().cloned())
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let unknown: Vec<String> =
        left.unknown.iter().map(|(version, why)| format!("{version}: {why}")).collect();
    let told = [
        if unknown.is_empty() {
            let message = "All resources successfully discovered".to_owned();
            ("NamespaceDeletionDiscoveryFailure", false, "ResourcesDiscovered", message)
        } else {
            let message = format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                unknown.len(),
                unknown.join(", ")
            );
            ("NamespaceDeletionDiscoveryFailure", true, "DiscoveryFailed", message)
        },
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        if left.failed.is_empty() {
            let message = "All content successfully deleted, may be waiting on finalization";
            ("NamespaceDeletionContentFailure", false, "ContentDeleted", message.to_owned())
        } else {
            let message = format!(
                "Failed to delete all resource types, {} remaining: {}",
                left.failed.len(),
                left.failed.join(", ")
            );
            ("NamespaceDeletionContentFailure", true, "ContentDeletionFailed", message)
        },
        if remaining.is_empty() {
            let message = "All content successfully removed".to_owned();
            ("NamespaceContentRemaining", false, "ContentRemoved", message)
        } else {
            let message = format!("Some resources are remaining: {}", remaining.join(", "));
            ("NamespaceContentRemaining", true, "SomeResourcesRemain", message)
        },
        if held.is_empty() {
            let message = "All content-preserving finalizers finished".to_owned();
            ("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", message)
        } else {
            let message = format!(
                "Some content in the namespace has finalizers remaining: {}",
                held.join(", ")
            );
            ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
        },
    ];
    told.into_iter()
        .map(|(kind, status, reason, message)| {
            let status = if status { "True" } else { "False" };
            let known = known.as_array().into_iter().flatten().find(|c| c["type"] == kind);
            let since = known
                .filter(|c| c["status"] == status)
                .map_or_else(|| patch::time(now).into(), |c| c["lastTransitionTime"].clone());
            json!({
                "type": kind,
                "status": status,
                "lastTransitionTime": since,
                "reason": reason,
                "message": message,
            })
        })
        .collect()
}

/// `pods.` and `deployments.apps`, as upstream prints group resources.
fn resource(kind: &Kind) -> String {
    format!("{}.{}", kind.plural, kind.group)
}
