//! What the cluster's state adds to a new object, or has against it, in the order of upstream's plugins: NamespaceLifecycle,
//! ServiceAccount, Priority, RuntimeClass, DefaultStorageClass, DefaultIngressClass. Each reads the watch cache. (Tolerations for sick nodes are
//! a default of the kind Pod.)

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::{ApiError, Cluster, Kind, Object, kinds};
use serde_json::Value;

use super::{Registry, token};

const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// A namespace's default ServiceAccount appears a moment after the namespace.
const WAITS_FOR_DEFAULT: usize = 20;
const WAIT: Duration = Duration::from_millis(50);

impl Registry {
    pub(super) async fn complete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        tree: &mut Value,
    ) -> Result<(), ApiError> {
        if kind.namespaced {
            namespace_lifecycle(&self.cache.read(), kind, namespace, tree)?;
        }
        if kind.resource == kinds::INGRESS.resource {
            return default_ingress_class(&self.cache.read(), kind, tree);
        }
        if kind.resource == kinds::PERSISTENT_VOLUME_CLAIM.resource {
            default_storage_class(&self.cache.read(), tree);
            return Ok(());
        }
        if !kind.is_pod() {
            return Ok(());
        }
        service_account_name(tree);
        let mut waits = 0;
        let account = loop {
            match service_account(&self.cache.read(), namespace, tree) {
                Ok(account) => break account,
                Err(Missing { name, .. })
                    if name == DEFAULT_SERVICE_ACCOUNT && waits < WAITS_FOR_DEFAULT => {}
                Err(missing) => return Err(missing.error(kind, namespace, tree)),
            }
            waits += 1;
            tokio::time::sleep(WAIT).await;
        };
        pull_secrets(tree, &account);
        token::mount(tree, &account);
        pull_secrets(tree, &account);
        let cluster = self.cache.read();
        priority(&cluster, kind, tree)?;
        runtime_class(&cluster, kind, tree)
    }
}

fn name_of(tree: &Value) -> &str {
    tree["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace_lifecycle(
    cluster: &Cluster,
    kind: &Kind,
    namespace: &str,
    tree: &Value,
) -> Result<(), ApiError> {
    let Some(found) = cluster.get(&kinds::NAMESPACE, "", namespace) else {
        return Err(ApiError::not_found(&kinds::NAMESPACE, namespace));
    };
    // Events tell of what happens to the rest while it goes.
    if !found.is_deleting() || kind.resource == kinds::EVENT.resource {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut error = ApiError::forbidden(kind, name_of(tree), &why);
    if let Some(details) = &mut error.details {
        details.causes.push((
            "NamespaceTerminating".into(),
            format!("namespace {namespace} is being terminated"),
            "metadata.namespace".into(),
        ));
    }
    Err(error)
}

fn service_account_name(tree: &mut Value) {
    let spec = &mut tree["spec"];
    let name = [&spec["serviceAccountName"], &spec["serviceAccount"]]
        .into_iter()
        .filter_map(Value::as_str)
        .find(|name| !name.is_empty())
        .unwrap_or(DEFAULT_SERVICE_ACCOUNT)
        .to_owned();
    spec["serviceAccount"] = name.as_str().into();
    spec["serviceAccountName"] = name.into();
}

struct Missing {
    name: String,
}

impl Missing {
    fn error(&self, kind: &Kind, namespace: &str, tree: &Value) -> ApiError {
        let name = &self.name;
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        ApiError::forbidden(kind, name_of(tree), &why)
    }
}

fn service_account(
    cluster: &Cluster,
    namespace: &str,
    tree: &Value,
) -> Result<Arc<Object>, Missing> {
    let name = tree["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let found = cluster.get(&kinds::SERVICE_ACCOUNT, namespace, name);
    found.cloned().ok_or_else(|| Missing { name: name.to_owned() })
}

/// A Pod that brings credentials for images needs none of its account's.
fn pull_secrets(tree: &mut Value, account: &Object) {
    let own = &tree["spec"]["imagePullSecrets"];
    if own.as_array().is_none_or(Vec::is_empty) {
        let theirs = account.value()["imagePullSecrets"].take();
        if theirs.as_array().is_some_and(|secrets| !secrets.is_empty()) {
            tree["spec"]["imagePullSecrets"] = theirs;
        }
    }
}

fn priority(cluster: &Cluster, kind: &Kind, tree: &mut Value) -> Result<(), ApiError> {
    let wanted = tree["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if wanted.is_empty() {
        cluster
            .list(&kinds::PRIORITY_CLASS)
            .map(|object| object.value())
            .find(|class| class["globalDefault"] == true)
    } else {
        match cluster.get(&kinds::PRIORITY_CLASS, "", &wanted) {
            Some(object) => Some(object.value()),
            None => {
                let why = format!("no PriorityClass with name {wanted} was found");
                return Err(ApiError::forbidden(kind, name_of(tree), &why));
            }
        }
    };
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    if let Some(given) = tree["spec"]["priority"].as_i64()
        && given != value
    {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
             controller computed {value} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(kind, name_of(tree), &why));
    }
    let spec = &mut tree["spec"];
    spec["priority"] = value.into();
    if let Some(class) = &class {
        if wanted.is_empty() {
            spec["priorityClassName"] = class["metadata"]["name"].clone();
        }
        if spec.get("preemptionPolicy").is_none()
            && let Some(policy) = class.get("preemptionPolicy")
        {
            spec["preemptionPolicy"] = policy.clone();
        }
    }
    if spec.get("preemptionPolicy").is_none() {
        spec["preemptionPolicy"] = "PreemptLowerPriority".into();
    }
    Ok(())
}

fn runtime_class(cluster: &Cluster, kind: &Kind, tree: &mut Value) -> Result<(), ApiError> {
    let Some(wanted) = tree["spec"]["runtimeClassName"].as_str().map(str::to_owned) else {
        return Ok(());
    };
    let Some(class) = cluster.get(&kinds::RUNTIME_CLASS, "", &wanted) else {
        let why = format!("pod rejected: RuntimeClass \"{wanted}\" not found");
        return Err(ApiError::forbidden(kind, name_of(tree), &why));
    };
    let class = class.value();
    if let Some(overhead) = class["overhead"].get("podFixed") {
        tree["spec"]["overhead"] = overhead.clone();
    }
    let selector = class["scheduling"]["nodeSelector"].as_object();
    for (key, value) in selector.into_iter().flatten() {
        let known = &tree["spec"]["nodeSelector"][key];
        if !known.is_null() && known != value {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or_default(),
                known.as_str().unwrap_or_default()
            );
            return Err(ApiError::forbidden(kind, name_of(tree), &why));
        }
        tree["spec"]["nodeSelector"][key] = value.clone();
    }
    if let Some(added) = class["scheduling"]["tolerations"].as_array() {
        let mut all = tree["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        for toleration in added {
            if !all.contains(toleration) {
                all.push(toleration.clone());
            }
        }
        tree["spec"]["tolerations"] = all.into();
    }
    Ok(())
}

/// Of several defaults the newest, as upstream: so that another one can be made the default before the old one is none.
fn default_storage_class(cluster: &Cluster, tree: &mut Value) {
    let annotation = &tree["metadata"]["annotations"][kinds::STORAGE_CLASS_ANNOTATION];
    if !annotation.is_null() || !tree["spec"]["storageClassName"].is_null() {
        return;
    }
    let is_default = |class: &&Arc<Object>| {
        let marks = &class.meta.annotations;
        kinds::DEFAULT_STORAGE_CLASS_ANNOTATIONS
            .iter()
            .any(|mark| marks.get(*mark).is_some_and(|value| value == "true"))
    };
    let newest = cluster
        .list(&kinds::STORAGE_CLASS)
        .filter(is_default)
        .max_by_key(|class| (class.meta.creation_timestamp, Reverse(&class.meta.name)));
    if let Some(class) = newest {
        tree["spec"]["storageClassName"] = class.meta.name.as_str().into();
    }
}

fn default_ingress_class(cluster: &Cluster, kind: &Kind, tree: &mut Value) -> Result<(), ApiError> {
    let annotation = &tree["metadata"]["annotations"][kinds::INGRESS_CLASS_ANNOTATION];
    if !annotation.is_null() || !tree["spec"]["ingressClassName"].is_null() {
        return Ok(());
    }
    let marked = |class: &&Arc<Object>| {
        class.value()["metadata"]["annotations"][kinds::DEFAULT_INGRESS_CLASS_ANNOTATION] == "true"
    };
    let defaults: Vec<_> = cluster.list(&kinds::INGRESS_CLASS).filter(marked).collect();
    match defaults[..] {
        [] => {}
        [class] => tree["spec"]["ingressClassName"] = class.meta.name.as_str().into(),
        _ => {
            let why = format!(
                "Internal error occurred: {} default IngressClasses were found, only 1 allowed",
                defaults.len()
            );
            return Err(ApiError::forbidden(kind, name_of(tree), &why));
        }
    }
    Ok(())
}
