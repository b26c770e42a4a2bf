//! Claims of Pods' own: a volume with `ephemeral.volumeClaimTemplate` is a claim that is made for its Pod and goes with it.

use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan, kinds};
use serde_json::{Value, json};

use crate::{owners, pods};

/// Plans claims for Pods.
#[derive(Debug, Clone, Copy)]
pub struct EphemeralVolumes;

impl Controller for EphemeralVolumes {
    fn name(&self) -> &'static str {
        "ephemeral-volume"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.is_pod() && has_some(object) {
            return vec![Key::of(object)];
        }
        // One that is deleted is made again.
        let is_claim = object.kind.resource == kinds::PERSISTENT_VOLUME_CLAIM.resource;
        let owner = object.controller().filter(|owner| is_claim && owner.kind == kinds::POD.kind);
        owner
            .map(|pod| Key::new(object.meta.namespace.as_str(), pod.name.as_str()))
            .into_iter()
            .collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(pod) = cluster.get(&kinds::POD, &key.namespace, &key.name) else { return plan };
        if !has_some(pod)
            || !pods::is_active(pod)
            || owners::is_terminating(cluster, &key.namespace)
        {
            return plan;
        }
        let tree = pod.value();
        for volume in tree["spec"]["volumes"].as_array().into_iter().flatten() {
            let template = &volume["ephemeral"]["volumeClaimTemplate"];
            if !template.is_object() {
                continue;
            }
            let name = format!("{}-{}", key.name, volume["name"].as_str().unwrap_or_default());
            let known = cluster.get(&kinds::PERSISTENT_VOLUME_CLAIM, &key.namespace, &name);
            match known {
                None => plan.create(&kinds::PERSISTENT_VOLUME_CLAIM, claim(pod, template, &name)),
                Some(known) => {
                    if known.controller().is_none_or(|owner| owner.uid != pod.meta.uid) {
                        let why = format!(
                            "PVC {}/{name} was not created for pod {} (pod is not owner)",
                            key.namespace,
                            pod.key()
                        );
                        plan.warning(pod, "EphemeralVolumeClaimNotOwned", why);
                    }
                }
            }
        }
        plan
    }
}

/// Few Pods have such volumes: the others need not be read for that.
fn has_some(pod: &Object) -> bool {
    std::str::from_utf8(pod.json()).is_ok_and(|json| json.contains("\"volumeClaimTemplate\""))
}

fn claim(pod: &Object, template: &Value, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "namespace": pod.meta.namespace,
        "ownerReferences": [pod.owner_ref()],
    });
    for field in ["labels", "annotations"] {
        if template["metadata"][field].is_object() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    json!({
        "kind": "PersistentVolumeClaim",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": template["spec"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cluster, created};

    #[test]
    fn a_pod_gets_the_claims_of_its_templates() {
        let pod = json!({
            "metadata": {"name": "a"},
            "spec": {"volumes": [
                {"name": "plain", "emptyDir": {}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"labels": {"of": "a"}},
                    "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local"},
                }}},
            ]},
        });
        let plan = |more: Vec<Value>| {
            let mut objects = vec![(&kinds::POD, pod.clone())];
            objects.extend(more.into_iter().map(|claim| (&kinds::PERSISTENT_VOLUME_CLAIM, claim)));
            EphemeralVolumes.reconcile(&cluster(objects), &Key::new("ns", "a"))
        };
        let first = plan(Vec::new());
        let [claim] = &created(&first)[..] else { panic!("{first:?}") };
        assert_eq!(claim["metadata"]["name"], "a-scratch");
        assert_eq!(claim["metadata"]["labels"], json!({"of": "a"}));
        assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "uid-a");
        assert_eq!(claim["spec"]["storageClassName"], "local");
        assert!(plan(vec![(*claim).clone()]).is_empty());
        // Somebody else's of that name is not taken.
        let other = plan(vec![json!({"metadata": {"name": "a-scratch"}})]);
        assert_eq!((created(&other).len(), other.events.len()), (0, 1));
    }
}
