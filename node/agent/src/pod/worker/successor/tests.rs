use serde_json::{Value, json};

use super::*;

fn pod(metadata: Value, image: &str) -> Pod {
    let value = json!({
        "metadata": metadata,
        "spec": {"containers": [{"name": "c", "image": image}]},
    });
    serde_json::from_value(value).expect("a Pod")
}

fn template(metadata: Value, image: &str) -> PodTemplateSpec {
    let pod = pod(metadata, image);
    PodTemplateSpec { metadata: Some(pod.metadata), spec: pod.spec }
}

#[test]
fn pods_of_the_present_template_go_at_once() {
    let own = json!({"namespace": "shop", "labels": {"app": "web", "pod-template-hash": "1"}});
    let own = pod(own, "web:v1");
    let labels = || json!({"labels": {"app": "web"}});
    let restarted = json!({"labels": {"app": "web"}, "annotations": {"kubectl.kubernetes.io/restartedAt": "2026"}});
    for (next, expected) in [
        (template(labels(), "web:v1"), false),
        (template(labels(), "web:v2"), true),
        // The same name may mean another image by now.
        (template(restarted, "web:v1"), true),
        (template(json!({"labels": {"app": "web", "tier": "front"}}), "web:v1"), true),
    ] {
        assert_eq!(differs(&own, &next_pod(&own, &next)), expected, "{next:?}");
    }
    let next = next_pod(&own, &template(labels(), "web:v2"));
    assert_eq!(next.metadata.namespace.as_deref(), Some("shop"));
}

#[test]
fn a_pod_waits_no_longer_than_it_may() {
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
    for (deleted, grace, expected) in [
        // Asked this moment, with 30 seconds of grace.
        ("2026-01-01T00:01:30Z", 30, Some(60)),
        ("2026-01-01T00:01:20Z", 30, Some(50)),
        // An earlier agent waited long enough.
        ("2026-01-01T00:00:30Z", 30, None),
        ("2026-01-01T00:01:00Z", 0, None),
    ] {
        let metadata = json!({"deletionTimestamp": deleted, "deletionGracePeriodSeconds": grace});
        let left = patience(&pod(metadata, "web:v1"), now);
        assert_eq!(left, expected.map(Duration::from_secs), "{deleted}");
    }
    assert_eq!(patience(&pod(json!({}), "web:v1"), now), None);
}

#[test]
fn only_makers_that_replace_pods_are_asked() {
    let owned = |version: &str, kind: &str, controls: bool| {
        let owner = json!({"apiVersion": version, "kind": kind, "name": "web", "uid": "u", "controller": controls});
        maker(&pod(json!({"namespace": "shop", "ownerReferences": [owner]}), "web:v1"))
    };
    let known = ("shop".to_owned(), "ReplicaSet".to_owned(), "web".to_owned());
    assert_eq!(owned("apps/v1", "ReplicaSet", true), Some(known));
    assert_eq!(owned("apps/v1", "ReplicaSet", false), None);
    assert_eq!(owned("example.com/v1", "ReplicaSet", true), None);
    assert_eq!(maker(&pod(json!({"namespace": "shop"}), "web:v1")), None);
}
