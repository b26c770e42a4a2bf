mod claims;
mod preemption;
mod relations;

use std::sync::Arc;
use std::time::Instant;

use coracle_api::{Change, Kind, Object, kinds};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{Outcome, Scheduler};

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().expect("a time")
}

fn object(kind: &'static Kind, mut value: Value) -> Arc<Object> {
    let name = value["metadata"]["name"].clone();
    if value["metadata"]["uid"].is_null() {
        value["metadata"]["uid"] = name;
    }
    if kind.namespaced {
        value["metadata"]["namespace"] = json!("ns");
    }
    Arc::new(Object::from_value(kind, &value).expect("an object"))
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// A node with 4 CPUs, 8Gi and room for 10 Pods.
fn node(name: &str, more: Value) -> Arc<Object> {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    merge(&mut value, &more);
    object(&kinds::NODE, value)
}

fn pod(name: &str, spec: Value) -> Arc<Object> {
    let mut value = json!({
        "metadata": {"name": name, "creationTimestamp": "2029-01-01T00:00:00Z", "generation": 1},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut value["spec"], &spec);
    object(&kinds::POD, value)
}

fn asking(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
}

fn owned(name: &str, owner: &str, spec: Value) -> Arc<Object> {
    let mut value = pod(name, spec).value();
    value["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true,
    }]);
    object(&kinds::POD, value)
}

fn bound(pod: &Object, node: &str) -> Arc<Object> {
    let mut value = pod.value();
    value["spec"]["nodeName"] = json!(node);
    object(&kinds::POD, value)
}

fn add(scheduler: &mut Scheduler, object: &Arc<Object>) {
    scheduler.observe(&Change { revision: 1, old: None, new: Some(object.clone()) });
}

fn update(scheduler: &mut Scheduler, old: &Arc<Object>, new: Option<&Arc<Object>>) {
    scheduler.observe(&Change { revision: 1, old: Some(old.clone()), new: new.cloned() });
}

/// What is decided, as `pod → node` or `pod: message`.
fn decide(scheduler: &mut Scheduler, at: Timestamp) -> Vec<String> {
    scheduler
        .schedule(at, 1000)
        .into_iter()
        .map(|decision| match decision.outcome {
            Outcome::Bind(node) => format!("{} → {node}", decision.pod.meta.name),
            Outcome::Unschedulable(told) => {
                let mut text = format!("{}: {}", decision.pod.meta.name, told.message);
                if let Some(node) = told.nominated {
                    let mut victims: Vec<_> =
                        told.victims.iter().map(|pod| pod.meta.name.as_str()).collect();
                    victims.sort();
                    text += &format!(" → {node} without {}", victims.join(", "));
                }
                text
            }
        })
        .collect()
}

/// Schedules `pod` onto `nodes`, on which `others` run already.
fn check(nodes: &[Arc<Object>], others: &[Arc<Object>], pod: &Arc<Object>, expected: &str) {
    let mut scheduler = Scheduler::new();
    for object in others.iter().chain(nodes) {
        add(&mut scheduler, object);
    }
    add(&mut scheduler, pod);
    assert_eq!(decide(&mut scheduler, now()), [expected]);
}

#[test]
fn filters() {
    let plain = |name: &str| node(name, json!({}));
    let labelled = node("b", json!({"metadata": {"labels": {"disk": "ssd", "cores": "8"}}}));
    let tainted = |effect: &str| {
        node("b", json!({"spec": {"taints": [{"key": "team", "value": "x", "effect": effect}]}}))
    };
    let required = |expression: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [expression]}],
        }}}})
    };
    let nodes = [plain("a"), labelled.clone()];
    for (spec, expected) in [
        (json!({"nodeSelector": {"disk": "ssd"}}), "p → b"),
        (required(json!({"key": "cores", "operator": "Gt", "values": ["4"]})), "p → b"),
        (required(json!({"key": "disk", "operator": "DoesNotExist"})), "p → a"),
        (required(json!({"key": "disk", "operator": "NotIn", "values": ["ssd", "nvme"]})), "p → a"),
        (
            json!({"nodeSelector": {"disk": "tape"}}),
            "p: 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["z"]}]}],
            }}}}),
            "p: 0/2 nodes are available: 2 node(s) didn't match the requested node name. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        ),
    ] {
        check(&nodes, &[], &pod("p", spec), expected);
    }

    let cordoned = node("b", json!({"spec": {"unschedulable": true}}));
    let silent = node("b", json!({"status": {"conditions": []}}));
    let full = pod("q", asking(json!({"cpu": "3500m"})));
    for (nodes, spec, expected) in [
        (vec![], json!({}), "p: no nodes available to schedule pods"),
        (
            vec![
                plain("a"),
                tainted("NoExecute"),
                node(
                    "c",
                    json!({"spec": {"taints": [{"key": "team", "value": "x", "effect": "NoSchedule"}]}}),
                ),
            ],
            asking(json!({"cpu": "5", "memory": "1Gi"})),
            "p: 0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {team: x}. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        ),
        (
            vec![plain("a"), cordoned.clone()],
            asking(json!({"cpu": "1"})),
            "p: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
        ),
        (
            vec![plain("a")],
            json!({"preemptionPolicy": "Never", "containers": [{"resources": {"requests": {"cpu": "1"}}}]}),
            "p: 0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
        ),
        (
            vec![silent],
            json!({}),
            "p: 0/1 nodes are available: 1 node(s) were not ready. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            vec![plain("a")],
            asking(json!({"example.com/gpu": "2", "memory": "9Gi"})),
            "p: 0/1 nodes are available: 1 Insufficient example.com/gpu, 1 Insufficient memory. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            vec![
                plain("a"),
                node("b", json!({"status": {"allocatable": {"example.com/gpu": "2"}}})),
            ],
            asking(json!({"example.com/gpu": "2"})),
            "p → b",
        ),
        // Added to the capacity by hand, as upstream's conformance tests do it.
        (
            vec![
                plain("a"),
                node("b", json!({"status": {"capacity": {"example.com/fake": "2", "cpu": "64"}}})),
            ],
            asking(json!({"example.com/fake": "2"})),
            "p → b",
        ),
        (
            vec![node("a", json!({"status": {"allocatable": {"pods": "1"}}}))],
            json!({}),
            "p: 0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            vec![tainted("NoSchedule")],
            json!({"tolerations": [{"key": "team", "operator": "Exists"}]}),
            "p → b",
        ),
        (
            vec![tainted("NoSchedule")],
            json!({"tolerations": [{"key": "team", "value": "x", "effect": "NoSchedule"}]}),
            "p → b",
        ),
        (vec![cordoned], json!({"tolerations": [{"operator": "Exists"}]}), "p → b"),
        // The greater of what starts and what runs, and what the runtime takes.
        (
            vec![plain("b")],
            json!({
                "initContainers": [
                    {"resources": {"requests": {"cpu": "1"}}, "restartPolicy": "Always"},
                    {"resources": {"requests": {"cpu": "2"}}},
                ],
                "containers": [{"resources": {"requests": {"cpu": "1"}}}],
                "overhead": {"cpu": "1001m"},
            }),
            "p: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
    ] {
        check(&nodes, &[bound(&full, "a")], &pod("p", spec), expected);
    }

    let port = |ip: &str| json!({"containers": [{"ports": [{"hostPort": 80, "hostIP": ip, "protocol": "TCP"}]}]});
    let taken = bound(&pod("q", port("10.0.0.1")), "a");
    for (ip, expected) in [
        ("10.0.0.2", "p → a"),
        (
            "",
            "p: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
    ] {
        check(&[plain("a")], std::slice::from_ref(&taken), &pod("p", port(ip)), expected);
    }
}

#[test]
fn scores() {
    let plain = |name: &str| node(name, json!({}));
    let two = [plain("a"), plain("b")];
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}},
        {"weight": 5, "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}},
    ]}}});
    let used = bound(&pod("q", asking(json!({"cpu": "2", "memory": "4Gi"}))), "a");
    let sibling = bound(&owned("q", "set", json!({})), "a");
    let disliked = node(
        "a",
        json!({"spec": {"taints": [{"key": "k", "value": "", "effect": "PreferNoSchedule"}]}}),
    );
    let cached =
        node("b", json!({"status": {"images": [{"names": ["web:1"], "sizeBytes": 900 << 20}]}}));
    check(&two, &[], &pod("p", preferred), "p → b");
    check(&two, &[used], &pod("p", json!({})), "p → b");
    check(&two, &[sibling], &owned("p", "set", json!({})), "p → b");
    check(&[disliked, plain("b")], &[], &pod("p", json!({})), "p → b");
    check(
        &[plain("a"), cached],
        &[],
        &pod("p", json!({"containers": [{"image": "web:1"}]})),
        "p → b",
    );
}

#[test]
fn priority_then_age() {
    let mut scheduler = Scheduler::new();
    add(&mut scheduler, &node("a", json!({})));
    let young = {
        let mut value = pod("young", json!({})).value();
        value["metadata"]["creationTimestamp"] = json!("2029-06-01T00:00:00Z");
        object(&kinds::POD, value)
    };
    for pod in [young, pod("old", json!({})), pod("urgent", json!({"priority": 1000}))] {
        add(&mut scheduler, &pod);
    }
    assert_eq!(decide(&mut scheduler, now()), ["urgent → a", "old → a", "young → a"]);
    assert_eq!(scheduler.wake_at(), None);
}

#[test]
fn not_ours() {
    let mut scheduler = Scheduler::new();
    add(&mut scheduler, &node("a", json!({})));
    let gated = pod("gated", json!({"schedulingGates": [{"name": "wait"}]}));
    let going = {
        let mut value = pod("going", json!({})).value();
        value["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        object(&kinds::POD, value)
    };
    for pod in [&gated, &going, &pod("other", json!({"schedulerName": "mine"}))] {
        add(&mut scheduler, pod);
    }
    assert!(decide(&mut scheduler, now()).is_empty());
    let open = pod("gated", json!({"schedulingGates": []}));
    update(&mut scheduler, &gated, Some(&open));
    assert_eq!(decide(&mut scheduler, now()), ["gated → a"]);
}

#[test]
fn decisions_see_each_other_and_can_be_taken_back() {
    let mut scheduler = Scheduler::new();
    add(&mut scheduler, &node("a", json!({})));
    let big = |name: &str| pod(name, asking(json!({"cpu": "3"})));
    let (p, q) = (big("p"), big("q"));
    add(&mut scheduler, &p);
    add(&mut scheduler, &q);
    let decided = decide(&mut scheduler, now());
    assert_eq!(decided[0], "p → a");
    assert!(
        decided[1].starts_with("q: 0/1 nodes are available: 1 Insufficient cpu."),
        "{decided:?}"
    );

    // The binding fails: both compete again, after their back-off.
    scheduler.forget(&p);
    assert!(decide(&mut scheduler, now()).is_empty());
    let at = scheduler.wake_at().expect("a time");
    let decided = decide(&mut scheduler, at);
    assert_eq!(decided[0], "p → a");
    // The same message is not told twice.
    assert_eq!(decided.len(), 1, "{decided:?}");

    // Seen bound, then it ends: the other has room.
    let running = bound(&p, "a");
    update(&mut scheduler, &p, Some(&running));
    let ended = {
        let mut value = running.value();
        value["status"]["phase"] = json!("Succeeded");
        object(&kinds::POD, value)
    };
    update(&mut scheduler, &running, Some(&ended));
    let later = now() + SignedDuration::from_secs(60);
    assert_eq!(decide(&mut scheduler, later), ["q → a"]);
}

#[test]
fn parked_pods_wake_for_nodes_that_fit() {
    let mut scheduler = Scheduler::new();
    let p = pod("p", json!({"nodeSelector": {"disk": "ssd"}}));
    add(&mut scheduler, &p);
    add(&mut scheduler, &node("a", json!({})));
    assert_eq!(decide(&mut scheduler, now()).len(), 1);
    add(&mut scheduler, &node("b", json!({})));
    assert_eq!(scheduler.wake_at(), None);
    add(&mut scheduler, &node("c", json!({"metadata": {"labels": {"disk": "ssd"}}})));
    let later = now() + SignedDuration::from_secs(60);
    assert_eq!(decide(&mut scheduler, later), ["p → c"]);

    // A node comes under Pods that name it already, and goes again.
    let stray = bound(&pod("stray", asking(json!({"cpu": "4"}))), "d");
    add(&mut scheduler, &stray);
    let d = node("d", json!({"metadata": {"labels": {"only": "d"}}}));
    add(&mut scheduler, &d);
    let q = pod(
        "q",
        json!({"nodeSelector": {"only": "d"}, "containers": [{"resources": {"requests": {"cpu": "1"}}}]}),
    );
    add(&mut scheduler, &q);
    assert!(decide(&mut scheduler, later)[0].contains("1 Insufficient cpu"));
    update(&mut scheduler, &d, None);
    update(&mut scheduler, &stray, None);
    add(&mut scheduler, &d);
    assert_eq!(decide(&mut scheduler, later + SignedDuration::from_secs(60)), ["q → d"]);
}

/// A thousand nodes, ten thousand Pods of twenty owners: all placed, evenly, and never more on a node than fit.
#[test]
fn many() {
    let mut scheduler = Scheduler::new();
    for i in 0..1000 {
        add(
            &mut scheduler,
            &node(&format!("n{i}"), json!({"status": {"allocatable": {"pods": "110"}}})),
        );
    }
    let pods: Vec<_> = (0..10_000)
        .map(|i| owned(&format!("p{i}"), &format!("set{}", i % 20), asking(json!({"cpu": "10m"}))))
        .collect();
    let start = Instant::now();
    for pod in &pods {
        add(&mut scheduler, pod);
    }
    let mut counts = std::collections::HashMap::new();
    while scheduler.wake_at().is_some() {
        for decision in scheduler.schedule(now(), 500) {
            let Outcome::Bind(node) = decision.outcome else { panic!("{:?}", decision.outcome) };
            *counts.entry(node).or_insert(0) += 1;
        }
    }
    let took = start.elapsed();
    assert_eq!(counts.values().sum::<i32>(), 10_000);
    // Optimised it takes a fifteenth of this.
    assert!(took.as_secs() < 10, "{took:?}");
    let (least, most) = (counts.values().min(), counts.values().max());
    assert!(most <= Some(&14) && least >= Some(&7), "{least:?} to {most:?} a node");
}

/// A Pod that asks for less than it still has keeps its room until that is given back; one that asks for what it cannot have does
/// not take it.
#[test]
fn a_pod_that_is_resized_takes_what_it_has() {
    let resizing = |asks: &str, has: &str, condition: Value| {
        let mut value = pod("q", asking(json!({"cpu": asks}))).value();
        value["metadata"]["generation"] = json!(2);
        value["spec"]["nodeName"] = json!("a");
        value["status"] = json!({"conditions": condition,
            "containerStatuses": [{"name": "c", "allocatedResources": {"cpu": has}}]});
        object(&kinds::POD, value)
    };
    let progress = json!([{"type": "PodResizeInProgress"}]);
    let mut scheduler = Scheduler::new();
    add(&mut scheduler, &node("a", json!({})));
    let before = bound(&pod("q", asking(json!({"cpu": "3"}))), "a");
    add(&mut scheduler, &before);
    let shrinking = resizing("1", "3", progress);
    update(&mut scheduler, &before, Some(&shrinking));
    add(&mut scheduler, &pod("p", asking(json!({"cpu": "2"}))));
    let full = "p: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(decide(&mut scheduler, now()), [full]);
    let shrunk = resizing("1", "1", json!([]));
    update(&mut scheduler, &shrinking, Some(&shrunk));
    let later = now() + SignedDuration::from_secs(60);
    assert_eq!(decide(&mut scheduler, later), ["p → a"]);

    let infeasible = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
    check(
        &[node("a", json!({}))],
        &[resizing("900", "1", infeasible)],
        &pod("p", asking(json!({"cpu": "3"}))),
        "p → a",
    );
}
