//! ServiceCIDR: says of each whether Services get their addresses from it.
//!
//! There is one such range, which the server was started with and has the name `kubernetes`; allocation knows no other.

use coracle_api::kinds::SERVICE_CIDR;
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan};
use serde_json::{Value, json};

use crate::patch;

/// The name of the cluster's own.
const OWN: &str = "kubernetes";

/// Plans the condition `Ready` of ServiceCIDRs.
#[derive(Debug, Clone, Copy)]
pub struct ServiceCidrController;

impl Controller for ServiceCidrController {
    fn name(&self) -> &'static str {
        "service-cidr"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == SERVICE_CIDR.resource {
            vec![Key::of(object)]
        } else {
            Vec::new()
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(cidr) = cluster.get(&SERVICE_CIDR, "", &key.name) else { return plan };
        let (status, reason, message) = if key.name == OWN {
            ("True", "", "Kubernetes Service CIDR is ready")
        } else {
            let why =
                "Services get addresses from the range of the ServiceCIDR \"kubernetes\" only";
            ("False", "NotSupported", why)
        };
        let known = cidr.value();
        let conditions = known["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_told = |c: &Value| c["type"] == "Ready" && c["status"] == status;
        if !cidr.is_deleting() && !conditions.iter().any(is_told) {
            let mut conditions = conditions;
            conditions.retain(|condition| condition["type"] != "Ready");
            conditions.push(json!({
                "type": "Ready",
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": patch::time(cluster.now),
            }));
            plan.patch_status(cidr, json!({"status": {"conditions": conditions}}));
        }
        plan
    }
}
