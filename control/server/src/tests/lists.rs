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

#[tokio::test]
async fn revisions_mean_what_they_mean() {
    let it = Fixture::new().await;
    let a = it.create(CONFIG_MAPS, config_map("a")).await;
    it.create(CONFIG_MAPS, config_map("b")).await;
    let at = a["metadata"]["resourceVersion"].as_str().expect("a revision");
    // Reads of "this or newer" may be a moment behind; one that must be current is not.
    assert_eq!(it.get(CONFIG_MAPS).await.names(), ["a", "b"]);
    for (query, expected) in [
        (format!("resourceVersion={at}&resourceVersionMatch=Exact"), vec!["a"]),
        (format!("resourceVersion={at}&resourceVersionMatch=NotOlderThan"), vec!["a", "b"]),
        (format!("resourceVersion={at}"), vec!["a", "b"]),
        ("resourceVersion=0".to_owned(), vec!["a", "b"]),
    ] {
        assert_eq!(it.get(&format!("{CONFIG_MAPS}?{query}")).await.names(), expected, "{query}");
    }
    for (query, code) in [
        ("resourceVersion=x", 400),
        ("resourceVersion=999999", 504),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("resourceVersion=1&resourceVersionMatch=No", 422),
    ] {
        assert_eq!(it.get(&format!("{CONFIG_MAPS}?{query}")).await.code, code, "{query}");
    }
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
