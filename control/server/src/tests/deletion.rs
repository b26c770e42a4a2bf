use serde_json::json;

use super::*;

#[tokio::test]
async fn a_pod_gets_its_grace_only_once_it_is_on_a_node() {
    let it = Fixture::new().await;
    it.create(PODS, pod("waits")).await;
    let gone = it.delete(&format!("{PODS}/waits")).await;
    assert_eq!((gone.code, &gone.body["kind"]), (200, &json!("Pod")));
    assert_eq!(it.get(&format!("{PODS}/waits")).await.code, 404);

    let path = &format!("{PODS}/runs");
    let mut runs = pod("runs");
    runs["spec"]["nodeName"] = "n".into();
    runs["spec"]["terminationGracePeriodSeconds"] = 40.into();
    it.create(PODS, runs).await;
    let ending = it.delete(path).await.body;
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 40);
    let longer = it.call("DELETE", path, "application/json", r#"{"gracePeriodSeconds":90}"#).await;
    assert_eq!(longer.body["metadata"]["deletionGracePeriodSeconds"], 40, "grace was lengthened");
    let shorter = it.delete(&format!("{path}?gracePeriodSeconds=5")).await;
    assert_eq!(shorter.body["metadata"]["deletionGracePeriodSeconds"], 5);
    it.delete(&format!("{path}?gracePeriodSeconds=0")).await;
    assert_eq!(it.get(path).await.code, 404);
}

#[tokio::test]
async fn an_evicted_pod_says_so() {
    let it = Fixture::new().await;
    let mut runs = pod("runs");
    runs["spec"]["nodeName"] = "n".into();
    let before = it.create(PODS, runs).await;
    let path = &format!("{PODS}/runs");
    let evict = async |options: serde_json::Value| {
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": "runs"}, "deleteOptions": options,
        });
        it.call("POST", &format!("{path}/eviction"), "application/json", body.to_string()).await
    };
    let other = evict(json!({"preconditions": {"resourceVersion": "1"}})).await;
    assert_eq!(other.code, 409, "{}", other.body);
    let dry = evict(json!({"dryRun": ["All"]})).await;
    assert_eq!(dry.code, 201, "{}", dry.body);
    assert_eq!(it.get(path).await.body["status"], before["status"]);

    let meta = &before["metadata"];
    let same = json!({"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]});
    assert_eq!(evict(json!({"preconditions": same})).await.code, 201);
    let ending = it.get(path).await.body;
    assert!(ending["metadata"]["deletionTimestamp"].is_string(), "{ending}");
    let conditions = ending["status"]["conditions"].as_array().unwrap();
    let mark = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&mark["status"], &mark["reason"]),
        (&"True".into(), &"EvictionByEvictionAPI".into())
    );
    assert_eq!(mark["message"], "Eviction API: evicting");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let it = Fixture::new().await;
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/one", "example.com/two"]);
    it.create(CONFIG_MAPS, held).await;
    let path = &format!("{CONFIG_MAPS}/held");
    let waiting = it.delete(path).await;
    assert_eq!(waiting.code, 200);
    assert!(waiting.body["metadata"]["deletionTimestamp"].is_string(), "{}", waiting.body);
    let more = json!({"metadata": {"finalizers": ["example.com/one", "example.com/three"]}});
    let refused = it.merge(path, more).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("no new finalizers can be added"), "{}", refused.message());
    let one = it.merge(path, json!({"metadata": {"finalizers": ["example.com/two"]}})).await;
    assert_eq!(one.code, 200);
    let none = it.merge(path, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(none.code, 200, "{}", none.body);
    assert_eq!(it.get(path).await.code, 404);
}

#[tokio::test]
async fn propagation_leaves_its_finalizer() {
    let it = Fixture::new().await;
    for (name, options, finalizer) in [
        ("a", r#"{"propagationPolicy":"Foreground"}"#, "foregroundDeletion"),
        ("b", r#"{"propagationPolicy":"Orphan"}"#, "orphan"),
        ("c", r#"{"orphanDependents":true}"#, "orphan"),
    ] {
        it.create(CONFIG_MAPS, config_map(name)).await;
        let path = format!("{CONFIG_MAPS}/{name}");
        let answer = it.call("DELETE", &path, "application/json", options).await;
        assert_eq!(answer.body["metadata"]["finalizers"], json!([finalizer]), "{options}");
    }
    let bad = it
        .call(
            "DELETE",
            &format!("{CONFIG_MAPS}/a"),
            "application/json",
            r#"{"propagationPolicy":"No"}"#,
        )
        .await;
    assert_eq!((bad.code, bad.reason()), (422, "Invalid"));
}

#[tokio::test]
async fn preconditions_and_collections() {
    let it = Fixture::new().await;
    for name in ["a", "b", "c"] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"odd": (name != "b").to_string()});
        it.create(CONFIG_MAPS, map).await;
    }
    let wrong = r#"{"preconditions":{"uid":"x"}}"#;
    let refused = it.call("DELETE", &format!("{CONFIG_MAPS}/a"), "application/json", wrong).await;
    assert_eq!((refused.code, refused.reason()), (409, "Conflict"));
    let dry = it.delete(&format!("{CONFIG_MAPS}/a?dryRun=All")).await;
    assert_eq!(dry.code, 200);
    assert_eq!(it.get(CONFIG_MAPS).await.names(), ["a", "b", "c"]);
    let gone = it.delete(&format!("{CONFIG_MAPS}?labelSelector=odd%3Dtrue")).await;
    assert_eq!(gone.names(), ["a", "c"]);
    assert_eq!(it.get(CONFIG_MAPS).await.names(), ["b"]);
}

#[tokio::test]
async fn a_namespace_waits_until_it_is_finalized() {
    let it = Fixture::new().await;
    it.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let going = it.delete("/api/v1/namespaces/n").await;
    assert_eq!(going.body["status"]["phase"], "Terminating", "{}", going.body);
    let refused = it.post("/api/v1/namespaces/n/configmaps", config_map("a")).await;
    assert_eq!((refused.code, refused.reason()), (403, "Forbidden"));
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut namespace = it.get("/api/v1/namespaces/n").await.body;
    namespace["spec"]["finalizers"] = json!([]);
    let done = it.put("/api/v1/namespaces/n/finalize", namespace).await;
    assert_eq!(done.code, 200, "{}", done.body);
    assert_eq!(it.get("/api/v1/namespaces/n").await.code, 404);
}

#[tokio::test]
async fn with_controllers_dependents_and_namespaces_go() {
    let it = Fixture::with(|_| {}).await;
    it.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let path = "/apis/apps/v1/namespaces/n/deployments";
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    it.create(path, deployment).await;
    let pods = "/api/v1/namespaces/n/pods";
    eventually(async || it.get(pods).await.names().len() == 3).await;
    assert_eq!(it.delete(&format!("{path}/d")).await.code, 200);
    eventually(async || it.get(pods).await.names().is_empty()).await;
    assert_eq!(it.delete("/api/v1/namespaces/n").await.code, 200);
    eventually(async || it.get("/api/v1/namespaces/n").await.code == 404).await;
}

async fn eventually(holds: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not come about within ten seconds");
}

/// Grace periods were added to the clock as they are: one beyond the end of time panicked, in requests and in controllers.
#[tokio::test]
async fn a_grace_period_may_be_any_number() {
    let it = Fixture::new().await;
    let mut endless = pod("endless");
    endless["spec"]["nodeName"] = "n".into();
    endless["spec"]["terminationGracePeriodSeconds"] = i64::MAX.into();
    it.create(PODS, endless).await;
    let path = format!("{PODS}/endless");
    let ending = it.delete(&path).await;
    assert_eq!(ending.code, 200, "{}", ending.body);
    let at = |body: &Value| -> jiff::Timestamp {
        let at = body["metadata"]["deletionTimestamp"].as_str().expect("a time");
        at.parse().expect("a time")
    };
    assert!(at(&ending.body).to_string().starts_with("9999-"), "{}", ending.body);
    let sooner = it.delete(&format!("{path}?gracePeriodSeconds=30")).await.body;
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 30);
    let left = at(&sooner).duration_since(jiff::Timestamp::now());
    assert!((0..=31).contains(&left.as_secs()), "{left}");
}
