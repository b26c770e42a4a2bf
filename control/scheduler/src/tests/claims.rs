//! Pods with PersistentVolumeClaims.

use super::*;
use crate::VolumeChoice;

fn using(claims: &[&str]) -> Value {
    let volume =
        |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
    json!({"volumes": claims.iter().map(volume).collect::<Vec<_>>()})
}

fn claim(name: &str, more: Value) -> Arc<Object> {
    let mut value = json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    merge(&mut value, &more);
    object(&kinds::PERSISTENT_VOLUME_CLAIM, value)
}

fn bound_to(volume: &str) -> Value {
    json!({
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": volume},
        "status": {"phase": "Bound"},
    })
}

/// A volume on one node.
fn volume(name: &str, node: &str, size: &str, more: Value) -> Arc<Object> {
    let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
    let mut value = json!({
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "storageClassName": "local",
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
        },
        "status": {"phase": "Available"},
    });
    merge(&mut value, &more);
    object(&kinds::PERSISTENT_VOLUME, value)
}

fn waiting_class() -> Arc<Object> {
    object(
        &kinds::STORAGE_CLASS,
        json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}),
    )
}

fn of_class() -> Value {
    json!({"spec": {"storageClassName": "local"}})
}

/// `a → n1 data=v1`, or what a Pod that waits is told.
fn decide(scheduler: &mut Scheduler) -> Vec<String> {
    let decisions = scheduler.schedule(now(), 100);
    let tell = |decision: &crate::Decision| match &decision.outcome {
        Outcome::Bind(node) => {
            let given = |choice: &VolumeChoice| format!(" {}={}", choice.claim, choice.volume);
            let given: String = decision.volumes.iter().map(given).collect();
            format!("{} → {node}{given}", decision.pod.meta.name)
        }
        Outcome::Unschedulable(told) => told.message.clone(),
    };
    decisions.iter().map(tell).collect()
}

fn with(objects: &[Arc<Object>]) -> Scheduler {
    let mut scheduler = Scheduler::new();
    objects.iter().for_each(|object| add(&mut scheduler, object));
    scheduler
}

#[test]
fn a_pod_waits_for_its_claims() {
    const TAIL: &str =
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let mut scheduler = with(&[node("n1", json!({})), pod("a", using(&["data"]))]);
    let missing = "persistentvolumeclaim \"data\" not found";
    assert_eq!(decide(&mut scheduler), [format!("0/1 nodes are available: {missing}. {TAIL}")]);
    add(&mut scheduler, &claim("data", json!({})));
    let unbound = "pod has unbound immediate PersistentVolumeClaims";
    assert_eq!(decide(&mut scheduler), [format!("0/1 nodes are available: {unbound}. {TAIL}")]);
    // Told once.
    add(&mut scheduler, &claim("data", json!({"metadata": {"labels": {"some": "label"}}})));
    assert_eq!(decide(&mut scheduler), Vec::<String>::new());
    add(&mut scheduler, &volume("v", "n1", "1Gi", json!({})));
    add(&mut scheduler, &claim("data", bound_to("v")));
    assert_eq!(decide(&mut scheduler), ["a → n1"]);
}

#[test]
fn a_pod_goes_where_its_volume_is() {
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, json!({})));
    let mut objects = nodes.to_vec();
    objects.push(volume("v", "n2", "1Gi", json!({})));
    objects.push(claim("data", bound_to("v")));
    let mut scheduler = with(&objects);
    add(&mut scheduler, &pod("a", using(&["data"])));
    assert_eq!(decide(&mut scheduler), ["a → n2"]);
    add(&mut scheduler, &volume("w", "gone", "1Gi", json!({})));
    add(&mut scheduler, &claim("lost", bound_to("w")));
    add(&mut scheduler, &pod("b", using(&["lost"])));
    let [told] = &decide(&mut scheduler)[..] else { panic!("one is told") };
    let why = "0/3 nodes are available: 3 node(s) didn't match PersistentVolume's node affinity.";
    assert!(told.starts_with(why), "{told}");
}

#[test]
fn claims_that_wait_get_volumes_with_the_node() {
    let mut scheduler = with(&[
        waiting_class(),
        node("n1", json!({})),
        node("n2", json!({})),
        volume("small", "n1", "512Mi", json!({})),
        volume("large", "n2", "8Gi", json!({})),
        volume("right", "n2", "1Gi", json!({})),
        claim("data", of_class()),
        claim("more", of_class()),
    ]);
    // Only there are two of them, and the smaller one is enough for one.
    add(&mut scheduler, &pod("a", using(&["data"])));
    assert_eq!(decide(&mut scheduler), ["a → n2 data=right"]);
    add(&mut scheduler, &pod("b", using(&["more"])));
    assert_eq!(decide(&mut scheduler), ["b → n2 more=large"]);
    add(&mut scheduler, &claim("third", of_class()));
    add(&mut scheduler, &pod("c", using(&["third"])));
    let [told] = &decide(&mut scheduler)[..] else { panic!("one is told") };
    assert!(told.contains("2 node(s) didn't find available persistent volumes to bind"), "{told}");
    // A binding that failed gives its volume back.
    scheduler.forget(&pod("b", using(&["more"])));
    let told = decide(&mut scheduler).concat();
    assert!(told.contains("=large"), "{told}");
    // One more volume is enough for who is left.
    add(&mut scheduler, &volume("new", "n1", "1Gi", json!({})));
    let later = now() + SignedDuration::from_secs(60);
    let decisions = scheduler.schedule(later, 10);
    assert_eq!(decisions.len(), 1, "{decisions:?}");
    assert_eq!(decisions[0].volumes[0].volume, "new");
}

#[test]
fn one_pod_has_two_volumes_and_one_that_is_kept_for_its_claim() {
    let kept = json!({"spec": {"claimRef": {"namespace": "ns", "name": "data"}}});
    let mut scheduler = with(&[
        waiting_class(),
        node("n1", json!({})),
        volume("plain", "n1", "1Gi", json!({})),
        volume("kept", "n1", "9Gi", kept),
        volume(
            "other",
            "n1",
            "1Gi",
            json!({"spec": {"claimRef": {"namespace": "ns", "name": "x"}}}),
        ),
        claim("data", of_class()),
        claim("more", of_class()),
        pod("a", using(&["data", "more"])),
    ]);
    let [told] = &decide(&mut scheduler)[..] else { panic!("one Pod") };
    assert!(told.contains("data=kept") && told.contains("more=plain"), "{told}");
}

#[test]
fn a_claim_for_one_pod_is_for_one() {
    let alone = json!({"spec": {"accessModes": ["ReadWriteOncePod"]}});
    let mut of_one = claim("data", bound_to("v")).value();
    merge(&mut of_one, &alone);
    let mut scheduler = with(&[
        node("n1", json!({})),
        volume("v", "n1", "1Gi", json!({})),
        object(&kinds::PERSISTENT_VOLUME_CLAIM, of_one),
        pod("a", using(&["data"])),
    ]);
    assert_eq!(decide(&mut scheduler), ["a → n1"]);
    let first = bound(&pod("a", using(&["data"])), "n1");
    add(&mut scheduler, &first);
    add(&mut scheduler, &pod("b", using(&["data"])));
    let [told] = &decide(&mut scheduler)[..] else { panic!("one is told") };
    let why = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    assert!(told.contains(why), "{told}");
    let gone = Change { revision: 2, old: Some(first), new: None };
    scheduler.observe(&gone);
    let decisions = scheduler.schedule(now() + SignedDuration::from_secs(60), 10);
    assert!(matches!(&decisions[0].outcome, Outcome::Bind(node) if node == "n1"), "{decisions:?}");
}
