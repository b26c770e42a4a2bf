//! PersistentVolumes and PersistentVolumeClaims: binds claims to volumes that are there, and keeps both for as long as they
//! are in use. Volumes are made by whoever provisions for a class; nobody does here.
//!
//! As upstream, a volume says which claim it is for (`spec.claimRef`) before a claim says which volume it has
//! (`spec.volumeName`): of two claims that want one volume, the write of the volume decides. Only then do both become `Bound`.
//! The claims' side is [`ClaimController`], the volumes' [`VolumeController`].

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::kinds::{
    CLAIM_PROTECTION, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS, VOLUME_PROTECTION,
};
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, LabelSelector, Object, Plan, Quantity, kinds};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::patch;

/// What a binding leaves behind: that it is complete, that it was made here, and who is to make a volume.
const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_HERE: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Who made a volume, and will thus do away with it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// A class without provisioner.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Plans which volume a claim gets.
#[derive(Debug, Clone, Copy)]
pub struct ClaimController;

/// Plans whether a volume is free, and what becomes of it once its claim is gone.
#[derive(Debug, Clone, Copy)]
pub struct VolumeController;

impl Controller for ClaimController {
    fn name(&self) -> &'static str {
        "persistentvolume"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let resource = object.kind.resource;
        if resource == PERSISTENT_VOLUME_CLAIM.resource {
            return vec![Key::of(object)];
        }
        if object.kind.is_pod() {
            if cluster.count(&PERSISTENT_VOLUME_CLAIM) == 0 {
                return Vec::new();
            }
            let key = |claim: String| Key::new(object.meta.namespace.as_str(), claim);
            return claims_of(object).into_iter().map(key).collect();
        }
        let all = cluster.list(&PERSISTENT_VOLUME_CLAIM);
        if resource == PERSISTENT_VOLUME.resource {
            let volume = object.value();
            let own = claim_of(&volume);
            let concerns = |claim: &Value| match claim["spec"]["volumeName"].as_str() {
                Some(name) => name == object.meta.name,
                None => own.is_none(),
            };
            let mut keys: BTreeSet<Key> =
                all.filter(|claim| concerns(&claim.value())).map(|claim| Key::of(claim)).collect();
            keys.extend(own.map(|(namespace, name)| Key::new(namespace, name)));
            return keys.into_iter().collect();
        }
        if resource == STORAGE_CLASS.resource {
            return all.filter(|claim| is_unbound(&claim.value())).map(|c| Key::of(c)).collect();
        }
        Vec::new()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(claim) = cluster.get(&PERSISTENT_VOLUME_CLAIM, &key.namespace, &key.name) else {
            return plan;
        };
        if claim.is_deleting() {
            let used = cluster
                .list_in(&kinds::POD, &key.namespace)
                .any(|pod| pod.node_name.is_some() && claims_of(pod).contains(&key.name));
            if !used {
                let_go(claim, CLAIM_PROTECTION, &mut plan);
            }
            return plan;
        }
        let value = claim.value();
        match value["spec"]["volumeName"].as_str().filter(|name| !name.is_empty()) {
            Some(name) => bound(cluster, claim, &value, name, &mut plan),
            None => unbound(cluster, claim, &value, &mut plan),
        }
        plan
    }
}

/// A claim that has no volume yet.
fn unbound(cluster: &Cluster, claim: &Object, value: &Value, plan: &mut Plan) {
    let reserved = cluster.list(&PERSISTENT_VOLUME).find(|volume| {
        claim_of(&volume.value()) == Some(place(claim)) && is_for(&volume.value(), claim)
    });
    let class = value["spec"]["storageClassName"].as_str().unwrap_or_default();
    let class_object = cluster.get(&STORAGE_CLASS, "", class).map(|class| class.value());
    let waits =
        class_object.as_ref().is_some_and(|c| c["volumeBindingMode"] == "WaitForFirstConsumer");
    if let Some(volume) = reserved.or_else(|| (!waits).then(|| fitting(cluster, value))?) {
        bind(claim, volume, plan);
        return;
    }
    if value["status"]["phase"] != "Pending" {
        plan.patch_status(claim, json!({"status": {"phase": "Pending"}}));
    }
    match class_object {
        None if class.is_empty() => plan.event(
            claim,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
        None => {
            let why = format!("storageclass.storage.k8s.io \"{class}\" not found");
            plan.warning(claim, "ProvisioningFailed", why);
        }
        Some(_) if waits => plan.event(
            claim,
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        ),
        Some(class) if class["provisioner"] == NO_PROVISIONER => plan.warning(
            claim,
            "ProvisioningFailed",
            format!("no volume plugin matched name: {NO_PROVISIONER}"),
        ),
        Some(class) => {
            let provisioner = class["provisioner"].as_str().unwrap_or_default();
            let known = claim.meta.annotations.get(PROVISIONER);
            if known.map(String::as_str) != Some(provisioner) {
                let told = json!({PROVISIONER: provisioner, BETA_PROVISIONER: provisioner});
                plan.patch(claim, json!({"metadata": {"annotations": told}}));
            }
            plan.event(
                claim,
                "ExternalProvisioning",
                format!(
                    "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
                ),
            );
        }
    }
}

/// A claim that names its volume.
fn bound(cluster: &Cluster, claim: &Object, value: &Value, name: &str, plan: &mut Plan) {
    let Some(volume) = cluster.get(&PERSISTENT_VOLUME, "", name) else {
        if claim.meta.annotations.contains_key(COMPLETED) && value["status"]["phase"] != "Lost" {
            plan.patch_status(claim, json!({"status": {"phase": "Lost"}}));
            let why = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            plan.warning(claim, "ClaimLost", why);
        }
        return;
    };
    let of_volume = volume.value();
    if claim_of(&of_volume).is_some_and(|other| other != place(claim)) || !is_for(&of_volume, claim)
    {
        let why = format!("volume \"{name}\" already bound to a different claim.");
        plan.warning(claim, "FailedBinding", why);
        return;
    }
    if of_volume["spec"]["claimRef"]["uid"] != claim.meta.uid.as_str()
        || !claim.meta.annotations.contains_key(COMPLETED)
    {
        bind(claim, volume, plan);
        return;
    }
    let status = json!({
        "phase": "Bound",
        "accessModes": of_volume["spec"]["accessModes"],
        "capacity": of_volume["spec"]["capacity"],
    });
    let differs = |field: &str| value["status"][field] != status[field];
    if ["phase", "accessModes", "capacity"].into_iter().any(differs) {
        plan.patch_status(claim, json!({"status": status}));
    }
}

/// Gives the volume to the claim, then the claim the volume; what is so already is not written.
fn bind(claim: &Object, volume: &Object, plan: &mut Plan) {
    let known = volume.value();
    if known["spec"]["claimRef"]["uid"] != claim.meta.uid.as_str() {
        let mut change = json!({"spec": {"claimRef": {
            "kind": "PersistentVolumeClaim",
            "apiVersion": "v1",
            "namespace": claim.meta.namespace,
            "name": claim.meta.name,
            "uid": claim.meta.uid,
            "resourceVersion": claim.meta.resource_version.to_string(),
        }}});
        if claim_of(&known).is_none() {
            change["metadata"] = json!({"annotations": {BOUND_HERE: "yes"}});
        }
        plan.patch(volume, change);
    }
    let mut change = json!({"metadata": {"annotations": {COMPLETED: "yes"}}});
    if claim.value()["spec"]["volumeName"].as_str().unwrap_or_default().is_empty() {
        change["metadata"]["annotations"][BOUND_HERE] = "yes".into();
        change["spec"] = json!({"volumeName": volume.meta.name});
    }
    plan.patch(claim, change);
}

/// The smallest free volume that is as the claim wants it.
fn fitting<'a>(cluster: &'a Cluster, claim: &Value) -> Option<&'a Arc<Object>> {
    let spec = &claim["spec"];
    let size = Quantity::of(&spec["resources"]["requests"]["storage"])?;
    let selector = LabelSelector::from_value(spec.get("selector")).ok()?;
    let fits = |volume: &&Arc<Object>| {
        let value = volume.value();
        let has = |mode| value["spec"]["accessModes"].as_array().is_some_and(|m| m.contains(mode));
        let same = |field: &str, usual: &str| {
            let of = |spec: &Value| spec[field].as_str().unwrap_or(usual).to_owned();
            of(&value["spec"]) == of(spec)
        };
        !volume.is_deleting()
            && claim_of(&value).is_none()
            && same("storageClassName", "")
            && same("volumeMode", "Filesystem")
            && same("volumeAttributesClassName", "")
            && spec["accessModes"].as_array().into_iter().flatten().all(has)
            && (spec["selector"].is_null() || selector.matches(&volume.meta.labels))
            && capacity(&value) >= size
    };
    let found = cluster.list(&PERSISTENT_VOLUME).filter(fits);
    found.min_by_key(|volume| (capacity(&volume.value()), volume.meta.name.clone()))
}

fn capacity(volume: &Value) -> Quantity {
    Quantity::of(&volume["spec"]["capacity"]["storage"]).unwrap_or(Quantity::ZERO)
}

impl Controller for VolumeController {
    fn name(&self) -> &'static str {
        "persistentvolume-phase"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == PERSISTENT_VOLUME.resource {
            return vec![Key::of(object)];
        }
        if object.kind.resource != PERSISTENT_VOLUME_CLAIM.resource {
            return Vec::new();
        }
        let mine = |volume: &&Arc<Object>| claim_of(&volume.value()) == Some(place(object));
        cluster.list(&PERSISTENT_VOLUME).filter(mine).map(|volume| Key::of(volume)).collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(volume) = cluster.get(&PERSISTENT_VOLUME, "", &key.name) else { return plan };
        let value = volume.value();
        let (phase, message) = phase(cluster, volume, &value);
        if volume.is_deleting() && phase != "Bound" {
            let_go(volume, VOLUME_PROTECTION, &mut plan);
            return plan;
        }
        if value["status"]["phase"] != phase {
            let message = if message.is_empty() { Value::Null } else { message.into() };
            let since = patch::time(cluster.now);
            plan.patch_status(
                volume,
                json!({"status": {
                    "phase": phase, "message": message, "lastPhaseTransitionTime": since,
                }}),
            );
            if phase == "Failed" {
                let policy = &value["spec"]["persistentVolumeReclaimPolicy"];
                let reason =
                    if policy == "Recycle" { "VolumeFailedRecycle" } else { "VolumeFailedDelete" };
                plan.warning(volume, reason, message.as_str().unwrap_or_default());
            }
        } else if value["status"]["lastPhaseTransitionTime"].is_null() {
            let since = patch::time(cluster.now);
            plan.patch_status(volume, json!({"status": {"lastPhaseTransitionTime": since}}));
        }
        plan
    }
}

/// Which phase a volume is in, and why where that is no good one.
fn phase(cluster: &Cluster, volume: &Object, value: &Value) -> (&'static str, String) {
    let Some((namespace, name)) = claim_of(value) else { return ("Available", String::new()) };
    let claim = cluster.get(&PERSISTENT_VOLUME_CLAIM, &namespace, &name);
    let uid = value["spec"]["claimRef"]["uid"].as_str().unwrap_or_default();
    match claim.filter(|claim| uid.is_empty() || claim.meta.uid == uid) {
        Some(claim) => {
            let wants = claim.value()["spec"]["volumeName"] == volume.meta.name.as_str();
            (if wants && !uid.is_empty() { "Bound" } else { "Available" }, String::new())
        }
        // Kept for a claim to come.
        None if uid.is_empty() => ("Available", String::new()),
        None => match value["spec"]["persistentVolumeReclaimPolicy"].as_str() {
            Some("Recycle") => ("Failed", "No recycler plugin found for the volume!".to_owned()),
            Some("Delete") if !volume.meta.annotations.contains_key(PROVISIONED_BY) => {
                let name = &volume.meta.name;
                let why = format!(
                    "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
                );
                ("Failed", why)
            }
            _ => ("Released", String::new()),
        },
    }
}

/// Takes away the finalizer that keeps an object in use.
fn let_go(object: &Object, finalizer: &str, plan: &mut Plan) {
    let others: Vec<_> = object.meta.finalizers.iter().filter(|f| *f != finalizer).collect();
    if others.len() < object.meta.finalizers.len() {
        plan.patch(object, json!({"metadata": {"finalizers": others}}));
    }
}

fn place(claim: &Object) -> (String, String) {
    (claim.meta.namespace.clone(), claim.meta.name.clone())
}

/// The claim that a volume is for.
fn claim_of(volume: &Value) -> Option<(String, String)> {
    let claim = volume["spec"].get("claimRef").filter(|claim| claim.is_object())?;
    let of = |field: &str| claim[field].as_str().unwrap_or_default().to_owned();
    Some((of("namespace"), of("name")))
}

/// Whether the claim that a volume is for, if it is for one of that name, is this one and not one of the past.
fn is_for(volume: &Value, claim: &Object) -> bool {
    let uid = volume["spec"]["claimRef"]["uid"].as_str().unwrap_or_default();
    uid.is_empty() || uid == claim.meta.uid
}

fn is_unbound(claim: &Value) -> bool {
    claim["spec"]["volumeName"].as_str().unwrap_or_default().is_empty()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodView {
    spec: PodSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodSpec {
    volumes: Vec<Volume>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    persistent_volume_claim: Option<ClaimSource>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSource {
    claim_name: String,
}

/// Names of the claims that a Pod uses.
fn claims_of(pod: &Object) -> Vec<String> {
    let view: PodView = serde_json::from_slice(pod.json()).unwrap_or_default();
    let claims = view.spec.volumes.into_iter().filter_map(|v| v.persistent_volume_claim);
    claims.map(|claim| claim.claim_name).collect()
}

#[cfg(test)]
mod tests;
