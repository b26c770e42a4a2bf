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

#[tokio::test]
async fn load_balancers_ask_for_health_on_a_port_of_their_own() {
    let it = Fixture::with(|config| {
        config.load_balancer_pool =
            vec![(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 1))];
    })
    .await;
    let mut body = service("a", "LoadBalancer");
    body["spec"]["externalTrafficPolicy"] = "Local".into();
    let created = it.create(SERVICES, body.clone()).await;
    let port = created["spec"]["healthCheckNodePort"].clone();
    assert!(port.as_u64().is_some_and(|port| (30000..=32767).contains(&port)), "{created}");
    assert_ne!(port, created["spec"]["ports"][0]["nodePort"]);
    let path = &format!("{SERVICES}/a");
    let put = it.put(path, body.clone()).await;
    assert_eq!(put.body["spec"]["healthCheckNodePort"], port, "{}", put.body);
    let mut same = service("b", "LoadBalancer");
    same["spec"]["externalTrafficPolicy"] = "Local".into();
    same["spec"]["healthCheckNodePort"] = port.clone();
    let refused = it.post(SERVICES, same.clone()).await;
    assert!(refused.message().contains("provided port is already allocated"), "{}", refused.body);
    let other = it.merge(path, json!({"spec": {"healthCheckNodePort": 31234}})).await;
    assert!(other.message().contains("field is immutable"), "{}", other.body);
    // Given up with the policy, it is free again.
    let plain = it.merge(path, json!({"spec": {"externalTrafficPolicy": "Cluster"}})).await;
    assert_eq!((plain.code, plain.body["spec"].get("healthCheckNodePort")), (200, None));
    it.create(SERVICES, same).await;
}

#[tokio::test]
async fn a_status_may_come_with_notes() {
    let it = Fixture::new().await;
    it.create(SERVICES, service("a", "LoadBalancer")).await;
    let patch = json!({
        "metadata": {"annotations": {"patchedstatus": "true"}},
        "spec": {"ports": [{"port": 81}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
    });
    let patched = it.merge(&format!("{SERVICES}/a/status"), patch).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    assert_eq!(patched.body["metadata"]["annotations"]["patchedstatus"], "true");
    assert_eq!(patched.body["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.1");
    assert_eq!(patched.body["spec"]["ports"][0]["port"], 80);
}

/// As for a name server: one number to remember for both protocols.
#[tokio::test]
async fn protocols_of_one_port_have_one_node_port() {
    let it = Fixture::new().await;
    let mut body = service("dns", "NodePort");
    body["spec"]["ports"] = json!([
        {"name": "tcp", "port": 53, "protocol": "TCP"},
        {"name": "http", "port": 80},
        {"name": "udp", "port": 53, "protocol": "UDP"},
    ]);
    let numbers = |service: &Value| {
        let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        ports.iter().filter_map(|port| port["nodePort"].as_u64()).collect::<Vec<_>>()
    };
    let created = numbers(&it.create(SERVICES, body.clone()).await);
    assert_eq!(created.len(), 3, "{created:?}");
    assert!(created[0] == created[2] && created[0] != created[1], "{created:?}");
    // One that was asked for is for both, wherever it is said.
    body["metadata"]["name"] = "asked".into();
    body["spec"]["ports"][2]["nodePort"] = 31053.into();
    let asked = numbers(&it.create(SERVICES, body).await);
    assert_eq!((asked[0], asked[2]), (31053, 31053));
    // Without either protocol it is free again.
    assert_eq!(it.delete(&format!("{SERVICES}/asked")).await.code, 200);
    let mut other = service("other", "NodePort");
    other["spec"]["ports"][0]["nodePort"] = 31053.into();
    it.create(SERVICES, other).await;
}

/// A load balancer's node ports that are asked for are its own, also where none are allocated.
#[tokio::test]
async fn node_ports_that_are_asked_for_are_nobody_elses() {
    let it = Fixture::new().await;
    let balanced = |name: &str| {
        let mut body = service(name, "LoadBalancer");
        body["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        body["spec"]["ports"][0]["nodePort"] = 31080.into();
        body
    };
    it.create(SERVICES, balanced("a")).await;
    let refused = it.post(SERVICES, balanced("b")).await;
    assert!(refused.message().contains("provided port is already allocated"), "{}", refused.body);
    // Told to allocate none it keeps what it has.
    let mut body = service("c", "LoadBalancer");
    body["spec"]["allocateLoadBalancerNodePorts"] = true.into();
    let created = it.create(SERVICES, body).await;
    let path = format!("{SERVICES}/c");
    let none = json!({"spec": {"allocateLoadBalancerNodePorts": false}});
    let kept = it.merge(&path, none).await;
    assert_eq!(kept.body["spec"]["ports"], created["spec"]["ports"], "{}", kept.body);
}

/// Another ServiceCIDR is where Services may ask for addresses, and get them once there are no others.
#[tokio::test]
async fn more_ranges_of_addresses_are_declared() {
    let it = Fixture::with(|config| {
        config.scheduler = false;
        config.service_network = (Ipv4Addr::new(10, 0, 0, 0), 30);
    })
    .await;
    let mut asking = service("asking", "ClusterIP");
    asking["spec"]["clusterIP"] = "203.0.113.10".into();
    let refused = it.post(SERVICES, asking.clone()).await;
    assert!(refused.message().contains("is not in the valid range"), "{}", refused.body);
    const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
    let more = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/24"]}});
    it.create(CIDRS, more).await;
    let path = format!("{CIDRS}/more");
    for attempt in 0.. {
        let found = it.get(&path).await.body;
        if found["status"]["conditions"][0]["status"] == "True" {
            break;
        }
        assert!(attempt < 200, "{found}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    it.create(SERVICES, asking).await;
    // Of the first range there is one left beside that of `kubernetes`.
    let mut others = 0;
    for name in ["a", "b", "c"] {
        let made = it.create(SERVICES, service(name, "ClusterIP")).await;
        let ip = made["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        others += usize::from(ip.starts_with("203.0.113."));
    }
    assert_eq!(others, 2);
    // It stays while it is needed.
    assert_eq!(it.delete(&path).await.code, 200);
    assert_eq!(it.get(&path).await.code, 200);
}
