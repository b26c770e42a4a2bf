//! The cluster's CA for Pods: every namespace has it in a ConfigMap `kube-root-ca.crt`, which projected ServiceAccount
//! tokens bring along.

use coracle_api::kinds::{CONFIG_MAP, NAMESPACE};
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan};
use serde_json::json;

const NAME: &str = "kube-root-ca.crt";

/// Plans the ConfigMap of each namespace. Unlike the others it must be told something: the certificates.
#[derive(Debug, Clone)]
pub struct RootCaPublisher {
    /// Certificates, as PEM.
    pub pem: String,
}

impl Controller for RootCaPublisher {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == NAMESPACE.resource {
            vec![Key::of(object)]
        } else if object.kind.resource == CONFIG_MAP.resource && object.meta.name == NAME {
            vec![Key::new("", object.meta.namespace.as_str())]
        } else {
            Vec::new()
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let lives = cluster.get(&NAMESPACE, "", &key.name).is_some_and(|n| !n.is_deleting());
        let data = json!({"ca.crt": self.pem});
        match cluster.get(&CONFIG_MAP, &key.name, NAME) {
            None if lives => plan.create(
                &CONFIG_MAP,
                json!({
                    "kind": "ConfigMap",
                    "apiVersion": "v1",
                    "metadata": {"name": NAME, "namespace": key.name},
                    "data": data,
                }),
            ),
            // A data folder that moved to another CA, or somebody's edit.
            Some(map) if lives && map.value()["data"] != data => {
                plan.patch(map, json!({"data": data}));
            }
            _ => {}
        }
        plan
    }
}
