//! Signs approved certificate requests (upstream's csrsigning controllers). It runs as controllers do, but is not pure: it has
//! the CA's key, which stays in this process.

use base64::Engine;
use coracle_api::csr::{self, CLIENT, NODE_CLIENT, NODE_SERVING, Request};
use coracle_api::json::Json;
use coracle_api::kinds::CERTIFICATE_SIGNING_REQUEST as CSR;
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan};
use serde_json::{Value, json};

use super::Auth;

/// Plans the certificates of requests for the signers that the cluster has itself.
pub(crate) struct Signer {
    pub(crate) auth: Auth,
    /// How long certificates last, in seconds; requests may ask for less.
    pub(crate) seconds: u64,
}

impl Controller for Signer {
    fn name(&self) -> &'static str {
        "certificate-signer"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == CSR.resource { vec![Key::of(object)] } else { Vec::new() }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(object) = cluster.get(&CSR, "", &key.name) else { return plan };
        let it = object.value();
        let is_due = csr::has(&it, "Approved")
            && !csr::has(&it, "Denied")
            && !csr::has(&it, "Failed")
            && it.text(&["status", "certificate"]).is_empty();
        if !is_due || ![NODE_CLIENT, NODE_SERVING, CLIENT].contains(&signer(&it)) {
            return plan;
        }
        match self.sign(&it) {
            Ok(pem) => {
                let certificate = base64::engine::general_purpose::STANDARD.encode(pem);
                plan.patch_status(object, json!({"status": {"certificate": certificate}}));
            }
            Err((reason, message)) => {
                let now = crate::registry::now();
                let mut conditions = it.list(&["status", "conditions"]).to_vec();
                conditions.push(json!({
                    "type": "Failed", "status": "True", "reason": reason, "message": message,
                    "lastUpdateTime": now, "lastTransitionTime": now,
                }));
                plan.patch_status(object, json!({"status": {"conditions": conditions}}));
            }
        }
        plan
    }
}

impl Signer {
    fn sign(&self, it: &Value) -> Result<String, (&'static str, String)> {
        let invalid = |why: String| ("SignerValidationFailure", why);
        let request = Request::of(it).map_err(invalid)?;
        let usages = csr::usages(it);
        if signer(it) == CLIENT {
            let known = ["client auth", "digital signature", "key encipherment"];
            if !usages.iter().all(|usage| known.contains(usage)) || !usages.contains(&known[0]) {
                return Err(invalid(format!(
                    "usages did not match {known:?}, of which \"client auth\" is required"
                )));
            }
        } else {
            request.node(signer(it), &usages).map_err(|why| invalid(why.to_owned()))?;
        }
        let asked = it.int(&["spec", "expirationSeconds"]).and_then(|s| u64::try_from(s).ok());
        let seconds = asked.unwrap_or(u64::MAX).min(self.seconds);
        let signed = self.auth.pki().sign(&request, &usages, seconds);
        signed.map_err(|error| ("SigningError", error.to_string()))
    }
}

fn signer(csr: &Value) -> &str {
    csr.text(&["spec", "signerName"])
}
