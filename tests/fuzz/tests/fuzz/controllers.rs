//! Controllers and the scheduler's view of objects that nobody meant: numbers at the ends of their ranges, times that are not to
//! be, owners that own themselves. Whoever writes such objects must not end a controller, which is everybody's.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::plan::{Key, Memory};
use coracle_api::schema::check;
use coracle_api::{Cluster, Object, kinds};
use coracle_fuzz::{Random, cases};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::documents::{any_kind, object, schema_of};

/// What is between the second and the end of time.
const TIMES: &[&str] = &[
    "2024-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-30T22:00:00Z",
    "1970-01-01T00:00:00Z",
    "2024-01-01T00:01:00Z",
];

/// Puts other numbers and times where there are some, so that what is checked together is odd together.
fn odd(random: &mut Random, value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(|value| odd(random, value)),
        Value::Array(list) => list.iter_mut().for_each(|value| odd(random, value)),
        Value::Number(number) if number.is_i64() && random.once_in(3) => {
            let small = number.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
            *value = if small {
                i64::from(random.number() as i32).into()
            } else {
                random.number().into()
            };
        }
        Value::String(text) if text.ends_with('Z') && text.len() == 20 => {
            *text = (*random.pick(TIMES)).to_owned();
        }
        _ => {}
    }
}

fn stored(random: &mut Random, at: u64) -> Option<Object> {
    let often: &[&coracle_api::Kind] = &[
        &kinds::POD,
        &kinds::JOB,
        &kinds::CRON_JOB,
        &kinds::DEPLOYMENT,
        &kinds::REPLICA_SET,
        &kinds::STATEFUL_SET,
        &kinds::DAEMON_SET,
        &kinds::NODE,
        &kinds::SERVICE,
        &kinds::HORIZONTAL_POD_AUTOSCALER,
        &kinds::POD_DISRUPTION_BUDGET,
    ];
    let kind = if random.once_in(3) { any_kind(random) } else { *random.pick(often) };
    let mut tree = check(object(random, kind, 0), schema_of(kind)).ok()?.value;
    odd(random, &mut tree);
    (kind.default)(&mut tree);
    // As the server writes them.
    let owner = json!({
        "apiVersion": random.pick(&["apps/v1", "batch/v1", "v1"]), "kind": random.pick(&["ReplicaSet", "Job", "Pod"]),
        "name": "a", "uid": format!("u{}", random.below(4)), "controller": true, "blockOwnerDeletion": true,
    });
    tree["metadata"] = json!({
        "name": random.pick(&["a", "b"]), "uid": format!("u{}", random.below(4)), "resourceVersion": at.to_string(),
        "creationTimestamp": random.pick(TIMES), "generation": random.number().max(1),
        "labels": {"app": "a"}, "annotations": {"deployment.kubernetes.io/revision": random.text()},
    });
    if kind.namespaced {
        tree["metadata"]["namespace"] = "default".into();
    }
    if random.once_in(2) {
        tree["metadata"]["ownerReferences"] = json!([owner]);
    }
    if random.once_in(4) {
        tree["metadata"]["deletionTimestamp"] = (*random.pick(TIMES)).into();
        tree["metadata"]["deletionGracePeriodSeconds"] = random.number().max(0).into();
        tree["metadata"]["finalizers"] = json!([random.pick(&[
            "foregroundDeletion",
            "orphan",
            "batch.kubernetes.io/job-tracking"
        ])]);
    }
    let matches = json!({"matchLabels": {"app": "a"}});
    if tree["spec"].is_object()
        && matches!(
            kind.plural,
            "deployments" | "replicasets" | "statefulsets" | "daemonsets" | "jobs"
        )
    {
        tree["spec"]["selector"] = matches;
    }
    let checked = check(tree, schema_of(kind)).ok()?;
    Object::from_value(kind, &checked.value).ok()
}

#[test]
fn controllers_bear_whatever_is_stored() {
    let controllers = coracle_controllers::all();
    cases("controllers", |random| {
        let now: Timestamp = random.pick(TIMES).parse().expect("a time");
        let mut cluster = Cluster::new(now);
        for at in 0..random.below(8) as u64 {
            if let Some(object) = stored(random, at + 1) {
                cluster.put(Arc::new(object));
            }
        }
        for controller in &controllers {
            let mut keys: BTreeMap<Key, Option<Memory>> = BTreeMap::new();
            for kind in cluster.kinds() {
                for object in cluster.list(kind) {
                    keys.extend(
                        controller.wakes(&cluster, object).into_iter().map(|key| (key, None)),
                    );
                }
            }
            for (key, memory) in &mut keys {
                for _ in 0..2 {
                    let plan = controller.reconcile_with(&cluster, key, memory.as_ref());
                    *memory = plan.memory;
                }
            }
        }
    });
}
