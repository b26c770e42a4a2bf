//! Nodes that fall silent, and what becomes of their Pods.

use super::*;

fn node(name: &str, ready: &str, taints: Value) -> (&'static Kind, Value) {
    let value = json!({
        "metadata": {"name": name},
        "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    });
    (&kinds::NODE, value)
}

fn lease(name: &str, renewed: &str) -> (&'static Kind, Value) {
    let meta = json!({"name": name, "namespace": "kube-node-lease"});
    (&kinds::LEASE, json!({"metadata": meta, "spec": {"renewTime": renewed}}))
}

/// `seconds` after [`NOW`], which is when the view began.
fn later(mut cluster: Cluster, seconds: i64) -> Cluster {
    cluster.now += jiff::SignedDuration::from_secs(seconds);
    cluster
}

#[test]
fn silence() {
    let plan = |seconds, renewed| {
        let world = cluster([node("n", "True", json!([])), lease("n", renewed)]);
        NodeLifecycle::default().reconcile(&later(world, seconds), &Key::new("", "n"))
    };
    // Whatever the Lease says, the view is too young to judge.
    let early = plan(9, "2029-12-31T00:00:00Z");
    assert_eq!(
        (early.writes.len(), early.requeue_after),
        (0, Some(std::time::Duration::from_secs(1)))
    );
    assert!(plan(60, "2030-01-01T00:00:55Z").writes.is_empty());

    let late = plan(60, "2030-01-01T00:00:10Z");
    let [("n", status)] = patches(&late)[..] else { panic!("{late:?}") };
    let conditions = status["status"]["conditions"].as_array().expect("conditions");
    assert_eq!(conditions.len(), 4);
    assert!(conditions.iter().all(|c| c["status"] == "Unknown"));
    assert_eq!(conditions[0]["reason"], "NodeStatusUnknown");
    assert_eq!(late.events[0].reason, "NodeNotReady");

    // Among very many nodes, each speaks less often and says how long that will do.
    let mut patient = lease("n", "2030-01-01T00:00:10Z");
    patient.1["spec"]["leaseDurationSeconds"] = json!(50);
    for (seconds, lost) in [(59, false), (60, true)] {
        let world = later(cluster([node("n", "True", json!([])), patient.clone()]), seconds);
        let plan = NodeLifecycle::default().reconcile(&world, &Key::new("", "n"));
        assert_eq!(!plan.writes.is_empty(), lost, "after {seconds} s");
    }
}

/// As Kubernetes' documentation has it of resources that are added by hand, to the capacity alone.
#[test]
fn extended_resources_are_allocatable() {
    let told = |capacity: Value, allocatable: Value| {
        let (kind, mut node) = node("n", "True", json!([]));
        node["status"]["capacity"] = capacity;
        node["status"]["allocatable"] = allocatable;
        let world = cluster([(kind, node), lease("n", NOW)]);
        let plan = NodeLifecycle::default().reconcile(&world, &Key::new("", "n"));
        patches(&plan).first().map(|(_, patch)| patch["status"]["allocatable"].clone())
    };
    let both = json!({"cpu": "4", "example.com/foo": "5"});
    assert_eq!(told(both.clone(), json!({"cpu": "3"})), Some(json!({"example.com/foo": "5"})));
    assert_eq!(told(both.clone(), both.clone()), None);
    // Some of them may be out of order.
    assert_eq!(told(both.clone(), json!({"cpu": "3", "example.com/foo": "2"})), None);
    assert_eq!(told(json!({"cpu": "4"}), both), Some(json!({"example.com/foo": null})));
}

#[test]
fn taints_follow_conditions() {
    let mine = json!({"key": "team", "value": "x", "effect": "NoExecute"});
    let no_schedule =
        json!({"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule", "timeAdded": NOW});
    let no_execute =
        json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": NOW});
    for (ready, other, before, expected) in [
        ("Unknown", "True", json!([mine]), json!([mine, no_schedule, no_execute])),
        // All are silent: more likely nobody can be heard. Nothing is driven away.
        ("Unknown", "Unknown", json!([mine, no_execute]), json!([mine, no_schedule])),
        ("True", "True", json!([no_schedule, mine, no_execute]), json!([mine])),
    ] {
        let world = cluster([node("n", ready, before), node("m", other, json!([]))]);
        let plan = NodeLifecycle::default().reconcile(&world, &Key::new("", "n"));
        let (_, patch) = patches(&plan)[0];
        assert_eq!(patch["spec"]["taints"], expected, "{ready}, the other {other}");
    }
}

/// Nodes `name zone state`: `R`eady, `L`ost, or when they were given the taint that drives Pods away. Who gets it now, and
/// who looks again after how many seconds?
#[test]
fn lost_nodes_are_left_one_after_the_other() {
    let world = |nodes: &[&str]| {
        cluster(nodes.iter().map(|text| {
            let words: Vec<_> = text.split_whitespace().collect();
            let taints = match words[2] {
                "R" | "L" => json!([]),
                at => json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": at}]),
            };
            let (kind, mut value) = node(words[0], if words[2] == "R" { "True" } else { "Unknown" }, taints);
            value["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": words[1]});
            (kind, value)
        }))
    };
    let many: Vec<String> =
        (0..60).map(|i| format!("n{i:02} z {}", if i < 40 { "L" } else { "R" })).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (what, nodes, key, expected) in [
        ("the first", &["a z L", "b z R", "c z R"][..], "a", Some(0)),
        ("one after the other", &["a z L", "b z L", "c z R", "d z R", "e z R"], "b", Some(10)),
        (
            "the next one soon after",
            &["a z 2029-12-31T23:59:55Z", "b z L", "c z R", "d z R", "e z R"],
            "b",
            Some(10),
        ),
        (
            "the next one ten seconds after",
            &["a z 2029-12-31T23:59:50Z", "b z L", "c z R", "d z R", "e z R"],
            "b",
            Some(0),
        ),
        (
            "each zone by itself",
            &["a y L", "b z L", "c y R", "d z R", "e z R", "f z R"],
            "b",
            Some(0),
        ),
        ("most of a small zone", &["a z L", "b z L", "c z L", "d z R", "e y R"], "a", None),
        ("a whole zone, others are there", &["a z L", "b z L", "c z L", "e y R"], "a", Some(0)),
        ("two of three are few", &["a z L", "b z L", "c z R"], "a", Some(0)),
        ("everything", &["a z L", "b y L"], "a", None),
        (
            "what was begun goes on",
            &["a z 2029-12-31T23:59:50Z", "b z L", "c z L", "d z R"],
            "a",
            Some(0),
        ),
        ("most of a large zone", &many, "n00", Some(0)),
        ("the next of a large zone", &many, "n01", Some(10)),
    ] {
        let plan = NodeLifecycle::default().reconcile(&world(nodes), &Key::new("", key));
        let patch = patches(&plan).into_iter().find(|(name, _)| *name == key);
        let taints =
            patch.map(|(_, patch)| patch["spec"]["taints"].to_string()).unwrap_or_default();
        assert_eq!(taints.contains("NoExecute"), expected == Some(0), "{what}: {plan:?}");
        if let Some(seconds @ 1..) = expected {
            assert_eq!(plan.requeue_after, Some(std::time::Duration::from_secs(seconds)), "{what}");
        }
    }
    // Many at a time, where that is asked for.
    let fast =
        NodeLifecycle { eviction_rate: 2.0, unhealthy_zone: 2.0, ..NodeLifecycle::default() };
    for (key, now) in [("n00", true), ("n01", true), ("n02", false)] {
        let plan = fast.reconcile(&world(&many), &Key::new("", key));
        let patch = patches(&plan)[0].1["spec"]["taints"].to_string();
        assert_eq!(patch.contains("NoExecute"), now, "{key}: {patch}");
    }
}

/// A machine that is off for good: what was told to end there has ended.
#[test]
fn nodes_out_of_service() {
    let taint = json!([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]);
    let deleting = json!({"metadata": {"deletionTimestamp": NOW}});
    for (ready, taints, more, gone) in [
        ("Unknown", taint.clone(), deleting.clone(), true),
        ("Unknown", taint.clone(), json!({}), false),
        ("True", taint.clone(), deleting.clone(), false),
        ("Unknown", json!([]), deleting, false),
    ] {
        let pod = (&kinds::POD, pod("p", "n", "Running", true, more));
        let world = cluster([node("n", ready, taints), pod]);
        let collector = PodCollector::default();
        let seen = world.get(&kinds::POD, "ns", "p").expect("the Pod");
        let woken = collector.wakes(&world, seen);
        let plan = collector.reconcile(&world, &Key::new("", "n"));
        let deleted =
            plan.writes.iter().any(|w| matches!(w, Write::Delete { grace_seconds: Some(0), .. }));
        assert_eq!((deleted, woken.len()), (gone, usize::from(gone)), "{ready}: {plan:?}");
    }
}

#[test]
fn pods_of_a_silent_node_are_not_ready() {
    let world = cluster([
        node("n", "Unknown", json!([])),
        (&kinds::POD, pod("up", "n", "Running", true, json!({}))),
        (&kinds::POD, pod("down", "n", "Running", false, json!({}))),
    ]);
    let plan = NodeLifecycle::default().reconcile(&world, &Key::new("", "n"));
    let marked: Vec<_> = patches(&plan).into_iter().filter(|(name, _)| *name != "n").collect();
    let [("up", patch)] = marked[..] else { panic!("{plan:?}") };
    assert_eq!(patch["status"]["conditions"][0]["status"], "False");
}

#[test]
fn eviction() {
    let tolerating = |seconds: Value| {
        let toleration = json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        json!({"spec": {"tolerations": toleration}})
    };
    let taint = json!([{"key": "k", "effect": "NoExecute", "timeAdded": NOW}]);
    for (more, seconds, goes, again) in [
        (json!({}), 0, true, None),
        (tolerating(json!(30)), 10, false, Some(20)),
        (tolerating(json!(30)), 30, true, None),
        (tolerating(Value::Null), 1000, false, None),
    ] {
        let pod = (&kinds::POD, pod("p", "n", "Running", true, more.clone()));
        let world = later(cluster([node("n", "True", taint.clone()), pod]), seconds);
        let plan = TaintEviction.reconcile(&world, &Key::new("", "n"));
        let deleted = plan.writes.iter().any(|w| matches!(w, Write::Delete { .. }));
        let expected = (goes, again.map(std::time::Duration::from_secs));
        assert_eq!((deleted, plan.requeue_after), expected, "{more} after {seconds} s");
    }
    // A taint made by hand: its time begins now.
    let world = cluster([node("n", "True", json!([{"key": "k", "effect": "NoExecute"}]))]);
    let plan = TaintEviction.reconcile(&world, &Key::new("", "n"));
    assert_eq!(patches(&plan)[0].1["spec"]["taints"][0]["timeAdded"], NOW);
}

#[test]
fn pods_without_a_node() {
    let key = Key::new("", "n");
    let collector = PodCollector::default();
    let world = cluster([(&kinds::POD, pod("p", "n", "Running", true, json!({})))]);
    let plan = collector.reconcile(&world, &key);
    let (_, mark) = patches(&plan)[0];
    assert_eq!(plan.requeue_after, Some(collector.quarantine));

    let marked = || (&kinds::POD, pod("p", "n", "Running", true, mark.clone()));
    for (seconds, nodes, writes) in [(39, false, 0), (40, false, 2), (40, true, 0)] {
        let node = nodes.then(|| node("n", "True", json!([])));
        let world = later(cluster([marked()].into_iter().chain(node)), seconds);
        let plan = collector.reconcile(&world, &key);
        assert_eq!(plan.writes.len(), writes, "after {seconds} s, node {nodes}");
    }
}

#[test]
fn only_so_many_ended_pods_are_kept() {
    let ended = |i: i32| {
        let created = json!({"metadata": {"creationTimestamp": format!("2029-01-01T00:00:0{i}Z")}});
        (&kinds::POD, pod(&format!("p{i}"), "n", "Succeeded", false, created))
    };
    let world = cluster(
        (0..5).rev().map(ended).chain([(&kinds::POD, pod("run", "n", "Running", true, json!({})))]),
    );
    let collector = PodCollector { ended_limit: 3, ..PodCollector::default() };
    let plan = collector.reconcile(&world, &Key::new("", "|ended"));
    let names: Vec<_> = plan
        .writes
        .iter()
        .map(|write| match write {
            Write::Delete { name, grace_seconds: Some(0), .. } => name.as_str(),
            _ => panic!("{write:?}"),
        })
        .collect();
    assert_eq!(names, ["p0", "p1"]);
}
