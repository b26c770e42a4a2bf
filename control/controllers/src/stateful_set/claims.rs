//! The claims of a StatefulSet's Pods: what they are called, who makes them, and whom they go with
//! (`persistentVolumeClaimRetentionPolicy`).
//!
//! A claim outlives its Pod, for the next of that number. That it goes is said by an owner: the StatefulSet, for
//! `whenDeleted: Delete`; a Pod that is beyond the declared number, for `whenScaled: Delete`. Garbage collection does the rest.

use coracle_api::object::OwnerRef;
use coracle_api::{Cluster, Object, kinds};
use serde_json::{Value, json};

use super::{Pod, Run, Spec};
use crate::patch;

/// Names of a Pod's claims, with the volumes that they are for.
pub(super) fn names<'s>(spec: &'s Spec, pod: &str) -> impl Iterator<Item = (&'s str, String)> {
    let pod = pod.to_owned();
    spec.volume_claim_templates.iter().map(move |template| {
        let volume = template["metadata"]["name"].as_str().unwrap_or_default();
        (volume, format!("{volume}-{pod}"))
    })
}

impl Run<'_> {
    /// Names the claims that a Pod mounts, and plans those that are not there yet.
    pub(super) fn mount_claims(&mut self, pod: &mut Value, name: &str) {
        if self.spec.volume_claim_templates.is_empty() {
            return;
        }
        let namespace = self.set.meta.namespace.as_str();
        let spec = &mut pod["spec"];
        let mut volumes = match spec.get("volumes") {
            Some(Value::Array(volumes)) => volumes.clone(),
            _ => Vec::new(),
        };
        for (at, (volume, claim)) in names(self.spec, name).enumerate() {
            volumes.retain(|known| known["name"] != volume);
            volumes.push(json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}}));
            if self.cluster.get(&kinds::PERSISTENT_VOLUME_CLAIM, namespace, &claim).is_none() {
                let template = &self.spec.volume_claim_templates[at];
                self.claims.push((self.claim(template, &claim), name.to_owned()));
            }
        }
        spec["volumes"] = volumes.into();
    }

    fn claim(&self, template: &Value, name: &str) -> Value {
        let mut labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let own = self.spec.selector["matchLabels"].as_object().cloned().unwrap_or_default();
        labels.extend(own);
        let mut metadata = json!({
            "name": name, "namespace": self.set.meta.namespace, "labels": labels,
        });
        let annotations = &template["metadata"]["annotations"];
        if annotations.is_object() {
            metadata["annotations"] = annotations.clone();
        }
        if self.spec.persistent_volume_claim_retention_policy.when_deleted == "Delete" {
            metadata["ownerReferences"] = json!([self.set.owner_ref()]);
        }
        json!({
            "kind": "PersistentVolumeClaim",
            "apiVersion": "v1",
            "metadata": metadata,
            "spec": template["spec"],
        })
    }

    /// A claim that is still to go with a Pod that is gone: the next Pod of that name has to wait for another.
    pub(super) fn is_stale(&self, pod: &str) -> bool {
        let namespace = self.set.meta.namespace.as_str();
        names(self.spec, pod).any(|(_, claim)| {
            let claim = self.cluster.get(&kinds::PERSISTENT_VOLUME_CLAIM, namespace, &claim);
            claim.is_some_and(|claim| {
                let mut owners = claim.meta.owner_references.iter();
                claim.is_deleting()
                    || owners.any(|owner| owner.kind == kinds::POD.kind && owner.name == pod)
            })
        })
    }

    /// Brings the owners of its Pods' claims up to date. Before all deletions: who is deleted takes its claims along.
    pub(super) fn retain_claims(&mut self) {
        if self.spec.volume_claim_templates.is_empty() {
            return;
        }
        for at in 0..self.pods.len() {
            let pod = &self.pods[at];
            for (_, name) in names(self.spec, &pod.object.meta.name) {
                let namespace = self.set.meta.namespace.as_str();
                let kind = &kinds::PERSISTENT_VOLUME_CLAIM;
                if let Some(claim) = self.cluster.get(kind, namespace, &name)
                    && let Some(owners) = owners(self.cluster, self.set, self.spec, pod, claim)
                {
                    self.plan.patch(claim, patch::owners(&owners));
                }
            }
        }
    }
}

/// The owners that a claim is to have, if they are not those that it has.
fn owners(
    cluster: &Cluster,
    set: &Object,
    spec: &Spec,
    pod: &Pod<'_>,
    claim: &Object,
) -> Option<Vec<OwnerRef>> {
    let known = &claim.meta.owner_references;
    let is_ours = |owner: &OwnerRef| owner.uid == set.meta.uid || owner.uid == pod.object.meta.uid;
    // Pods that went before it own nothing any more.
    let is_past = |owner: &OwnerRef| {
        let namespace = claim.meta.namespace.as_str();
        let live = || cluster.get(&kinds::POD, namespace, &owner.name);
        owner.kind == kinds::POD.kind
            && owner.name == pod.object.meta.name
            && live().is_none_or(|live| live.meta.uid != owner.uid)
    };
    let mut owners: Vec<OwnerRef> =
        known.iter().filter(|owner| !is_ours(owner) && !is_past(owner)).cloned().collect();
    let retention = &spec.persistent_volume_claim_retention_policy;
    let goes_with = |when: &str| when == "Delete";
    // What somebody else controls is left to them.
    if !owners.iter().any(|owner| owner.controller == Some(true)) {
        let is_beyond = !spec.numbers().contains(&pod.number);
        if goes_with(&retention.when_scaled) && is_beyond {
            owners.push(pod.object.owner_ref());
        } else if goes_with(&retention.when_deleted) {
            owners.push(set.owner_ref());
        }
    }
    let uids = |owners: &[OwnerRef]| -> Vec<String> {
        let mut uids: Vec<String> = owners.iter().map(|owner| owner.uid.clone()).collect();
        uids.sort();
        uids
    };
    (uids(&owners) != uids(known)).then_some(owners)
}
