//! Namespace: empties a namespace that is being deleted, then lets it go.

use coracle_api::kinds::NAMESPACE;
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Kind, Object, Plan};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{BURST, patch};

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
        let mut content = Vec::new();
        for kind in cluster.kinds().filter(|kind| kind.namespaced) {
            let mut here = Content { kind, count: 0, finalizers: Vec::new() };
            for object in cluster.list_in(kind, &key.name) {
                here.count += 1;
                here.finalizers.extend(object.meta.finalizers.iter().cloned());
                if !object.is_deleting() && plan.writes.len() < BURST {
                    plan.delete(object, Propagation::Background);
                }
            }
            if here.count > 0 {
                content.push(here);
            }
        }

        let value = namespace.value();
        let finalizers = value["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
        if content.is_empty() {
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
        let told = conditions(cluster.now, known, &content);
        if *known != told {
            plan.patch_status(namespace, json!({"status": {"conditions": told}}));
        }
        plan
    }
}

/// What is left of one kind.
struct Content {
    kind: &'static Kind,
    count: usize,
    finalizers: Vec<String>,
}

/// The conditions that tell why a namespace is still there, in upstream's words.
fn conditions(now: Timestamp, known: &Value, content: &[Content]) -> Value {
    let remaining: Vec<String> = content
        .iter()
        .map(|c| format!("{} has {} resource instances", resource(c.kind), c.count))
        .collect();
    let mut finalizers: Vec<&str> =
        content.iter().flat_map(|c| &c.finalizers).map(String::as_str).collect();
    finalizers.sort_unstable();
    let held: Vec<String> = finalizers
        .chunk_by(|a, b| a == b)
        .map(|same| format!("{} in {} resource instances", same[0], same.len()))
        .collect();
    let told = [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
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
