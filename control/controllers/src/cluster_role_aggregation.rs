//! ClusterRoles that are made of others: their rules are those of all that their `aggregationRule` selects, in the order of names
//! (upstream's clusterrole-aggregation controller). So who adds a kind to a cluster adds it to `view`, `edit` and `admin` too.

use coracle_api::json::Json;
use coracle_api::plan::{Controller, Key};
use coracle_api::selector::LabelSelector;
use coracle_api::{Cluster, Object, Plan, kinds};
use serde_json::{Value, json};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct ClusterRoleAggregation;

impl Controller for ClusterRoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource != kinds::CLUSTER_ROLE.resource {
            return Vec::new();
        }
        // A rule of one may be a rule of another by way of a third; roles are few.
        let all = cluster.list(&kinds::CLUSTER_ROLE);
        all.filter(|role| !selectors(&role.value()).is_empty()).map(|role| Key::of(role)).collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(role) = cluster.get(&kinds::CLUSTER_ROLE, "", &key.name) else { return plan };
        let tree = role.value();
        let selectors = selectors(&tree);
        if selectors.is_empty() {
            return plan;
        }
        let mut rules: Vec<Value> = Vec::new();
        for other in cluster.list(&kinds::CLUSTER_ROLE) {
            if other.meta.name == key.name
                || !selectors.iter().any(|selector| selector.matches(&other.meta.labels))
            {
                continue;
            }
            for rule in other.value().list(&["rules"]) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        if tree.list(&["rules"]) != rules {
            plan.patch(role, json!({"rules": rules}));
        }
        plan
    }
}

/// What selects the roles that one is made of; one that cannot be read selects nothing.
fn selectors(role: &Value) -> Vec<LabelSelector> {
    let all = role.list(&["aggregationRule", "clusterRoleSelectors"]).iter();
    all.filter_map(|selector| LabelSelector::from_value(Some(selector)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_api::plan::Write;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn rules_are_those_of_all_that_are_selected() {
        let mut cluster = Cluster::new(Timestamp::UNIX_EPOCH);
        let mut put = |name: &str, labels: Value, more: Value| {
            let mut role =
                json!({"metadata": {"name": name, "labels": labels, "resourceVersion": "1"}});
            for (field, value) in more.as_object().unwrap() {
                role[field] = value.clone();
            }
            let role = Object::from_value(&kinds::CLUSTER_ROLE, &role).unwrap();
            cluster.put(Arc::new(role));
        };
        let rule =
            |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]});
        let labels = || json!({"to-view": "true"});
        let aggregated = json!({"clusterRoleSelectors": [{"matchLabels": labels()}]});
        put("view", json!({}), json!({"aggregationRule": aggregated, "rules": [rule("old")]}));
        put("a", labels(), json!({"rules": [rule("pods"), rule("secrets")]}));
        put("b", labels(), json!({"rules": [rule("pods"), rule("nodes")]}));
        put("c", json!({}), json!({"rules": [rule("leases")]}));
        let key = Key::new("", "view");
        let role = cluster.get(&kinds::CLUSTER_ROLE, "", "b").unwrap();
        assert_eq!(ClusterRoleAggregation.wakes(&cluster, role), std::slice::from_ref(&key));
        let plan = ClusterRoleAggregation.reconcile(&cluster, &key);
        let [Write::Patch { patch, .. }] = &plan.writes[..] else { panic!("{plan:?}") };
        assert_eq!(patch["rules"], json!([rule("pods"), rule("secrets"), rule("nodes")]));
    }
}
