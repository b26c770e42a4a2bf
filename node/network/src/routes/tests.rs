use super::*;
use serde_json::{Value, json};

fn service(spec: Value) -> Service {
    serde_json::from_value(
        json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec}),
    )
    .unwrap()
}

fn slice(name: &str, owner: &str, port: u16, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {SERVICE_NAME_LABEL: owner}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .unwrap()
}

fn web() -> Service {
    service(json!({
        "clusterIP": "10.9.0.7", "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": 8080}],
    }))
}

fn endpoint(ip: &str, conditions: Value) -> Value {
    json!({"addresses": [ip], "conditions": conditions})
}

fn backends_of(table: &RouteTable) -> Vec<String> {
    table.get("default", "web").unwrap().ports[0].backends.iter().map(ToString::to_string).collect()
}

#[test]
fn only_endpoints_that_answer_are_used() {
    let ready = || endpoint("10.8.1.1", json!({"ready": true, "serving": true}));
    let draining =
        || endpoint("10.8.1.2", json!({"ready": false, "serving": true, "terminating": true}));
    let failing = || endpoint("10.8.1.3", json!({"ready": false, "serving": false}));
    let dying =
        || endpoint("10.8.1.4", json!({"ready": false, "serving": false, "terminating": true}));
    let unknown = || json!({"addresses": ["10.8.1.5"]});
    for (endpoints, expected) in [
        (json!([ready(), draining(), failing()]), &["10.8.1.1:8080"][..]),
        (json!([draining(), failing(), dying()]), &["10.8.1.2:8080"]),
        (json!([failing(), dying()]), &[]),
        (json!([unknown(), ready()]), &["10.8.1.1:8080", "10.8.1.5:8080"]),
        (json!([ready(), ready()]), &["10.8.1.1:8080"]),
        (json!([{"addresses": []}, {"addresses": ["no address"]}]), &[]),
    ] {
        let mut table = RouteTable::new();
        table.update_service(&web());
        table.update_slice(&slice("web-1", "web", 8080, endpoints.clone()));
        assert_eq!(backends_of(&table), expected, "{endpoints}");
    }
}

#[test]
fn draining_endpoints_wait_for_every_slice() {
    let mut table = RouteTable::new();
    table.update_service(&web());
    let draining =
        endpoint("10.8.1.2", json!({"ready": false, "serving": true, "terminating": true}));
    table.update_slice(&slice("web-1", "web", 8080, json!([draining])));
    assert_eq!(backends_of(&table), ["10.8.1.2:8080"]);
    table.update_slice(&slice("web-2", "web", 9090, json!([endpoint("10.8.1.1", json!({}))])));
    assert_eq!(backends_of(&table), ["10.8.1.1:9090"]);
    table.remove_slice("default", "web-2");
    assert_eq!(backends_of(&table), ["10.8.1.2:8080"]);
}

#[test]
fn changes_are_reported_once() {
    let mut table = RouteTable::new();
    let endpoints =
        slice("web-1", "web", 8080, json!([endpoint("10.8.1.1", json!({"ready": true}))]));
    assert!(table.update_slice(&endpoints).is_empty(), "endpoints without a Service lead nowhere");
    let Some(RouteChange::Set(route)) = table.update_service(&web()) else {
        panic!("a new Service is a change")
    };
    assert_eq!(route.ports[0].backends.len(), 1, "endpoints that came first are used");
    assert_eq!(table.update_service(&web()), None);
    assert!(table.update_slice(&endpoints).is_empty());
    let gone = table.remove_service("default", "web");
    assert_eq!(gone.as_ref().map(|g| g.key().to_string()).as_deref(), Some("default/web"));
    assert_eq!(table.remove_service("default", "web"), None);
    assert_eq!(table.remove_slice("default", "web-1"), None);
    assert_eq!(table.iter().count(), 0);
}

#[test]
fn a_slice_may_move_to_another_service() {
    let mut table = RouteTable::new();
    let mut other = web();
    other.metadata.name = Some("other".to_owned());
    table.update_service(&web());
    table.update_service(&other);
    let endpoints = json!([endpoint("10.8.1.1", json!({"ready": true}))]);
    assert_eq!(table.update_slice(&slice("s", "web", 8080, endpoints.clone())).len(), 1);
    let changes = table.update_slice(&slice("s", "other", 8080, endpoints));
    assert_eq!(changes.iter().map(|c| c.key().name.as_str()).collect::<Vec<_>>(), ["web", "other"]);
    assert!(backends_of(&table).is_empty());
}

#[test]
fn services_become_routes() {
    let port = json!([{"port": 80}]);
    for (spec, expected) in [
        (json!({"clusterIP": "10.9.0.7", "ports": port}), Some((Some("10.9.0.7"), 0, None))),
        (json!({"clusterIP": "None", "ports": port}), Some((None, 0, None))),
        (json!({"type": "ExternalName", "externalName": "example.com"}), Some((None, 0, None))),
        (
            json!({"clusterIP": "10.9.0.7", "ports": port, "externalIPs": ["192.0.2.1", "junk"]}),
            Some((Some("10.9.0.7"), 1, None)),
        ),
        (
            json!({"clusterIP": "10.9.0.7", "ports": port, "sessionAffinity": "ClientIP"}),
            Some((Some("10.9.0.7"), 0, Some(10_800))),
        ),
        (
            json!({"clusterIP": "10.9.0.7", "ports": [{"port": 70_000}]}),
            Some((Some("10.9.0.7"), 0, None)),
        ),
    ] {
        let mut table = RouteTable::new();
        table.update_service(&service(spec.clone()));
        let found = table.get("default", "web").map(|r| {
            (
                r.cluster_ip.map(|ip| ip.to_string()),
                r.external_ips.len(),
                r.affinity.map(|a| a.as_secs()),
            )
        });
        assert_eq!(found, expected.map(|(ip, n, a)| (ip.map(str::to_owned), n, a)), "{spec}");
    }
}

#[test]
fn endpoints_without_a_cluster_ip_have_names() {
    let named = |ip: &str, hostname: &str, ready: bool| {
        json!({"addresses": [ip], "hostname": hostname,
            "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
    };
    let endpoints = slice(
        "s",
        "web",
        8080,
        json!([
            named("10.8.1.2", "", true),
            named("10.8.1.1", "web-0", true),
            named("10.8.1.3", "web-2", false)
        ]),
    );
    let known = |spec: Value| {
        let mut table = RouteTable::new();
        table.update_service(&service(spec));
        table.update_slice(&endpoints);
        let route = table.get("default", "web").unwrap();
        let shown = |e: &Endpoint| format!("{} {}", e.ip, e.hostname.as_deref().unwrap_or("-"));
        (route.endpoints.iter().map(shown).collect::<Vec<_>>(), route.external_name.clone())
    };
    let list = vec!["10.8.1.1 web-0".to_owned(), "10.8.1.2 -".to_owned()];
    // It may do without ports.
    assert_eq!(known(json!({"clusterIP": "None"})), (list, None));
    assert_eq!(known(json!({"clusterIP": "10.9.0.7", "ports": [{"port": 80}]})), (vec![], None));
    let external = known(json!({"type": "ExternalName", "externalName": "example.com"}));
    assert_eq!(external, (vec![], Some("example.com".to_owned())));
}

#[test]
fn a_fresh_list_yields_the_differences() {
    let mut table = RouteTable::new();
    let mut old = web();
    old.metadata.name = Some("old".to_owned());
    table.update_service(&old);
    table.update_service(&web());
    let endpoints =
        slice("web-1", "web", 8080, json!([endpoint("10.8.1.1", json!({"ready": true}))]));
    let changes = table.replace([&web()], [&endpoints]);
    assert!(matches!(&changes[..], [RouteChange::Gone(gone), RouteChange::Set(set)]
        if gone.name == "old" && set.key.name == "web"));
    assert!(table.replace([&web()], [&endpoints]).is_empty());
}

/// An update must cost its own Service only: 5,000 Services of 10 endpoints each, each updated once more.
#[test]
fn many_services_stay_cheap() {
    let mut table = RouteTable::new();
    let named = |n: usize| {
        let mut service = web();
        service.metadata.name = Some(format!("web-{n}"));
        service
    };
    let endpoints = |n: usize, count: usize| {
        let list: Vec<Value> = (0..count)
            .map(|e| endpoint(&format!("10.8.{}.{}", n % 250, e + 1), json!({"ready": true})))
            .collect();
        slice(&format!("web-{n}-1"), &format!("web-{n}"), 8080, json!(list))
    };
    let services: Vec<Service> = (0..5000).map(named).collect();
    let slices: Vec<(EndpointSlice, EndpointSlice)> =
        (0..5000).map(|n| (endpoints(n, 9), endpoints(n, 10))).collect();
    let start = std::time::Instant::now();
    for (service, (slice, _)) in services.iter().zip(&slices) {
        table.update_service(service);
        table.update_slice(slice);
    }
    let changes: usize = slices.iter().map(|(_, grown)| table.update_slice(grown).len()).sum();
    assert_eq!(changes, 5000);
    // Unoptimised it takes about 0.3 s; work quadratic in the number of Services would take minutes.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
