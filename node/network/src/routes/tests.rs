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
        let mut table = RouteTable::default();
        table.update_service(&web());
        table.update_slice(&slice("web-1", "web", 8080, endpoints.clone()));
        assert_eq!(backends_of(&table), expected, "{endpoints}");
    }
}

/// Endpoint 1 and 2 on node `here`, 3 and 4 on `there`.
fn spread(conditions: [Value; 4]) -> EndpointSlice {
    let endpoints = conditions.into_iter().zip(1..).map(|(conditions, n)| {
        let node = if n < 3 { "here" } else { "there" };
        json!({"addresses": [format!("10.8.1.{n}")], "conditions": conditions, "nodeName": node})
    });
    slice("web-1", "web", 8080, endpoints.collect())
}

#[test]
fn policies_keep_calls_on_the_node() {
    let ready = || json!({"ready": true, "serving": true, "terminating": false});
    let draining = || json!({"ready": false, "serving": true, "terminating": true});
    let dead = || json!({"ready": false, "serving": false, "terminating": false});
    let all = || [ready(), ready(), ready(), ready()];
    let (none, one, two, four) = (&[][..], &[1][..], &[1, 2][..], &[1, 2, 3, 4][..]);
    let (other, others) = (&[3][..], &[3, 4][..]);
    // Backends; those of external addresses; those of callers from outside.
    type Expected<'a> = (&'a [u8], Option<&'a [u8]>, Option<&'a [u8]>);
    let cases: [([&str; 2], [Value; 4], Expected<'_>); 9] = [
        (["Cluster", "Cluster"], all(), (four, None, None)),
        (["Local", "Cluster"], all(), (two, Some(four), None)),
        (["Cluster", "Local"], all(), (four, None, Some(two))),
        (["Local", "Local"], all(), (two, Some(four), Some(two))),
        (["Local", "Local"], [ready(), dead(), dead(), dead()], (one, Some(one), None)),
        (["Local", "Local"], [dead(), dead(), ready(), ready()], (none, Some(others), Some(none))),
        // Those that shut down answer for this node while it has no others, though other nodes have.
        (["Local", "Local"], [draining(), dead(), ready(), dead()], (one, Some(other), Some(one))),
        (["Cluster", "Cluster"], [draining(), dead(), ready(), dead()], (other, None, None)),
        (["Cluster", "Cluster"], [draining(), dead(), draining(), dead()], (&[1, 3], None, None)),
    ];
    for ([internal, external], conditions, expected) in cases {
        let mut table = RouteTable::at(Place { node: "here".to_owned(), ..Place::default() });
        let mut web = web();
        let spec = web.spec.as_mut().unwrap();
        spec.internal_traffic_policy = Some(internal.to_owned());
        spec.external_traffic_policy = Some(external.to_owned());
        table.update_service(&web);
        table.update_slice(&spread(conditions.clone()));
        let port = &table.get("default", "web").unwrap().ports[0];
        let last = |backends: &Vec<SocketAddr>| -> Vec<u8> {
            let last = backends.iter().map(|backend| match backend.ip() {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            });
            last.collect()
        };
        let found = (
            last(&port.backends),
            port.external.as_ref().map(last),
            port.outside.as_ref().map(last),
        );
        let found = (&found.0[..], found.1.as_deref(), found.2.as_deref());
        assert_eq!(found, expected, "{internal} {external} {conditions:?}");
    }
}

#[test]
fn hints_are_followed_once_all_have_them() {
    let hinted =
        |n: u8, hints: Value| json!({"addresses": [format!("10.8.1.{n}")], "hints": hints});
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let node = |node: &str, zone: &str| json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]});
    for (hints, expected) in [
        (vec![zone("a"), zone("b"), zone("b")], &["10.8.1.1:8080"][..]),
        (vec![zone("b"), zone("b")], &["10.8.1.1:8080", "10.8.1.2:8080"]),
        (vec![zone("a"), Value::Null], &["10.8.1.1:8080", "10.8.1.2:8080"]),
        (vec![node("there", "a"), node("here", "a")], &["10.8.1.2:8080"]),
        (vec![node("there", "a"), node("yonder", "b")], &["10.8.1.1:8080"]),
    ] {
        let place = Place { node: "here".to_owned(), zone: Some("a".to_owned()) };
        let mut table = RouteTable::at(place);
        table.update_service(&web());
        let endpoints = (1..).zip(&hints).map(|(n, hints)| hinted(n, hints.clone())).collect();
        table.update_slice(&slice("web-1", "web", 8080, endpoints));
        assert_eq!(backends_of(&table), expected, "{hints:?}");
        // A node of no zone follows none.
        let elsewhere = Place { node: "yon".to_owned(), zone: None };
        table.set_place(elsewhere);
        assert_eq!(backends_of(&table).len(), hints.len());
    }
}

#[test]
fn balancers_addresses_are_told_from_others() {
    let mut web: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.9.0.7", "externalTrafficPolicy": "Local",
            "externalIPs": ["192.0.2.9"], "healthCheckNodePort": 32_000,
            "loadBalancerSourceRanges": ["192.0.2.0/24", "junk"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30_080}]},
        "status": {"loadBalancer": {"ingress": [
            {"ip": "198.51.100.1", "ipMode": "VIP"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}]}},
    }))
    .unwrap();
    let mut table = RouteTable::at(Place { node: "here".to_owned(), ..Place::default() });
    table.update_service(&web);
    let ready = || json!({"ready": true});
    table.update_slice(&spread([ready(), ready(), ready(), json!({"ready": false})]));
    let route = table.get("default", "web").unwrap();
    assert_eq!(route.balancer_ips, ["198.51.100.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(route.external_ips, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(route.source_ranges, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(route.health_check, Some(HealthCheck { port: 32_000, local_endpoints: 2 }));
    let nodes: Vec<&str> = route.nodes.iter().flatten().map(AsRef::as_ref).collect();
    assert_eq!(nodes, ["here", "there"]);
    web.spec.as_mut().unwrap().type_ = Some("NodePort".to_owned());
    table.update_service(&web);
    let route = table.get("default", "web").unwrap();
    assert!(route.balancer_ips.is_empty() && route.health_check.is_none());
}

#[test]
fn draining_endpoints_wait_for_every_slice() {
    let mut table = RouteTable::default();
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
    let mut table = RouteTable::default();
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
    let mut table = RouteTable::default();
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
        let mut table = RouteTable::default();
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
        let mut table = RouteTable::default();
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
    let mut table = RouteTable::default();
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
    let mut table = RouteTable::default();
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

/// As kube-proxy leaves them: they have an address and names, and nobody here leads there.
#[test]
fn services_of_other_proxies_are_left_to_them() {
    let slice = slice("web-1", "web", 8080, json!([endpoint("10.8.1.1", json!({"ready": true}))]));
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        let mut table = RouteTable::default();
        table.update_slice(&slice);
        let mut labelled = web();
        labelled.metadata.labels = Some([(label.to_owned(), "foo-bar".to_owned())].into());
        table.update_service(&labelled);
        let route = table.get("default", "web").expect("a route").clone();
        assert_eq!((route.ports.len(), route.cluster_ip.is_some()), (0, true), "{label}");
        // Without the label it is led like others.
        table.update_service(&web());
        assert_eq!(backends_of(&table), ["10.8.1.1:8080"]);
    }
}
