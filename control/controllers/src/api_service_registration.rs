//! APIServices of what this server answers itself (upstream's `crdregistration` and `autoregister` controllers): one for each
//! group and version that a CustomResourceDefinition serves, and one in place of a built-in one that somebody deleted.
//!
//! Only those that say `automanaged` are changed and deleted: who gives an API server of their own a group and version keeps it.

use coracle_api::kinds::{API_SERVICE, CUSTOM_RESOURCE_DEFINITION};
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan};
use serde_json::{Value, json};

/// The label of those that are made here, and its values: those of definitions follow them, built-in ones are made once.
pub const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const FOLLOWS: &str = "true";
/// That of built-in groups.
pub const ON_START: &str = "onstart";
/// Behind all built-in groups, as upstream.
const GROUP_PRIORITY: i64 = 1000;
const VERSION_PRIORITY: i64 = 100;

/// Plans APIServices. Unlike the others it must be told something: which are built in, with their whole objects.
#[derive(Debug, Clone, Default)]
pub struct ApiServiceRegistration {
    /// The objects of built-in groups.
    pub built_in: Vec<Value>,
}

impl Controller for ApiServiceRegistration {
    fn name(&self) -> &'static str {
        "apiservice-registration"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == API_SERVICE.resource {
            vec![Key::of(object)]
        } else if object.kind.resource == CUSTOM_RESOURCE_DEFINITION.resource {
            served(object).into_iter().map(|(_, _, name)| Key::new("", name)).collect()
        } else {
            Vec::new()
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let known = cluster.get(&API_SERVICE, "", &key.name);
        if let Some(built_in) = self.built_in.iter().find(|it| it["metadata"]["name"] == key.name) {
            if known.is_none() {
                plan.create(&API_SERVICE, built_in.clone());
            }
            return plan;
        }
        // Of the group's definitions one is enough.
        let wanted = cluster
            .list(&CUSTOM_RESOURCE_DEFINITION)
            .filter(|definition| !definition.is_deleting())
            .flat_map(|definition| served(definition))
            .find(|(_, _, name)| *name == key.name);
        match (wanted, known) {
            (Some((group, version, name)), None) => {
                let spec = spec(&group, &version);
                let metadata = json!({"name": name, "labels": {AUTOMANAGED: FOLLOWS}});
                plan.create(&API_SERVICE, json!({"metadata": metadata, "spec": spec}));
            }
            (Some((group, version, _)), Some(known)) if follows(known) => {
                let wanted = spec(&group, &version);
                let tree = known.value();
                let has = &tree["spec"];
                let same = wanted.as_object().into_iter().flatten().all(|(k, v)| has[k] == *v);
                if !same || !has["service"].is_null() {
                    let mut patch = wanted;
                    for field in ["service", "caBundle", "insecureSkipTLSVerify"] {
                        patch[field] = Value::Null;
                    }
                    plan.patch(known, json!({"spec": patch}));
                }
            }
            (None, Some(known)) if follows(known) && !known.is_deleting() => {
                plan.delete(known, Propagation::Background);
            }
            _ => {}
        }
        plan
    }
}

fn follows(api: &Object) -> bool {
    api.meta.labels.get(AUTOMANAGED).is_some_and(|value| value == FOLLOWS)
}

fn spec(group: &str, version: &str) -> Value {
    json!({
        "group": group,
        "version": version,
        "groupPriorityMinimum": GROUP_PRIORITY,
        "versionPriority": VERSION_PRIORITY,
    })
}

/// Group, version, and the APIService's name, of each version that a definition serves.
fn served(definition: &Object) -> Vec<(String, String, String)> {
    let tree = definition.value();
    let group = tree["spec"]["group"].as_str().unwrap_or_default();
    let versions = tree["spec"]["versions"].as_array().into_iter().flatten();
    versions
        .filter(|version| version["served"] == true)
        .filter_map(|version| version["name"].as_str())
        .map(|version| (group.to_owned(), version.to_owned(), format!("{version}.{group}")))
        .collect()
}
