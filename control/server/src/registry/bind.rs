//! Binding a Pod to a node: the one write of `spec.nodeName`.

use std::sync::Arc;

use coracle_api::{ApiError, Object, kinds};
use coracle_store::{Batch, Expect};
use serde_json::{Value, json};

use super::commit::Refused;
use super::{ATTEMPTS, Operation, Registry, WriteOptions, meta};

impl Registry {
    /// Binds a Pod to a node, if it is not bound yet; with `seen`, only if it is still that Pod.
    pub(crate) async fn bind(
        &self,
        (namespace, name): (&str, &str),
        node: &str,
        seen: Option<&Arc<Object>>,
        options: WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        let kind = &kinds::POD;
        let request = options.request(Operation::Create, kind, (namespace, name)).of("binding");
        let mut binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"kind": "Node", "name": node},
        });
        self.admit_action(&request, &mut binding).await?;
        let node = binding["target"]["name"].as_str().unwrap_or_default();
        if seen.is_none() {
            self.catch_up().await?;
        }
        for attempt in 0..ATTEMPTS {
            let known = match seen {
                // What the caller has seen is most likely how it is.
                Some(seen) if attempt == 0 => Some(seen.clone()),
                _ => self.cache.get(kind, namespace, name),
            };
            let old = known
                .filter(|old| seen.is_none_or(|seen| seen.meta.uid == old.meta.uid))
                .ok_or_else(|| ApiError::not_found(kind, name))?;
            let refuse = |why: String| ApiError::conflict(&BINDING, name, &why);
            if old.is_deleting() {
                return Err(refuse(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            if let Some(known) = &old.node_name {
                return Err(refuse(format!("pod {name} is already assigned to node \"{known}\"")));
            }
            let new = bound(old.value(), node);
            let map = meta::as_object(&new)?;
            if options.dry_run {
                return Self::dry(kind, map, old.meta.resource_version);
            }
            let expect = Expect::Revision(old.meta.resource_version);
            match self.put(kind, (namespace, name), map, expect, Batch::new()).await {
                Ok(object) => return Ok(object),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Conflict { .. }) => self.catch_up().await?,
            }
        }
        Err(ApiError::modified(kind, name))
    }
}

/// Upstream's error texts name the subresource here.
static BINDING: coracle_api::Kind = coracle_api::Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    resource: "pods/binding",
    ..coracle_api::Kind::BASE
};

fn bound(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeName"] = node.into();
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": meta::now(),
    });
    if pod["metadata"]["generation"].is_i64() {
        condition["observedGeneration"] = pod["metadata"]["generation"].clone();
    }
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|c| c["type"] != "PodScheduled");
    conditions.push(condition);
    pod["status"]["conditions"] = conditions.into();
    if let Some(status) = pod["status"].as_object_mut() {
        // Room was made for it, and it has it.
        status.remove("nominatedNodeName");
    }
    pod
}
