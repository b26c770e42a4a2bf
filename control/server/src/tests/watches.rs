use serde_json::json;

use super::*;

fn step(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn state_then_changes_each_once() {
    let it = Fixture::new().await;
    it.create(CONFIG_MAPS, config_map("a")).await;
    let mut events = it.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(events.step().await, step("ADDED", "a"));
    let created = it.create(CONFIG_MAPS, config_map("b")).await;
    it.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"x": "y"}})).await;
    it.delete(&format!("{CONFIG_MAPS}/b")).await;
    assert_eq!(events.step().await, step("ADDED", "b"));
    assert_eq!(events.step().await, step("MODIFIED", "a"));
    let deleted = events.next().await.expect("an event");
    assert_eq!(
        (&deleted["type"], &deleted["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("b"))
    );
    let revision = |value: &Value| {
        value["metadata"]["resourceVersion"].as_str().and_then(|rv| rv.parse::<u64>().ok())
    };
    assert_eq!(revision(&deleted["object"]), revision(&created).map(|rv| rv + 2));

    // A watch from a revision sees what came after, and nothing else.
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", revision(&created).unwrap_or(0));
    let mut later = it.watch(&path).await;
    assert_eq!(later.step().await, step("MODIFIED", "a"));
    assert_eq!(later.step().await, step("DELETED", "b"));
}

#[tokio::test]
async fn entering_and_leaving_a_selection() {
    let it = Fixture::new().await;
    let path = format!("{CONFIG_MAPS}?watch=true&labelSelector=in%3Dyes");
    let mut events = it.watch(&path).await;
    it.create(CONFIG_MAPS, config_map("a")).await;
    let one = &format!("{CONFIG_MAPS}/a");
    for label in ["yes", "no", "yes"] {
        it.merge(one, json!({"metadata": {"labels": {"in": label}}})).await;
    }
    it.merge(one, json!({"data": {"x": "y"}})).await;
    it.delete(one).await;
    for kind in ["ADDED", "DELETED", "ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(events.step().await, step(kind, "a"));
    }
}

#[tokio::test]
async fn a_node_sees_its_pods_come_and_go() {
    let it = Fixture::new().await;
    let mut events = it.watch("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1").await;
    let mut other = it.watch("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn2").await;
    for (name, node) in [("p1", "n1"), ("p2", "n2")] {
        it.create(PODS, pod(name)).await;
        let binding = json!({"target": {"kind": "Node", "name": node}});
        assert_eq!(it.post(&format!("{PODS}/{name}/binding"), binding).await.code, 201);
    }
    it.delete(&format!("{PODS}/p1?gracePeriodSeconds=0")).await;
    assert_eq!(events.step().await, step("ADDED", "p1"));
    assert_eq!(events.step().await, step("DELETED", "p1"));
    assert_eq!(other.step().await, step("ADDED", "p2"));
}

#[tokio::test]
async fn the_initial_state_ends_with_a_bookmark() {
    let it = Fixture::new().await;
    it.create(CONFIG_MAPS, config_map("a")).await;
    let options =
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = it.watch(&format!("{CONFIG_MAPS}?watch=true&{options}")).await;
    assert_eq!(events.step().await, step("ADDED", "a"));
    let end = events.next().await.expect("an event");
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    it.create(CONFIG_MAPS, config_map("b")).await;
    assert_eq!(events.step().await, step("ADDED", "b"));
    let refused = it.get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!((refused.code, refused.reason()), (422, "Invalid"));
}

#[tokio::test]
async fn a_watch_ends_in_time_and_at_shutdown() {
    let it = Fixture::new().await;
    let mut short = it
        .watch(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true"))
        .await;
    let last = short.next().await;
    assert!(last.is_none_or(|event| event["type"] == "BOOKMARK"));
    let mut long = it.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    it.server.shutdown();
    assert_eq!(long.next().await, None);
}

#[tokio::test]
async fn a_slow_watcher_misses_nothing() {
    let it = Fixture::new().await;
    let mut events = it.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    // More than one watcher's buffer and more than the ring hold.
    const CHANGES: usize = 3000;
    it.create(CONFIG_MAPS, config_map("a")).await;
    let path = &format!("{CONFIG_MAPS}/a");
    let registry = &it.server.app.registry;
    for i in 0..CHANGES {
        registry
            .update(
                &coracle_api::kinds::CONFIG_MAP,
                ("default", "a"),
                crate::registry::Part::Main,
                crate::registry::WriteOptions::default(),
                |_, mut tree| {
                    tree["data"]["a"] = i.to_string().into();
                    Ok(tree)
                },
            )
            .await
            .expect("an update");
    }
    it.delete(path).await;
    assert_eq!(events.step().await, step("ADDED", "a"));
    for i in 0..CHANGES {
        let event = events.next().await.expect("an event");
        assert_eq!(event["object"]["data"]["a"], i.to_string().as_str());
    }
    assert_eq!(events.step().await, step("DELETED", "a"));
}

#[tokio::test]
async fn watches_of_tables() {
    let it = Fixture::new().await;
    it.create(PODS, pod("p")).await;
    let request = Request::get(format!("{PODS}?watch=true"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Body::empty())
        .expect("a request");
    let stream = it.send(request).await.into_body().into_data_stream();
    let mut events = Events { stream, pending: Vec::new() };
    let first = events.next().await.expect("an event");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "p");
    assert_ne!(first["object"]["columnDefinitions"], json!([]));
    it.merge(&format!("{PODS}/p"), json!({"metadata": {"labels": {"a": "b"}}})).await;
    let second = events.next().await.expect("an event");
    assert_eq!(second["object"]["columnDefinitions"], json!([]));
}

/// `timeoutSeconds` was added to the clock as it is: 292 billion years panicked.
#[tokio::test]
async fn a_watch_may_be_asked_for_any_time() {
    let it = Fixture::new().await;
    it.create(CONFIG_MAPS, config_map("a")).await;
    let mut events = it.watch(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds={}", i64::MAX)).await;
    assert_eq!(events.step().await, step("ADDED", "a"));
}
