use super::*;
use crate::tests::{NOW, cluster, json_merge, owner, patches};

fn budget(spec: Value, status: Value) -> Value {
    let mut budget = json!({
        "metadata": {"name": "web", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": status,
    });
    json_merge(&mut budget["spec"], spec);
    budget
}

fn pod(name: &str, ready: bool, more: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": "web"}, "ownerReferences": owner(&kinds::REPLICA_SET, "web-1")},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    json_merge(&mut pod, more);
    pod
}

fn told(budget: Value, pods: Vec<Value>) -> (Value, Plan) {
    let set = json!({
        "metadata": {"name": "web-1", "ownerReferences": owner(&kinds::DEPLOYMENT, "web")},
        "spec": {"replicas": 2},
    });
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 4}});
    let mut objects = vec![
        (&kinds::POD_DISRUPTION_BUDGET, budget),
        (&kinds::REPLICA_SET, set),
        (&kinds::DEPLOYMENT, deployment),
    ];
    objects.extend(pods.into_iter().map(|pod| (&kinds::POD, pod)));
    let plan = DisruptionController.reconcile(&cluster(objects), &Key::new("ns", "web"));
    let status = patches(&plan).first().map(|(_, patch)| patch["status"].clone());
    (status.unwrap_or_default(), plan)
}

/// (spec, ready Pods of three, healthy ones wanted, expected ones, disruptions allowed)
#[test]
fn shares_are_of_what_is_declared() {
    for (spec, ready, desired, expected, allowed) in [
        (json!({"minAvailable": 2}), 3, 2, 3, 1),
        (json!({"minAvailable": 2}), 1, 2, 3, 0),
        (json!({"minAvailable": "50%"}), 3, 2, 4, 1),
        (json!({"maxUnavailable": 1}), 3, 3, 4, 0),
        (json!({"maxUnavailable": "30%"}), 3, 2, 4, 1),
        (json!({}), 3, 0, 0, 0),
    ] {
        let pods = (0..3).map(|i| pod(&format!("p{i}"), i < ready, json!({}))).collect();
        let (status, _) = told(budget(spec.clone(), json!({})), pods);
        let found = ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"]
            .map(|f| status[f].as_i64());
        assert_eq!(found, [ready, desired, expected, allowed].map(Some), "{spec}");
        let condition = &status["conditions"][0];
        assert_eq!(condition["status"], if allowed > 0 { "True" } else { "False" }, "{spec}");
    }
}

#[test]
fn who_was_let_go_is_no_longer_counted() {
    let status = json!({"disruptedPods": {"p0": NOW, "p1": "2029-12-31T23:00:00Z", "gone": NOW}});
    let going = json!({"metadata": {"deletionTimestamp": NOW}});
    let pods = vec![pod("p0", true, json!({})), pod("p1", true, json!({})), pod("p2", true, going)];
    let (status, plan) = told(budget(json!({"minAvailable": 1}), status), pods);
    assert_eq!((&status["currentHealthy"], &status["disruptionsAllowed"]), (&json!(1), &json!(0)));
    assert_eq!(status["disruptedPods"], json!({"p0": NOW, "p1": null, "gone": null}));
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(120)));
    assert_eq!(plan.events[0].reason, "NotDeleted");
}

#[test]
fn what_cannot_be_counted_allows_nothing() {
    let of_job = json!({"metadata": {"ownerReferences": owner(&kinds::JOB, "j")}});
    let (status, _) = told(
        budget(json!({"maxUnavailable": 1}), json!({"disruptionsAllowed": 3})),
        vec![pod("a", true, of_job)],
    );
    assert_eq!(
        (&status["disruptionsAllowed"], &status["conditions"][0]["reason"]),
        (&json!(0), &json!("SyncFailed"))
    );
    let stray = json!({"metadata": {"ownerReferences": []}});
    let (_, plan) =
        told(budget(json!({"maxUnavailable": 1}), json!({})), vec![pod("a", true, stray)]);
    assert_eq!(plan.events[0].reason, "UnmanagedPods");
}

#[test]
fn an_announcement_that_nothing_came_of_is_taken_back() {
    for (reason, since, taken_back) in [
        ("EvictionByEvictionAPI", "2029-12-31T23:57:00Z", true),
        ("EvictionByEvictionAPI", "2029-12-31T23:59:00Z", false),
        ("TerminationByKubelet", "2029-12-31T23:57:00Z", false),
    ] {
        let told = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": since}]}});
        let world = cluster([(&kinds::POD, pod("a", true, told))]);
        let object = world.get(&kinds::POD, "ns", "a").expect("it");
        let keys = DisruptionController.wakes(&world, object);
        let plan = keys.first().map(|key| DisruptionController.reconcile(&world, key));
        let patched = plan.is_some_and(|plan| !plan.writes.is_empty());
        assert_eq!(patched, taken_back, "{reason} {since}");
    }
}

/// Pods of custom kinds are counted by what those declare, if they have `/scale`.
#[test]
fn custom_kinds_say_how_many_pods_there_should_be() {
    let told = |kind: &str| {
        let mut objects = crate::tests::fleet(4).to_vec();
        let mut owner = json!([{"apiVersion": "example.com/v1", "kind": kind, "name": "web", "uid": "uid-web", "controller": true}]);
        owner[0]["kind"] = kind.into();
        objects
            .push((&kinds::POD_DISRUPTION_BUDGET, budget(json!({"maxUnavailable": 2}), json!({}))));
        for name in ["a", "b", "c"] {
            let mut pod = pod(name, true, json!({}));
            pod["metadata"]["ownerReferences"] = owner.clone();
            objects.push((&kinds::POD, pod));
        }
        let plan = DisruptionController.reconcile(&cluster(objects), &Key::new("ns", "web"));
        let status = patches(&plan)[0].1["status"].clone();
        (status["expectedPods"].as_i64(), status["disruptionsAllowed"].as_i64(), plan)
    };
    let (expected, allowed, _) = told("Fleet");
    assert_eq!((expected, allowed), (Some(4), Some(1)));
    let (_, allowed, plan) = told("Boat");
    assert_eq!(allowed, Some(0));
    let why = "Failed to calculate the number of expected pods: Boat web does not implement the scale subresource";
    assert_eq!(plan.events[0].message, why);
}
