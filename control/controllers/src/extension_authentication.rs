//! What other API servers must know of this one to believe what it says of who makes a request: the ConfigMap
//! `kube-system/extension-apiserver-authentication`, which they read when they start, and follow.

use coracle_api::kinds::CONFIG_MAP;
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// Keeps the ConfigMap. Unlike most it must be told something: what is in it.
#[derive(Debug, Clone)]
pub struct ExtensionAuthentication {
    /// Its `data`.
    pub data: Value,
}

impl Controller for ExtensionAuthentication {
    fn name(&self) -> &'static str {
        "extension-apiserver-authentication"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        let key = Key::new(NAMESPACE, NAME);
        let is_it = object.kind.resource == CONFIG_MAP.resource && Key::of(object) == key;
        // The namespace is there when nothing else is.
        let first = object.kind.resource == "namespaces" && object.meta.name == NAMESPACE;
        if is_it || first { vec![key] } else { Vec::new() }
    }

    fn reconcile(&self, cluster: &Cluster, _: &Key) -> Plan {
        let mut plan = Plan::none();
        match cluster.get(&CONFIG_MAP, NAMESPACE, NAME) {
            None => plan.create(
                &CONFIG_MAP,
                json!({
                    "kind": "ConfigMap",
                    "apiVersion": "v1",
                    "metadata": {"name": NAME, "namespace": NAMESPACE},
                    "data": self.data,
                }),
            ),
            Some(map) => {
                let tree = map.value();
                let (has, wanted) = (&tree["data"], self.data.as_object());
                // Another component may keep something of its own there, as upstream's do.
                if wanted.into_iter().flatten().any(|(name, text)| has[name] != *text) {
                    plan.patch(map, json!({"data": self.data}));
                }
            }
        }
        plan
    }
}
