//! Single decisions, on clusters written down as JSON. How decisions add up is shown by the simulator in `tests/sim`.

use std::sync::Arc;

use coracle_api::plan::{Controller, Key, Write};
use coracle_api::{Cluster, Kind, Object, Plan, kinds};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::*;

mod certificates;
mod nodes;
mod ownership;
mod tokens;

pub(crate) const NOW: &str = "2030-01-01T00:00:00Z";

/// A cluster of these objects; names, UIDs and revisions are filled in where they are missing.
pub(crate) fn cluster(objects: impl IntoIterator<Item = (&'static Kind, Value)>) -> Cluster {
    let mut cluster = Cluster::new(NOW.parse::<Timestamp>().expect("a time"));
    for (i, (kind, mut value)) in objects.into_iter().enumerate() {
        let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
        let meta = &mut value["metadata"];
        meta["resourceVersion"] = json!((i + 1).to_string());
        for (field, default) in [
            ("uid", json!(format!("uid-{name}"))),
            ("creationTimestamp", json!("2029-12-31T00:00:00Z")),
            ("namespace", if kind.namespaced { json!("ns") } else { Value::Null }),
        ] {
            if meta[field].is_null() && !default.is_null() {
                meta[field] = default;
            }
        }
        meta.as_object_mut().expect("a map").retain(|_, v| !v.is_null());
        cluster.put(Arc::new(Object::from_value(kind, &value).expect("an object")));
    }
    cluster
}

pub(crate) fn patches(plan: &Plan) -> Vec<(&str, &Value)> {
    plan.writes
        .iter()
        .filter_map(|write| match write {
            Write::Patch { name, patch, .. } => Some((name.as_str(), patch)),
            _ => None,
        })
        .collect()
}

pub(crate) fn created(plan: &Plan) -> Vec<&Value> {
    plan.writes
        .iter()
        .filter_map(|write| match write {
            Write::Create { object, .. } => Some(object),
            _ => None,
        })
        .collect()
}

pub(crate) fn owner(kind: &Kind, name: &str) -> Value {
    json!([{
        "apiVersion": kind.api_version(), "kind": kind.kind, "name": name, "uid": format!("uid-{name}"),
        "controller": true, "blockOwnerDeletion": true,
    }])
}

/// A custom kind with `/scale`, and one object of it with so many replicas.
pub(crate) fn fleet(replicas: i64) -> [(&'static Kind, Value); 2] {
    let definition = json!({
        "metadata": {"name": "fleets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"kind": "Fleet", "plural": "fleets", "singular": "fleet"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"scale": {
                    "specReplicasPath": ".spec.size.boats",
                    "statusReplicasPath": ".status.boats",
                    "labelSelectorPath": ".status.selector",
                }},
            }],
        },
    });
    let read = Object::from_value(&kinds::CUSTOM_RESOURCE_DEFINITION, &definition);
    let kind = coracle_api::custom::kind_of(&read.expect("a definition")).expect("its kind");
    let fleet = json!({
        "metadata": {"name": "web"},
        "spec": {"size": {"boats": replicas}},
        "status": {"boats": replicas, "selector": "app=web"},
    });
    [(&kinds::CUSTOM_RESOURCE_DEFINITION, definition), (kind, fleet)]
}

fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": "web", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(image),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}},
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 600,
        },
    })
}

/// A ReplicaSet of that Deployment with `size` Pods, of which `available` are.
fn set(name: &str, image: &str, size: i32, available: i32, sized_for: (i32, i32)) -> Value {
    json!({
        "metadata": {
            "name": name,
            "generation": 1,
            "labels": {"app": "web", "pod-template-hash": name},
            "annotations": {
                "deployment.kubernetes.io/desired-replicas": sized_for.0.to_string(),
                "deployment.kubernetes.io/max-replicas": sized_for.1.to_string(),
                "deployment.kubernetes.io/revision": "1",
            },
            "ownerReferences": owner(&kinds::DEPLOYMENT, "web"),
        },
        "spec": {
            "replicas": size,
            "selector": {"matchLabels": {"app": "web", "pod-template-hash": name}},
            "template": template(image),
        },
        "status": {
            "replicas": size, "availableReplicas": available, "readyReplicas": available, "observedGeneration": 1,
        },
    })
}

#[test]
fn deployment_creates_its_replica_set() {
    let cluster = cluster([(&kinds::DEPLOYMENT, deployment(10, "a"))]);
    let plan = DeploymentController.reconcile(&cluster, &Key::new("ns", "web"));
    let [set] = created(&plan)[..] else { panic!("{plan:?}") };
    let hash = &set["metadata"]["labels"]["pod-template-hash"];
    assert_eq!(set["metadata"]["name"], format!("web-{}", hash.as_str().expect("a hash")));
    assert_eq!(set["spec"]["replicas"], 10);
    assert_eq!(&set["spec"]["selector"]["matchLabels"]["pod-template-hash"], hash);
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"], "13");
    let [("web", status)] = patches(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(status["status"]["conditions"][1]["reason"], "NewReplicaSetCreated");
    assert_eq!(
        plan.events[0].message,
        format!(
            "Scaled up replica set {} from 0 to 10",
            set["metadata"]["name"].as_str().expect("a name")
        )
    );
}

/// (replicas, [(image, size, available)], sizes expected after one step); image `b` is the Deployment's.
#[test]
fn one_rollout_step() {
    for (replicas, sized_for, sets, expected) in [
        // A rollout begins: surge first.
        (10, (10, 13), vec![("a", 10, 10), ("b", 0, 0)], vec![10, 3]),
        // No room to grow: shrink what availability allows.
        (10, (10, 13), vec![("a", 10, 10), ("b", 3, 0)], vec![8, 3]),
        (10, (10, 13), vec![("a", 8, 8), ("b", 5, 0)], vec![8, 5]),
        // A status that still counts Pods already told to go buys nothing.
        (10, (10, 13), vec![("a", 8, 10), ("b", 5, 3)], vec![5, 5]),
        // Pods that never became available go first, from the oldest.
        (10, (10, 13), vec![("a", 4, 0), ("c", 4, 4), ("b", 5, 5)], vec![0, 3, 5]),
        (10, (10, 13), vec![("a", 0, 0), ("b", 10, 10)], vec![0, 10]),
        // Scaled up in mid-rollout: in proportion, the rest to the largest.
        (20, (10, 13), vec![("a", 8, 8), ("b", 5, 3)], vec![14, 9]),
        // Scaled down likewise.
        (5, (10, 13), vec![("a", 8, 8), ("b", 5, 3)], vec![5, 3]),
        (0, (10, 13), vec![("a", 8, 8), ("b", 5, 3)], vec![0, 0]),
        // One alone is simply resized.
        (4, (10, 13), vec![("a", 0, 0), ("b", 10, 10)], vec![0, 4]),
    ] {
        let names = ["web-1", "web-2", "web-3"];
        let mut objects = vec![(&kinds::DEPLOYMENT, deployment(replicas, "b"))];
        for (name, (image, size, available)) in names.iter().zip(&sets) {
            objects.push((&kinds::REPLICA_SET, set(name, image, *size, *available, sized_for)));
        }
        let plan = DeploymentController.reconcile(&cluster(objects), &Key::new("ns", "web"));
        let mut sizes: Vec<_> = sets.iter().map(|(_, size, _)| *size).collect();
        for (name, patch) in patches(&plan) {
            if let (Some(i), Some(size)) =
                (names.iter().position(|n| *n == name), patch["spec"]["replicas"].as_i64())
            {
                sizes[i] = size as i32;
            }
        }
        assert_eq!(sizes, expected, "{replicas} replicas of {sets:?}");
    }
}

fn pod(name: &str, node: &str, phase: &str, ready: bool, more: Value) -> Value {
    let mut pod = json!({
        "metadata": {
            "name": name,
            "labels": {"app": "web", "pod-template-hash": "web-1"},
            "ownerReferences": owner(&kinds::REPLICA_SET, "web-1"),
        },
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": phase, "podIP": format!("10.0.0.{}", name.len()), "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2029-12-31T00:00:00Z"},
        ]},
    });
    json_merge(&mut pod, more);
    pod
}

pub(crate) fn json_merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                json_merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[test]
fn replica_set_deletes_the_most_expendable_first() {
    let old = json!({"metadata": {"creationTimestamp": "2029-01-01T00:00:00Z"}});
    let pods = [
        pod("unassigned", "", "Pending", false, json!({})),
        pod("pending", "n1", "Pending", false, json!({})),
        pod("unready", "n1", "Running", false, json!({})),
        pod(
            "cheap",
            "n2",
            "Running",
            true,
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}}),
        ),
        pod("crowded", "n1", "Running", true, json!({})),
        pod(
            "restarted",
            "n3",
            "Running",
            true,
            json!({"status": {"containerStatuses": [{"restartCount": 3}]}}),
        ),
        pod("young", "n4", "Running", true, json!({})),
        pod("old", "n5", "Running", true, old),
    ];
    let order: Vec<String> =
        pods.iter().map(|p| p["metadata"]["name"].as_str().expect("a name").to_owned()).collect();
    for keep in 0..pods.len() {
        let mut set = set("web-1", "a", keep as i32, 0, (8, 8));
        set["status"]["replicas"] = json!(8);
        let mut objects: Vec<(&'static Kind, Value)> = vec![(&kinds::REPLICA_SET, set)];
        objects.extend(pods.iter().rev().map(|p| (&kinds::POD, p.clone())));
        let plan = ReplicaSetController::REPLICA_SETS
            .reconcile(&cluster(objects), &Key::new("ns", "web-1"));
        let mut deleted: Vec<_> = plan
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Delete { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        let mut expected = order[..pods.len() - keep].to_vec();
        deleted.sort();
        expected.sort();
        assert_eq!(deleted, expected, "keeping {keep}");
        assert!(matches!(plan.writes[0], Write::Patch { .. }), "status before deletions");
    }
}

#[test]
fn replica_set_creates_the_same_pods_from_the_same_view() {
    let world = || cluster([(&kinds::REPLICA_SET, set("web-1", "a", 3, 0, (3, 3)))]);
    let names = |plan: &Plan| -> Vec<String> {
        created(plan).iter().map(|p| p["metadata"]["name"].to_string()).collect()
    };
    let key = Key::new("ns", "web-1");
    let first = ReplicaSetController::REPLICA_SETS.reconcile(&world(), &key);
    assert_eq!(names(&first).len(), 3);
    assert_eq!(names(&first), names(&ReplicaSetController::REPLICA_SETS.reconcile(&world(), &key)));
    assert_eq!(first.events[0].reason, "SuccessfulCreate");
}

#[test]
fn a_replication_controller_keeps_its_pods_as_a_replica_set_does() {
    let controller = |replicas: i64| {
        json!({
            "metadata": {"name": "web-1", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"app": "web"},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
        })
    };
    let plan = |replicas| {
        let mut own = pod("own", "n1", "Running", true, json!({}));
        let mut orphan = pod("orphan", "n1", "Running", true, json!({}));
        own["metadata"]["ownerReferences"] = owner(&kinds::REPLICATION_CONTROLLER, "web-1");
        orphan["metadata"]["ownerReferences"] = json!([]);
        let world = cluster([
            (&kinds::REPLICATION_CONTROLLER, controller(replicas)),
            (&kinds::POD, own),
            (&kinds::POD, orphan),
        ]);
        ReplicaSetController::REPLICATION_CONTROLLERS.reconcile(&world, &Key::new("ns", "web-1"))
    };
    let more = plan(4);
    assert_eq!(created(&more).len(), 2);
    assert_eq!(
        created(&more)[0]["metadata"]["ownerReferences"][0]["kind"],
        "ReplicationController"
    );
    let [("orphan", adopted), ("web-1", status)] = patches(&more)[..] else { panic!("{more:?}") };
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["uid"], "uid-web-1");
    assert_eq!(status["status"]["readyReplicas"], 2);
    let deletions = plan(1).writes.iter().filter(|w| matches!(w, Write::Delete { .. })).count();
    assert_eq!(deletions, 1);
}

#[test]
fn replica_set_adopts_and_releases() {
    let mut stray = pod("stray", "n1", "Running", true, json!({}));
    stray["metadata"]["labels"]["app"] = json!("other");
    let mut orphan = pod("orphan", "n1", "Running", true, json!({}));
    orphan["metadata"]["ownerReferences"] = json!([]);
    let world = cluster([
        (&kinds::REPLICA_SET, set("web-1", "a", 1, 0, (1, 1))),
        (&kinds::POD, stray),
        (&kinds::POD, orphan),
    ]);
    let plan = ReplicaSetController::REPLICA_SETS.reconcile(&world, &Key::new("ns", "web-1"));
    let [("stray", released), ("orphan", adopted), ("web-1", status)] = patches(&plan)[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(released["metadata"]["ownerReferences"], json!([]));
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["uid"], "uid-web-1");
    assert_eq!(status["status"]["readyReplicas"], 1);
    assert_eq!(created(&plan).len(), 0);
}

#[test]
fn endpoints_of_a_service() {
    let service = json!({
        "metadata": {"name": "web", "labels": {"tier": "front"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.1",
            "ports": [{"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
    });
    let going = json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:10Z"}});
    let world = cluster([
        (&kinds::SERVICE, service),
        (&kinds::POD, pod("a", "n1", "Running", true, json!({}))),
        (&kinds::POD, pod("bb", "n1", "Running", false, json!({}))),
        (&kinds::POD, pod("ccc", "n1", "Running", true, going)),
        (&kinds::POD, pod("dddd", "n1", "Succeeded", false, json!({}))),
        (&kinds::POD, pod("eeeee", "", "Pending", false, json!({"status": {"podIP": null}}))),
    ]);
    let key = Key::new("ns", "web");
    let plan = EndpointSliceController.reconcile(&world, &key);
    let [slice] = created(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(slice["ports"], json!([{"name": "web", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    let told: Vec<_> = slice["endpoints"]
        .as_array()
        .expect("endpoints")
        .iter()
        .map(|e| (e["addresses"][0].as_str().unwrap_or(""), e["conditions"].clone()))
        .collect();
    let conditions = |ready, serving, terminating| json!({"ready": ready, "serving": serving, "terminating": terminating});
    assert_eq!(
        told,
        [
            ("10.0.0.1", conditions(true, true, false)),
            ("10.0.0.2", conditions(false, false, false)),
            ("10.0.0.3", conditions(false, true, true)),
        ]
    );

    let plan = EndpointsController.reconcile(&world, &key);
    let [endpoints] = created(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
    assert_eq!(endpoints["subsets"][0]["notReadyAddresses"][0]["ip"], "10.0.0.2");
    assert_eq!(endpoints["subsets"][0]["addresses"].as_array().map(Vec::len), Some(1));
}

#[test]
fn slices_hold_a_hundred_and_change_little() {
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]},
    });
    let pods = |n: usize| {
        (0..n).map(|i| {
            let mut pod = pod(&format!("p{i:04}"), "n1", "Running", true, json!({}));
            pod["status"]["podIP"] = json!(format!("10.0.{}.{}", i / 250, i % 250));
            (&kinds::POD, pod)
        })
    };
    let mut objects: Vec<(&'static Kind, Value)> = vec![(&kinds::SERVICE, service)];
    objects.extend(pods(250));
    let key = Key::new("ns", "web");
    let plan = EndpointSliceController.reconcile(&cluster(objects.clone()), &key);
    let sizes: Vec<_> =
        created(&plan).iter().filter_map(|s| s["endpoints"].as_array().map(Vec::len)).collect();
    assert_eq!(sizes, [100, 100, 50]);

    let slices: Vec<Value> = created(&plan).into_iter().cloned().collect();
    objects.truncate(1);
    objects.extend(pods(260).skip(1));
    for slice in slices {
        objects.push((&kinds::ENDPOINT_SLICE, slice));
    }
    let plan = EndpointSliceController.reconcile(&cluster(objects), &key);
    // One loses an endpoint and takes a new one; the other nine go where there is most room.
    assert_eq!((plan.writes.len(), patches(&plan).len()), (2, 2));
}

/// (seconds since it last moved, the deadline, the reason that is told)
#[test]
fn a_rollout_that_does_not_move_is_late() {
    for (age, deadline, reason) in [
        (599, json!(600), "NewReplicaSetCreated"),
        (602, json!(600), "ProgressDeadlineExceeded"),
        (602, json!(i32::MAX), ""),
    ] {
        let mut late = deployment(3, "a");
        late["spec"]["progressDeadlineSeconds"] = deadline.clone();
        late["status"] = json!({"replicas": 3, "updatedReplicas": 3, "conditions": [{
            "type": "Progressing", "status": "True", "reason": "NewReplicaSetCreated",
            "lastUpdateTime": NOW, "lastTransitionTime": NOW,
        }]});
        let set = set("web-1", "a", 3, 0, (3, 6));
        let mut world = cluster([(&kinds::DEPLOYMENT, late), (&kinds::REPLICA_SET, set)]);
        world.now += jiff::SignedDuration::from_secs(age);
        let plan = DeploymentController.reconcile(&world, &Key::new("ns", "web"));
        let (_, status) = *patches(&plan).last().expect("a status");
        let conditions = status["status"]["conditions"].as_array().expect("conditions");
        let found = conditions.iter().find(|c| c["type"] == "Progressing");
        assert_eq!(
            found.map_or("", |c| c["reason"].as_str().unwrap_or("")),
            reason,
            "{age} of {deadline}"
        );
        assert_eq!(plan.requeue_after.is_some(), age < 600, "{age} of {deadline}");
    }
}
