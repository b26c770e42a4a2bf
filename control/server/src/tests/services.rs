use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::json;

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, kind: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]},
    })
}

#[tokio::test]
async fn addresses_and_ports_are_unique_and_come_back() {
    // A /29 has six addresses, one of them for `kubernetes`.
    let it = Fixture::with(|config| {
        config.controllers = false;
        config.scheduler = false;
        config.service_network = (Ipv4Addr::new(10, 0, 0, 0), 29);
        config.node_ports = 30000..=30004;
    })
    .await;
    let creations = (0..5).map(|i| it.post(SERVICES, service(&format!("s{i}"), "NodePort")));
    let created = futures::future::join_all(creations).await;
    assert!(created.iter().all(|answer| answer.code == 201), "{}", created[0].body);
    let distinct = |of: &dyn Fn(&Value) -> String| {
        created.iter().map(|answer| of(&answer.body)).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(distinct(&|s| s["spec"]["clusterIP"].to_string()), 5);
    assert_eq!(distinct(&|s| s["spec"]["ports"][0]["nodePort"].to_string()), 5);
    assert_eq!(it.post(SERVICES, service("more", "ClusterIP")).await.code, 500);
    assert_eq!(it.delete(&format!("{SERVICES}/s0")).await.code, 200);
    let freed = it.create(SERVICES, service("more", "NodePort")).await;
    assert_eq!(freed["spec"]["clusterIP"], created[0].body["spec"]["clusterIP"]);
    assert_eq!(
        freed["spec"]["ports"][0]["nodePort"],
        created[0].body["spec"]["ports"][0]["nodePort"]
    );
}

#[tokio::test]
async fn explicit_requests_are_checked() {
    let it = Fixture::new().await;
    let with = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut body = service(name, "NodePort");
        change(&mut body["spec"]);
        body
    };
    let first = it.create(SERVICES, with("a", &|s| s["clusterIP"] = "10.96.1.1".into())).await;
    let port = first["spec"]["ports"][0]["nodePort"].clone();
    for (body, message) in [
        (with("b", &|s| s["clusterIP"] = "10.96.1.1".into()), "provided IP is already allocated"),
        (with("b", &|s| s["clusterIP"] = "10.1.1.1".into()), "is not in the valid range"),
        (
            with("b", &|s| s["ports"][0]["nodePort"] = 80.into()),
            "The range of valid ports is 30000-32767",
        ),
        (
            with("b", &|s| s["ports"][0]["nodePort"] = port.clone()),
            "provided port is already allocated",
        ),
    ] {
        let answer = it.post(SERVICES, body).await;
        assert_eq!((answer.code, answer.reason()), (422, "Invalid"), "{}", answer.body);
        assert!(answer.message().contains(message), "{}", answer.message());
    }
    let headless = it
        .create(
            SERVICES,
            json!({
                "metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
            }),
        )
        .await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn an_update_keeps_what_it_does_not_mention() {
    let it = Fixture::new().await;
    let created = it.create(SERVICES, service("a", "NodePort")).await;
    let path = &format!("{SERVICES}/a");
    let mut body = service("a", "NodePort");
    body["spec"]["ports"][0]["targetPort"] = 8080.into();
    let put = it.put(path, body).await;
    assert_eq!(put.code, 200, "{}", put.body);
    assert_eq!(put.body["spec"]["clusterIP"], created["spec"]["clusterIP"]);
    assert_eq!(put.body["spec"]["ports"][0]["nodePort"], created["spec"]["ports"][0]["nodePort"]);
    let plain = it.put(path, service("a", "ClusterIP")).await;
    assert_eq!(plain.code, 200, "{}", plain.body);
    assert_eq!(plain.body["spec"]["ports"][0].get("nodePort"), None, "{}", plain.body);
    let moved = it
        .merge(path, json!({"spec": {"clusterIP": "10.96.9.9", "clusterIPs": ["10.96.9.9"]}}))
        .await;
    assert_eq!(moved.code, 422, "{}", moved.body);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = it.merge(path, external).await;
    assert_eq!(external.code, 200, "{}", external.body);
    assert_eq!(external.body["spec"].get("clusterIP"), None);
}
