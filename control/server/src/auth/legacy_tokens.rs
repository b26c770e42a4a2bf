//! Tokens in Secrets (`kubernetes.io/service-account-token`), which do not end: who asks for one by creating such a Secret gets it
//! filled in. It runs as controllers do, but is not pure: it has the key that signs.
//!
//! Such a token holds as long as its Secret, which must hold it, and its ServiceAccount. Secrets of ServiceAccounts that are gone
//! are deleted. Source: `k8s.io/kubernetes/pkg/controller/serviceaccount`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::json::Json;
use coracle_api::kinds::{SECRET, SERVICE_ACCOUNT};
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan};
use serde_json::{Map, Value, json};

use super::Auth;

/// The type of such Secrets.
pub(super) const TYPE: &str = "kubernetes.io/service-account-token";
/// Annotations: whose token it is.
pub(super) const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// Plans what such Secrets hold.
pub(crate) struct LegacyTokens {
    pub(crate) auth: Auth,
}

impl Controller for LegacyTokens {
    fn name(&self) -> &'static str {
        "legacy-service-account-token"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == SECRET.resource {
            let is_one = object.meta.annotations.contains_key(NAME);
            return if is_one { vec![Key::of(object)] } else { Vec::new() };
        }
        if object.kind.resource != SERVICE_ACCOUNT.resource {
            return Vec::new();
        }
        let all = cluster.list_in(&SECRET, &object.meta.namespace);
        all.filter(|secret| secret.meta.annotations.get(NAME) == Some(&object.meta.name))
            .map(|secret| Key::of(secret))
            .collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(secret) = cluster.get(&SECRET, &key.namespace, &key.name) else { return plan };
        let Some(name) = secret.meta.annotations.get(NAME) else { return plan };
        let it = secret.value();
        if secret.is_deleting() || it.text(&["type"]) != TYPE {
            return plan;
        }
        let wanted = secret.meta.annotations.get(UID).filter(|uid| !uid.is_empty());
        let account = cluster.get(&SERVICE_ACCOUNT, &key.namespace, name);
        let Some(account) = account.filter(|it| wanted.is_none_or(|uid| *uid == it.meta.uid))
        else {
            plan.delete(secret, Propagation::Background);
            return plan;
        };
        if account.is_deleting() || it["immutable"] == true {
            return plan;
        }
        let mut data = Map::new();
        let mut put = |field: &str, value: &str| {
            let encoded = STANDARD.encode(value);
            if it.text(&["data", field]) != encoded {
                data.insert(field.to_owned(), encoded.into());
            }
        };
        put("ca.crt", self.auth.pki().ca_pem());
        put("namespace", &key.namespace);
        if it.text(&["data", "token"]).is_empty() {
            match self.auth.issue_lasting(secret, account) {
                Ok(token) => put("token", &token),
                Err(error) => {
                    tracing::error!(secret = %key, %error, "a token cannot be signed");
                    return plan;
                }
            }
        }
        let mut patch = json!({});
        if !data.is_empty() {
            patch["data"] = Value::Object(data);
        }
        if wanted.is_none() {
            patch["metadata"] = json!({"annotations": {UID: account.meta.uid}});
        }
        if patch != json!({}) {
            plan.patch(secret, patch);
        }
        plan
    }
}
