//! What the Pods of each node refer to: the Node authorizer's graph (Kubernetes, "Using Node Authorization").
//!
//! A node with 50,000 Pods asks for its ConfigMaps as often as one with ten. So references are counted by node when a Pod is
//! bound, and a question is one look-up. What a bound Pod refers to does not change but for its owners; a Pod is thus read
//! when it comes and when it goes, not with each of its statuses, and nothing is remembered for a single Pod.
//!
//! Certificates that Ingresses name are every node's business. They are counted in the same way, under no node's name.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::object::Object;

/// Plural of the kind, namespace and name.
type Key = (&'static str, Box<str>, Box<str>);

/// Counts of references, by node.
#[derive(Debug, Default)]
pub(super) struct References {
    by_node: HashMap<Box<str>, HashMap<Key, u32>>,
}

impl References {
    /// Whether some Pod of the node refers to that.
    pub(super) fn has(
        &self,
        node: &str,
        resource: &'static str,
        namespace: &str,
        name: &str,
    ) -> bool {
        let known = self.by_node.get(node);
        known.is_some_and(|known| known.contains_key(&(resource, namespace.into(), name.into())))
    }

    /// A Pod took another's place, or none's.
    pub(super) fn replace(&mut self, old: Option<&Object>, new: &Object) {
        if let Some(old) = old {
            let alike = old.node_name == new.node_name
                && old.meta.uid == new.meta.uid
                && old.meta.owner_references == new.meta.owner_references;
            if alike {
                return;
            }
            self.remove(old);
        }
        let Some(node) = &new.node_name else { return };
        let keys = keys(new);
        if keys.is_empty() {
            return;
        }
        let known = self.by_node.entry(node.clone()).or_default();
        for key in keys {
            *known.entry(key).or_default() += 1;
        }
    }

    /// A Pod is gone.
    pub(super) fn remove(&mut self, old: &Object) {
        let Some(node) = &old.node_name else { return };
        for key in keys(old) {
            self.forget(node, key);
        }
    }

    fn forget(&mut self, node: &str, key: Key) {
        let Some(known) = self.by_node.get_mut(node) else { return };
        if let Some(count) = known.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                known.remove(&key);
            }
        }
        if known.is_empty() {
            self.by_node.remove(node);
        }
    }

    /// An Ingress took another's place, or none's, or went.
    pub(super) fn replace_ingress(&mut self, old: Option<&Object>, new: Option<&Object>) {
        for key in new.map(certificates).unwrap_or_default() {
            *self.by_node.entry(EVERY.into()).or_default().entry(key).or_default() += 1;
        }
        for key in old.map(certificates).unwrap_or_default() {
            self.forget(EVERY, key);
        }
    }

    /// Whether some Ingress names that Secret.
    pub(super) fn has_certificate(&self, namespace: &str, name: &str) -> bool {
        self.has(EVERY, SECRETS, namespace, name)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }
}

/// No node is called this.
const EVERY: &str = "";

/// Secrets that an Ingress names, once.
fn certificates(ingress: &Object) -> BTreeSet<Key> {
    let value = ingress.value();
    let tls = value["spec"]["tls"].as_array().into_iter().flatten();
    let names = tls.filter_map(|tls| tls["secretName"].as_str()).filter(|name| !name.is_empty());
    names.map(|name| (SECRETS, ingress.meta.namespace.as_str().into(), name.into())).collect()
}

/// Everything that a Pod refers to, once.
fn keys(pod: &Object) -> BTreeSet<Key> {
    // What passed validation is readable; what did not refers to nothing.
    let view: View = serde_json::from_slice(pod.json()).unwrap_or_default();
    let mut keys = BTreeSet::new();
    let mut add = |resource, name: &str| {
        if !name.is_empty() {
            keys.insert((resource, pod.meta.namespace.as_str().into(), name.into()));
        }
    };
    let spec = view.spec;
    for container in spec.init_containers.iter().flatten().chain(spec.containers.iter().flatten()) {
        for from in container.env_from.iter().flatten() {
            from.config_map_ref.iter().for_each(|named| add(CONFIG_MAPS, &named.name));
            from.secret_ref.iter().for_each(|named| add(SECRETS, &named.name));
        }
        for from in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            from.config_map_key_ref.iter().for_each(|named| add(CONFIG_MAPS, &named.name));
            from.secret_key_ref.iter().for_each(|named| add(SECRETS, &named.name));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        volume.config_map.iter().for_each(|named| add(CONFIG_MAPS, &named.name));
        volume.secret.iter().for_each(|secret| add(SECRETS, &secret.secret_name));
        match &volume.persistent_volume_claim {
            Some(claim) => add(CLAIMS, &claim.claim_name),
            None if volume.ephemeral.is_some() => {
                add(CLAIMS, &format!("{}-{}", pod.meta.name, volume.name));
            }
            None => {}
        }
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            source.config_map.iter().for_each(|named| add(CONFIG_MAPS, &named.name));
            source.secret.iter().for_each(|named| add(SECRETS, &named.name));
        }
    }
    spec.image_pull_secrets.iter().flatten().for_each(|named| add(SECRETS, &named.name));
    add("serviceaccounts", spec.service_account_name.as_deref().unwrap_or_default());
    if let Some(owner) = pod.controller() {
        let resource = match owner.kind.as_str() {
            "ReplicaSet" => Some("replicasets"),
            "StatefulSet" => Some("statefulsets"),
            "DaemonSet" => Some("daemonsets"),
            _ => None,
        };
        resource.into_iter().for_each(|resource| add(resource, &owner.name));
    }
    keys
}

const CONFIG_MAPS: &str = "configmaps";
const SECRETS: &str = "secrets";
const CLAIMS: &str = "persistentvolumeclaims";

/// The few fields of a Pod that refer to something.
#[derive(Deserialize, Default)]
#[serde(default)]
struct View {
    spec: Spec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    init_containers: Option<Vec<Container>>,
    containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
    image_pull_secrets: Option<Vec<Named>>,
    service_account_name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    env_from: Option<Vec<EnvFrom>>,
    env: Option<Vec<Env>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EnvFrom {
    config_map_ref: Option<Named>,
    secret_ref: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Env {
    value_from: Option<ValueFrom>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ValueFrom {
    config_map_key_ref: Option<Named>,
    secret_key_ref: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    config_map: Option<Named>,
    secret: Option<SecretVolume>,
    projected: Option<Projected>,
    persistent_volume_claim: Option<ClaimVolume>,
    ephemeral: Option<IgnoredAny>,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClaimVolume {
    claim_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct SecretVolume {
    secret_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Projected {
    sources: Option<Vec<Source>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Source {
    config_map: Option<Named>,
    secret: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
}
