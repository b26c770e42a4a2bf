//! What controllers that run in the server tell of Pods that cannot be made.

use super::*;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Asks for an object until it is as it should be.
async fn until(fixture: &Fixture, path: &str, is: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let found = fixture.get(path).await.body;
        if is(&found) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} is not as it should be: {}", fixture.get(path).await.body);
}

fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

async fn limited() -> Fixture {
    let fixture = Fixture::with(|config| config.scheduler = false).await;
    until(&fixture, "/api/v1/namespaces/default/serviceaccounts/default", |found| {
        found["kind"] == "ServiceAccount"
    })
    .await;
    let quota = json!({"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}});
    fixture.create(QUOTAS, quota).await;
    fixture
}

/// Upstream's "should surface a failure condition on a common issue like exceeded quota".
#[tokio::test]
async fn a_replication_controller_tells_that_a_quota_stops_it() {
    let fixture = limited().await;
    let spec = json!({
        "replicas": 3,
        "selector": {"name": "rc"},
        "template": {"metadata": {"labels": {"name": "rc"}}, "spec": pod("p")["spec"]},
    });
    fixture.create(CONTROLLERS, json!({"metadata": {"name": "rc"}, "spec": spec})).await;
    let path = format!("{CONTROLLERS}/rc");
    let failed = until(&fixture, &path, |found| condition(found, "ReplicaFailure").is_some()).await;
    let told = condition(&failed, "ReplicaFailure").expect("just seen");
    assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("FailedCreate")));
    let message = told["message"].as_str().unwrap_or_default();
    assert!(message.contains("exceeded quota: two"), "{message}");

    let fewer = json!({"spec": {"replicas": 2}});
    assert_eq!(fixture.merge(&path, fewer).await.code, 200);
    until(&fixture, &path, |found| condition(found, "ReplicaFailure").is_none()).await;
}

#[tokio::test]
async fn a_deployment_tells_what_stops_its_replica_set() {
    let fixture = limited().await;
    let spec = json!({
        "replicas": 3,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod("p")["spec"]},
    });
    fixture.create(DEPLOYMENTS, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let path = format!("{DEPLOYMENTS}/web");
    let failed = until(&fixture, &path, |found| condition(found, "ReplicaFailure").is_some()).await;
    let told = condition(&failed, "ReplicaFailure").expect("just seen");
    assert_eq!(told["reason"], "FailedCreate");
    // There is room: what was refused is tried again by itself, and nothing is told any more.
    let more = json!({"spec": {"hard": {"pods": "10"}}});
    assert_eq!(fixture.merge(&format!("{QUOTAS}/two"), more).await.code, 200);
    let path = format!("{DEPLOYMENTS}/web");
    until(&fixture, &path, |found| {
        found["status"]["replicas"] == 3 && condition(found, "ReplicaFailure").is_none()
    })
    .await;
}

/// Upstream's tests of status subresources note with an annotation who wrote the status.
#[tokio::test]
async fn who_writes_a_status_may_annotate() {
    let fixture = Fixture::new().await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod("p")["spec"]});
    let selective = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
    let plain = json!({"selector": {"app": "web"}, "template": template});
    const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
    for (path, spec, may_label) in
        [(DEPLOYMENTS, &selective, false), (SETS, &selective, true), (CONTROLLERS, &plain, true)]
    {
        let metadata = json!({"name": "web", "labels": {"of": "web"}});
        fixture.create(path, json!({"metadata": metadata, "spec": spec})).await;
        let patch = json!({
            "metadata": {"annotations": {"patchedstatus": "true"}, "labels": {"of": "status"}},
            "spec": {"replicas": 7},
            "status": {"readyReplicas": 1, "replicas": 1},
        });
        let patched = fixture.merge(&format!("{path}/web/status"), patch).await;
        assert_eq!(patched.code, 200, "{}", patched.body);
        let (meta, body) = (&patched.body["metadata"], &patched.body);
        assert_eq!(meta["annotations"]["patchedstatus"], "true", "{path}");
        assert_eq!(meta["labels"]["of"], if may_label { "status" } else { "web" }, "{path}");
        assert_eq!(
            (&body["spec"]["replicas"], &body["status"]["readyReplicas"]),
            (&json!(1), &json!(1))
        );
    }
}
