use serde_json::json;

use super::*;

async fn accept(it: &Fixture, path: &str, accept: &str) -> Answer {
    let request =
        Request::get(path).header("accept", accept).body(Body::empty()).expect("a request");
    read(it.send(request).await).await
}

#[tokio::test]
async fn pages_show_one_revision() {
    let it = Fixture::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        it.create(CONFIG_MAPS, config_map(name)).await;
    }
    let first = it.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!(first.names(), ["a", "b"]);
    assert_eq!(first.body["metadata"]["remainingItemCount"], 3);
    let revision = first.body["metadata"]["resourceVersion"].clone();
    // What happens meanwhile is not seen.
    it.delete(&format!("{CONFIG_MAPS}/c")).await;
    it.create(CONFIG_MAPS, config_map("bb")).await;
    it.merge(&format!("{CONFIG_MAPS}/d"), json!({"data": {"a": "changed"}})).await;
    let token =
        |page: &Answer| page.body["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let second = it.get(&format!("{CONFIG_MAPS}?limit=2&continue={}", token(&first))).await;
    assert_eq!(second.names(), ["c", "d"], "{}", second.body);
    assert_eq!(second.body["items"][1]["data"]["a"], "b");
    assert_eq!(second.body["metadata"]["resourceVersion"], revision);
    let third = it.get(&format!("{CONFIG_MAPS}?limit=2&continue={}", token(&second))).await;
    assert_eq!((third.names(), token(&third)), (vec!["e"], String::new()));
    let bad = it.get(&format!("{CONFIG_MAPS}?continue=x")).await;
    assert_eq!((bad.code, bad.reason()), (400, "BadRequest"));
}

/// The tables of "Resource versions" among the Kubernetes API's concepts, for lists and for watches. There are `a`, and of
/// later `b` and `c`; `AT` is the revision that showed `a` alone.
#[tokio::test]
async fn revisions_mean_what_they_mean() {
    let it = Fixture::new().await;
    let a = it.create(CONFIG_MAPS, config_map("a")).await;
    it.create(CONFIG_MAPS, config_map("b")).await;
    it.create(CONFIG_MAPS, config_map("c")).await;
    let at = a["metadata"]["resourceVersion"].as_str().expect("a revision");
    // Reads of "this or newer" may be a moment behind; one that must be current is not.
    assert_eq!(it.get(CONFIG_MAPS).await.names(), ["a", "b", "c"]);
    let first = it.get(&format!("{CONFIG_MAPS}?limit=1")).await;
    let token = first.body["metadata"]["continue"].as_str().expect("a token");
    for (query, expected) in [
        // No limit: most recent, any, not older than, and by what is said to match.
        ("", &["a", "b", "c"][..]),
        ("resourceVersion=0", &["a", "b", "c"]),
        ("resourceVersion=AT", &["a", "b", "c"]),
        ("resourceVersion=AT&resourceVersionMatch=Exact", &["a"]),
        ("resourceVersion=AT&resourceVersionMatch=NotOlderThan", &["a", "b", "c"]),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", &["a", "b", "c"]),
        // With a limit: the same, but for the revision alone, which is exact.
        ("limit=2", &["a", "b"]),
        ("limit=2&resourceVersion=0", &["a", "b"]),
        ("limit=2&resourceVersion=AT", &["a"]),
        ("limit=2&resourceVersion=AT&resourceVersionMatch=Exact", &["a"]),
        ("limit=2&resourceVersion=AT&resourceVersionMatch=NotOlderThan", &["a", "b"]),
        ("limit=0&resourceVersion=AT", &["a", "b", "c"]),
        // A token goes on where it was.
        ("limit=1&continue=TOKEN", &["b"]),
        ("continue=TOKEN&resourceVersion=0", &["b", "c"]),
    ] {
        let query = query.replace("AT", at).replace("TOKEN", token);
        let answer = it.get(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(answer.names(), expected, "{query}: {}", answer.body);
    }
    for (query, code, said) in [
        ("resourceVersion=x", 400, "invalid syntax"),
        ("resourceVersion=999999", 504, "Too large resource version: 999999"),
        ("resourceVersionMatch=Exact", 422, "forbidden unless resourceVersion is provided"),
        ("resourceVersionMatch=NotOlderThan", 422, "forbidden unless resourceVersion is provided"),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            422,
            "forbidden for resourceVersion \"0\"",
        ),
        ("resourceVersion=1&resourceVersionMatch=No", 422, "Unsupported value: \"No\""),
        ("continue=TOKEN&resourceVersion=1", 400, "not allowed when using continue"),
        (
            "continue=TOKEN&resourceVersion=1&resourceVersionMatch=Exact",
            422,
            "when continue is provided",
        ),
        ("sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
        (
            "watch=1&resourceVersionMatch=NotOlderThan",
            422,
            "forbidden for watch unless sendInitialEvents",
        ),
        (
            "watch=1&sendInitialEvents=true",
            422,
            "requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact",
            422,
            "Unsupported value: \"Exact\"",
        ),
        ("watch=1&resourceVersion=x", 400, "invalid syntax"),
    ] {
        let query = query.replace("TOKEN", token);
        let answer = it.get(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(answer.code, code, "{query}: {}", answer.body);
        assert!(answer.message().contains(said), "{query}: {}", answer.message());
    }
    for (query, expected) in [
        ("", &["a", "b", "c", "d"][..]),
        ("resourceVersion=0", &["a", "b", "c", "d"]),
        ("resourceVersion=AT", &["b", "c", "d"]),
        ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", &["a", "b", "c", "", "d"]),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=AT",
            &["a", "b", "c", "", "d"],
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0",
            &["a", "b", "c", "", "d"],
        ),
        ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", &["d"]),
        (
            "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=AT",
            &["b", "c", "d"],
        ),
    ] {
        let query = query.replace("AT", at);
        let mut events = it.watch(&format!("{CONFIG_MAPS}?watch=1&{query}")).await;
        it.create(CONFIG_MAPS, config_map("d")).await;
        for name in expected {
            assert_eq!(events.step().await.1, *name, "{query}");
        }
        it.delete(&format!("{CONFIG_MAPS}/d")).await;
        assert_eq!(events.step().await, ("DELETED".to_owned(), "d".to_owned()), "{query}");
    }
}

#[tokio::test]
async fn a_list_whose_revision_is_forgotten_can_go_on_all_the_same() {
    let it = Fixture::new().await;
    for name in ["a", "b", "d"] {
        it.create(CONFIG_MAPS, config_map(name)).await;
    }
    let first = it.get(&format!("{CONFIG_MAPS}?limit=1")).await;
    it.create(CONFIG_MAPS, config_map("c")).await;
    let store = &it.server.app.registry.store;
    store.compact(store.revision()).await.expect("to be compacted");
    let token =
        |answer: &Answer| answer.body["metadata"]["continue"].as_str().expect("a token").to_owned();
    let gone = it.get(&format!("{CONFIG_MAPS}?limit=1&continue={}", token(&first))).await;
    assert_eq!((gone.code, gone.reason()), (410, "Expired"), "{}", gone.body);
    let second = it.get(&format!("{CONFIG_MAPS}?limit=2&continue={}", token(&gone))).await;
    assert_eq!(second.names(), ["b", "c"], "{}", second.body);
    let last = it.get(&format!("{CONFIG_MAPS}?continue={}", token(&second))).await;
    assert_eq!(last.names(), ["d"], "{}", last.body);
    let old = it.get(&format!("{CONFIG_MAPS}?resourceVersion=2&resourceVersionMatch=Exact")).await;
    assert_eq!((old.code, old.reason()), (410, "Expired"));
}

#[tokio::test]
async fn selectors() {
    let it = Fixture::new().await;
    for (name, node) in [("p1", "n1"), ("p2", "n2"), ("p3", "")] {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!({"app": name});
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        it.create(PODS, pod).await;
    }
    for (query, expected) in [
        ("labelSelector=app%3Dp1", vec!["p1"]),
        ("labelSelector=app!%3Dp1", vec!["p2", "p3"]),
        ("labelSelector=app+in+(p1,p3)", vec!["p1", "p3"]),
        ("fieldSelector=metadata.name%3Dp2", vec!["p2"]),
        ("fieldSelector=spec.nodeName%3Dn1", vec!["p1"]),
        ("fieldSelector=spec.nodeName%3D", vec!["p3"]),
        ("fieldSelector=spec.nodeName%3Dn1,metadata.name%3Dp2", vec![]),
        ("fieldSelector=status.phase%3DPending", vec!["p1", "p2", "p3"]),
    ] {
        for base in [PODS, "/api/v1/pods"] {
            assert_eq!(
                it.get(&format!("{base}?{query}")).await.names(),
                expected,
                "{base} {query}"
            );
        }
    }
    for query in ["labelSelector=a+b+c", "fieldSelector=spec.no%3D1", "fieldSelector=x"] {
        assert_eq!(it.get(&format!("{PODS}?{query}")).await.code, 400, "{query}");
    }
}

#[tokio::test]
async fn tables_and_metadata() {
    let it = Fixture::new().await;
    it.create(PODS, pod("p")).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = accept(&it, PODS, table).await.body;
    assert_eq!((&answer["kind"], &answer["rows"][0]["cells"][0]), (&json!("Table"), &json!("p")));
    assert_eq!(answer["columnDefinitions"][0]["name"], "Name");
    assert_eq!(answer["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = accept(&it, &format!("{PODS}/p?includeObject=Object"), table).await.body;
    assert_eq!(whole["rows"][0]["object"]["spec"]["containers"][0]["name"], "c");
    let beta = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
    assert_eq!(accept(&it, PODS, beta).await.body["apiVersion"], "meta.k8s.io/v1beta1");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let answer = accept(&it, PODS, partial).await.body;
    assert_eq!(answer["kind"], "PartialObjectMetadataList");
    assert_eq!(answer["items"][0]["metadata"]["name"], "p");
    assert_eq!(answer["items"][0].get("spec"), None);
    assert_eq!(accept(&it, PODS, "text/html").await.code, 406);
}

#[tokio::test]
async fn discovery_in_all_forms() {
    let it = Fixture::new().await;
    for version in ["v2", "v2beta1"] {
        let wanted =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let answer = accept(&it, "/apis", &format!("{wanted},application/json")).await;
        assert_eq!(answer.headers["content-type"], wanted.as_str());
        let apps = answer.body["items"]
            .as_array()
            .expect("items")
            .iter()
            .find(|i| i["metadata"]["name"] == "apps");
        let resources = &apps.expect("apps")["versions"][0]["resources"];
        assert_eq!(resources[0]["resource"], "deployments");
        assert_eq!(resources[0]["subresources"][1]["responseKind"]["group"], "autoscaling");
    }
    assert_eq!(it.get("/api").await.body["versions"], json!(["v1"]));
    assert_eq!(it.get("/apis/apps").await.body["preferredVersion"]["groupVersion"], "apps/v1");
    let plain = it.get("/apis/apps/v1").await.body;
    assert_eq!(plain["resources"][0]["name"], "deployments");
    assert_eq!(it.get("/apis/none").await.code, 404);
    let index = it.get("/openapi/v3").await.body;
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("an address");
    let document = it.get(address).await;
    assert_eq!((document.code, &document.body["openapi"]), (200, &json!("3.0.0")));
    assert_eq!(it.get("/openapi/v2").await.body["swagger"], "2.0");
}
