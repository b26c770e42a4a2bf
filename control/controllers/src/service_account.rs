//! ServiceAccount: every namespace has one named `default`, which Pods run as unless they name another.

use coracle_api::kinds::{NAMESPACE, SERVICE_ACCOUNT};
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan};
use serde_json::json;

const DEFAULT: &str = "default";

/// Plans the default ServiceAccount of each namespace.
#[derive(Debug, Clone, Copy)]
pub struct ServiceAccountController;

impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == NAMESPACE.resource {
            vec![Key::of(object)]
        } else if object.kind.resource == SERVICE_ACCOUNT.resource && object.meta.name == DEFAULT {
            vec![Key::new("", object.meta.namespace.as_str())]
        } else {
            Vec::new()
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let lives = cluster.get(&NAMESPACE, "", &key.name).is_some_and(|n| !n.is_deleting());
        if lives && cluster.get(&SERVICE_ACCOUNT, &key.name, DEFAULT).is_none() {
            plan.create(
                &SERVICE_ACCOUNT,
                json!({
                    "kind": "ServiceAccount",
                    "apiVersion": "v1",
                    "metadata": {"name": DEFAULT, "namespace": key.name},
                }),
            );
        }
        plan
    }
}
