//! What a Pod gets of its ServiceAccount: the means to call the API, mounted into every container, and the account's
//! `imagePullSecrets` where it has none of its own.

use coracle_api::Object;
use serde_json::{Value, json};

use crate::registry::meta;

/// Where programs look for token, certificate and namespace.
const PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How the volume is called, but for its random end.
const NAME: &str = "kube-api-access-";
/// Lifetime that upstream asks for.
const SECONDS: i64 = 3607;

/// As upstream's ServiceAccount admission.
pub(super) fn mount(tree: &mut Value, account: &Object) {
    let account = account.value();
    let own = tree["spec"]["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty());
    let theirs = account["imagePullSecrets"].as_array().filter(|list| !list.is_empty());
    if let Some(theirs) = theirs.filter(|_| !own) {
        tree["spec"]["imagePullSecrets"] = theirs.clone().into();
    }
    let wanted = |value: &Value| value["automountServiceAccountToken"].as_bool();
    if wanted(&tree["spec"]).or_else(|| wanted(&account)) == Some(false) {
        return;
    }
    // A Pod that was written out and is created again has the volume already.
    let volumes = tree["spec"]["volumes"].as_array();
    let names = volumes.into_iter().flatten().filter_map(|volume| volume["name"].as_str());
    let known = names.into_iter().find(|name| name.starts_with(NAME)).map(str::to_owned);
    let name = known.clone().unwrap_or_else(|| meta::generate(NAME));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        // Not by index, which would leave a null where there is no list.
        let containers = tree["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().all(|mount| mount["mountPath"] != PATH) {
                mounts.push(json!({"mountPath": PATH, "name": name, "readOnly": true}));
                mounted = true;
            }
        }
    }
    if !mounted || known.is_some() {
        return;
    }
    let Some(spec) = tree["spec"].as_object_mut() else { return };
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": SECONDS, "path": "token"}},
            {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
            {"downwardAPI": {"items": [
                {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace"},
            ]}},
        ]}}));
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::kinds;

    use super::*;

    fn mounted(account: Value, spec: Value) -> Value {
        let account = Object::from_value(&kinds::SERVICE_ACCOUNT, &account).unwrap();
        let mut tree = json!({"spec": spec});
        mount(&mut tree, &account);
        tree["spec"].take()
    }

    #[test]
    fn every_container_is_given_the_token_unless_somebody_says_no() {
        let account = |more: Value| {
            let mut account = json!({"metadata": {"name": "robot"}});
            account.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            account
        };
        let two = || json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
        let spec = mounted(account(json!({})), two());
        let name = spec["volumes"][0]["name"].as_str().unwrap();
        assert_eq!(name.len(), NAME.len() + 5);
        for list in ["initContainers", "containers"] {
            let mount = &spec[list][0]["volumeMounts"][0];
            assert_eq!(mount, &json!({"mountPath": PATH, "name": name, "readOnly": true}));
        }
        let one = mounted(account(json!({})), json!({"containers": [{"name": "c"}]}));
        assert!(one.get("initContainers").is_none());
        // Again, as from `kubectl get -o yaml`: nothing is added.
        assert_eq!(mounted(account(json!({})), spec.clone()), spec);

        let no = json!({"automountServiceAccountToken": false});
        assert_eq!(mounted(account(no.clone()), two()), two());
        let mut insists = two();
        insists["automountServiceAccountToken"] = true.into();
        assert!(mounted(account(no), insists)["volumes"].is_array());
        let mut declines = two();
        declines["automountServiceAccountToken"] = false.into();
        assert_eq!(mounted(account(json!({})), declines.clone()), declines);
        // What is mounted there already stays.
        let own = json!({"containers": [{"name": "c", "volumeMounts": [{"mountPath": PATH, "name": "own"}]}]});
        assert_eq!(mounted(account(json!({})), own.clone()), own);
    }

    #[test]
    fn pull_secrets_are_the_accounts_where_the_pod_has_none() {
        let account = json!({"metadata": {"name": "robot"}, "imagePullSecrets": [{"name": "a"}],
                             "automountServiceAccountToken": false});
        let spec = mounted(account.clone(), json!({"containers": []}));
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "a"}]));
        let own = json!({"containers": [], "imagePullSecrets": [{"name": "b"}]});
        assert_eq!(mounted(account, own.clone()), own);
    }
}
