//! ResourceQuotas: sums up in their status what is used of what they limit. Nothing waits for it; what is refused is decided when
//! something is written.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::plan::{Controller, Key, Memory};
use coracle_api::quota::{self, Amounts};
use coracle_api::{Cluster, Object, Plan, Write, kinds};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// How often it is summed up at most: a namespace may have very many Pods.
const PACE: Duration = Duration::from_secs(1);

/// See the module.
pub struct ResourceQuotaController;

impl Controller for ResourceQuotaController {
    fn name(&self) -> &'static str {
        "resourcequota"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let chatter = [kinds::EVENT.resource, kinds::LEASE.resource];
        if cluster.count(&kinds::RESOURCE_QUOTA) == 0
            || !object.kind.namespaced
            || chatter.contains(&object.kind.resource)
        {
            return Vec::new();
        }
        if object.kind.resource == kinds::RESOURCE_QUOTA.resource {
            // Others may count quotas.
            let all = cluster.list_in(&kinds::RESOURCE_QUOTA, &object.meta.namespace);
            return all.map(|quota| Key::of(quota)).collect();
        }
        let all = cluster.list_in(&kinds::RESOURCE_QUOTA, &object.meta.namespace);
        let tree = object.value();
        let concerned = all.filter(|quota| quota::concerns(&quota.value(), object.kind, &tree));
        concerned.map(|quota| Key::of(quota)).collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let Some(quota) = cluster.get(&kinds::RESOURCE_QUOTA, &key.namespace, &key.name) else {
            return Plan::default();
        };
        let tree = quota.value();
        let hard = &tree["spec"]["hard"];
        let used = quota::used(cluster, quota);
        let known = quota::amounts(tree["status"].get("used"));
        let same_hard = quota::amounts(Some(hard)) == quota::amounts(tree["status"].get("hard"));
        if same_hard && known == used {
            return Plan::default();
        }
        let mut status = json!({"hard": {}, "used": {}});
        for field in ["hard", "used"] {
            // What is limited no more goes.
            let gone = tree["status"][field].as_object().into_iter().flatten();
            let gone: Map<String, Value> =
                gone.map(|(name, _)| (name.clone(), Value::Null)).collect();
            status[field] = gone.into();
        }
        for (name, limit) in hard.as_object().into_iter().flatten() {
            status["hard"][name] = limit.clone();
            status["used"][name] = text(&used, name).into();
        }
        Plan {
            writes: vec![Write::Patch {
                kind: &kinds::RESOURCE_QUOTA,
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                revision: quota.meta.resource_version,
                subresource: Some("status"),
                patch: json!({"status": status}),
            }],
            ..Plan::default()
        }
    }

    fn reconcile_with(&self, cluster: &Cluster, key: &Key, memory: Option<&Memory>) -> Plan {
        let last = memory.and_then(|memory| memory.downcast_ref::<Timestamp>());
        let quiet = last.map(|last| cluster.now.duration_since(*last));
        let quiet = quiet.and_then(|quiet| Duration::try_from(quiet).ok());
        match quiet.and_then(|quiet| PACE.checked_sub(quiet)).filter(|left| !left.is_zero()) {
            Some(left) => {
                Plan { requeue_after: Some(left), memory: memory.cloned(), ..Plan::default() }
            }
            None => Plan { memory: Some(Arc::new(cluster.now)), ..self.reconcile(cluster, key) },
        }
    }
}

fn text(amounts: &Amounts, name: &str) -> String {
    amounts.get(name).copied().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cluster: &mut Cluster, object: Value, kind: &'static coracle_api::Kind) {
        let revision = cluster.revision() + 1;
        let mut object = object;
        object["metadata"]["namespace"] = "n".into();
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let object = Object::from_value(kind, &object).expect("an object");
        cluster.put(Arc::new(object));
        cluster.advance(revision);
    }

    #[test]
    fn the_status_says_what_is_used_and_forgets_what_is_limited_no_more() {
        let mut cluster = Cluster::new(Timestamp::UNIX_EPOCH);
        let hard = json!({"pods": "3", "services": "1"});
        let status = json!({"hard": {"secrets": "1"}, "used": {"secrets": "0"}});
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": status});
        put(&mut cluster, quota, &kinds::RESOURCE_QUOTA);
        for (name, phase) in [("a", "Running"), ("b", "Succeeded"), ("c", "Pending")] {
            let pod = json!({"metadata": {"name": name}, "spec": {"containers": []}, "status": {"phase": phase}});
            put(&mut cluster, pod, &kinds::POD);
        }
        let pod = cluster.get(&kinds::POD, "n", "a").cloned().expect("there");
        let key = Key::new("n", "q");
        assert_eq!(ResourceQuotaController.wakes(&cluster, &pod), std::slice::from_ref(&key));
        let plan = ResourceQuotaController.reconcile(&cluster, &key);
        let [Write::Patch { patch, .. }] = &plan.writes[..] else { panic!("{plan:?}") };
        assert_eq!(
            patch["status"],
            json!({
                "hard": {"pods": "3", "services": "1", "secrets": null},
                "used": {"pods": "2", "services": "0", "secrets": null},
            })
        );
    }

    #[test]
    fn it_is_summed_up_once_a_second() {
        let mut cluster = Cluster::new(Timestamp::UNIX_EPOCH);
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "3"}}});
        put(&mut cluster, quota, &kinds::RESOURCE_QUOTA);
        let key = Key::new("n", "q");
        let first = ResourceQuotaController.reconcile_with(&cluster, &key, None);
        assert_eq!(first.writes.len(), 1);
        cluster.now += Duration::from_millis(400);
        let second = ResourceQuotaController.reconcile_with(&cluster, &key, first.memory.as_ref());
        assert!(second.writes.is_empty());
        assert_eq!(second.requeue_after, Some(Duration::from_millis(600)));
        cluster.now += Duration::from_millis(600);
        let third = ResourceQuotaController.reconcile_with(&cluster, &key, second.memory.as_ref());
        assert_eq!(third.writes.len(), 1);
    }
}
