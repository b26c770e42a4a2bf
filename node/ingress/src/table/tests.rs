use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde_json::{Value, json};

use super::*;
use crate::config::{Backend, Config};
use crate::state::State;

fn ingress(name: &str, minute: u32, value: Value) -> Arc<Ingress> {
    let mut value = value;
    let spec = match value.get("spec") {
        Some(_) => value["spec"].take(),
        None => value.clone(),
    };
    let annotations = value.get("annotations").cloned();
    let mut spec = spec;
    spec["ingressClassName"] = spec.get("ingressClassName").cloned().unwrap_or("coracle".into());
    let ingress = json!({
        "metadata": {
            "namespace": "ns", "name": name, "uid": name, "annotations": annotations,
            "creationTimestamp": format!("2024-01-01T00:{minute:02}:00Z"),
        },
        "spec": spec,
    });
    Arc::new(serde_json::from_value(ingress).expect("an Ingress"))
}

fn table() -> Table {
    let class =
        json!({"metadata": {"name": "coracle"}, "spec": {"controller": "coracle.dev/ingress"}});
    let class: IngressClass = serde_json::from_value(class).expect("a class");
    let mut table = Table::default();
    table.classes([&class]);
    table
}

fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

/// `host path` pairs, each `Exact`, `Prefix` or `ImplementationSpecific`, lead to the Service of that name.
fn rules(all: &[(&str, &str, &str, &str)]) -> Value {
    let rule = |(host, path, kind, service): &(&str, &str, &str, &str)| json!({"host": host, "http": {"paths": [{"path": path, "pathType": kind, "backend": backend(service)}]}});
    json!({"rules": all.iter().map(rule).collect::<Vec<_>>()})
}

/// What the proxy makes of a table.
fn state(table: &Table) -> State {
    let state = State::default();
    let mut config = Config { hosts: table.hosts().clone(), ..Config::default() };
    for wanted in table.backends() {
        config.backends.insert(wanted.name(), Arc::new(Backend::default()));
    }
    let update = crate::config::Update { generation: 1, ..config.since(&Config::default()) };
    state.update(update);
    state
}

/// The Service that a host and path lead to.
fn service(state: &State, host: &str, path: &str) -> Option<String> {
    let found = state.find(host, path, std::net::Ipv4Addr::LOCALHOST.into())?;
    let backend = &found.route.target.backend;
    Some(backend.trim_start_matches("ns/").trim_end_matches(":80").to_owned())
}

#[track_caller]
fn check(table: &Table, cases: &[(&str, &str, Option<&str>)]) {
    let state = state(table);
    for (host, path, expected) in cases {
        assert_eq!(service(&state, host, path).as_deref(), *expected, "{host}{path}");
    }
}

/// The cases of kubernetes-sigs/ingress-controller-conformance, and the table of the Ingress concept.
#[test]
fn paths_match_by_their_type() {
    let mut table = table();
    table.put(ingress(
        "paths",
        0,
        rules(&[
            ("exact", "/foo", "Exact", "foo"),
            ("exact", "/bar/", "Exact", "bar"),
            ("prefix", "/foo", "Prefix", "foo"),
            ("slash", "/foo/", "Prefix", "foo"),
            ("deep", "/", "Prefix", "root"),
            ("deep", "/aaa", "Prefix", "aaa"),
            ("deep", "/aaa/bbb", "Prefix", "bbb"),
            ("mixed", "/foo", "Prefix", "prefix"),
            ("mixed", "/foo", "Exact", "exact"),
            ("mixed", "/foo/bar", "Exact", "longer"),
            ("any", "", "ImplementationSpecific", "any"),
            ("any", "/x", "ImplementationSpecific", "x"),
        ]),
    ));
    check(
        &table,
        &[
            ("exact", "/foo", Some("foo")),
            ("exact", "/foo/", None),
            ("exact", "/FOO", None),
            ("exact", "/bar", None),
            ("exact", "/bar/", Some("bar")),
            ("prefix", "/foo", Some("foo")),
            ("prefix", "/foo/", Some("foo")),
            ("prefix", "/foo/bar/baz", Some("foo")),
            ("prefix", "/foobar", None),
            ("prefix", "/FOO", None),
            ("prefix", "/", None),
            ("slash", "/foo", Some("foo")),
            ("slash", "/foo/", Some("foo")),
            ("slash", "/foo/bar", Some("foo")),
            ("slash", "/foox", None),
            ("deep", "/aaa/bbb", Some("bbb")),
            ("deep", "/aaa/bbb/", Some("bbb")),
            ("deep", "/aaa/bbb/ccc", Some("bbb")),
            ("deep", "/aaa/bbbxyz", Some("aaa")),
            ("deep", "/aaa/ccc", Some("aaa")),
            ("deep", "/aaab", Some("root")),
            ("deep", "/", Some("root")),
            ("deep", "//", Some("root")),
            ("deep", "/é/aaa", Some("root")),
            ("mixed", "/foo", Some("exact")),
            ("mixed", "/foo/", Some("prefix")),
            ("mixed", "/foo/bar", Some("longer")),
            ("any", "/y", Some("any")),
            ("any", "/x/y", Some("x")),
            ("elsewhere", "/foo", None),
        ],
    );
}

#[test]
fn the_most_particular_host_is_asked_alone() {
    let mut table = table();
    table.put(ingress(
        "hosts",
        0,
        rules(&[
            ("foo.bar.com", "/a", "Prefix", "exact"),
            ("*.bar.com", "/", "Prefix", "wild"),
            ("*.com", "/", "Prefix", "com"),
            ("", "/a", "Prefix", "all"),
        ]),
    ));
    table.put(ingress("default", 1, json!({"defaultBackend": backend("default")})));
    check(
        &table,
        &[
            ("foo.bar.com", "/a", Some("exact")),
            ("foo.bar.com", "/b", Some("default")),
            ("x.bar.com", "/b", Some("wild")),
            ("x.y.bar.com", "/a", Some("all")),
            ("x.y.bar.com", "/b", Some("default")),
            ("bar.com", "/", Some("com")),
            (".com", "/", Some("com")),
            ("com", "/a", Some("all")),
            ("", "/a", Some("all")),
        ],
    );
    table.remove("ns", "default");
    check(&table, &[("foo.bar.com", "/b", None), ("", "/b", None)]);
}

#[test]
fn an_ingress_serves_the_rest_of_its_hosts_by_its_default() {
    let mut table = table();
    let mut spec = rules(&[("a", "/x", "Prefix", "x")]);
    spec["defaultBackend"] = backend("own");
    table.put(ingress("own", 1, spec));
    table.put(ingress("older", 0, json!({"defaultBackend": backend("older")})));
    check(&table, &[("a", "/x", Some("x")), ("a", "/y", Some("own")), ("b", "/", Some("older"))]);
}

#[test]
fn the_older_ingress_wins() {
    let mut table = table();
    table.put(ingress(
        "b",
        5,
        rules(&[("a", "/", "Prefix", "younger"), ("a", "/more", "Prefix", "more")]),
    ));
    table.put(ingress("z", 1, rules(&[("a", "/", "Prefix", "older")])));
    table.put(ingress("a", 5, rules(&[("a", "/more", "Prefix", "first")])));
    check(&table, &[("a", "/", Some("older")), ("a", "/more", Some("first"))]);
    table.remove("ns", "z");
    check(&table, &[("a", "/", Some("younger"))]);
    // Changed, it is no younger than it was.
    table.put(ingress("b", 5, rules(&[("c", "/", "Prefix", "moved")])));
    check(&table, &[("a", "/", None), ("a", "/more", Some("first")), ("c", "/", Some("moved"))]);
}

#[test]
fn other_classes_are_others_business() {
    let mut table = table();
    let mut other = rules(&[("a", "/", "Prefix", "a")]);
    other["ingressClassName"] = "nginx".into();
    table.put(ingress("other", 0, other.clone()));
    assert!(table.is_empty());
    let annotated = json!({
        "metadata": {"namespace": "ns", "name": "old", "annotations": {"kubernetes.io/ingress.class": "coracle"}},
        "spec": rules(&[("b", "/", "Prefix", "b")]),
    });
    table.put(Arc::new(serde_json::from_value(annotated).expect("an Ingress")));
    check(&table, &[("a", "/", None), ("b", "/", Some("b"))]);
    let class =
        json!({"metadata": {"name": "nginx"}, "spec": {"controller": "coracle.dev/ingress"}});
    let class: IngressClass = serde_json::from_value(class).expect("a class");
    table.classes([&class]);
    check(&table, &[("a", "/", Some("a")), ("b", "/", None)]);
    table.retain(&HashSet::new());
    assert!(table.is_empty() && table.hosts().is_empty());
}

#[test]
fn certificates_are_the_hosts_that_ask_for_them() {
    let mut table = table();
    let mut spec = rules(&[("a", "/", "Prefix", "a"), ("b", "/", "Prefix", "b")]);
    spec["tls"] = json!([{"hosts": ["a", "*.c"], "secretName": "one"}]);
    table.put(ingress("i", 0, spec));
    let mut spec = rules(&[("b", "/x", "Prefix", "x")]);
    spec["tls"] = json!([{"secretName": "two"}, {"hosts": ["a"]}]);
    table.put(ingress("j", 1, spec));
    let of = |host: &str| table.hosts().get(host).and_then(|host| host.certificate.clone());
    let expected = [Some("ns/one"), Some("ns/two"), Some("ns/one"), None];
    assert_eq!(["a", "b", "*.c", ""].map(of).each_ref().map(|c| c.as_deref()), expected);
    assert_eq!(table.secrets(), BTreeSet::from([("ns", "one"), ("ns", "two")]));
    let users: Vec<_> = table.users(("ns", "two"), "x").into_iter().map(|c| c.name).collect();
    assert_eq!(users, ["j"]);
    // A host with nothing but a certificate is served by the rules of others.
    check(&table, &[("x.c", "/", None), ("a", "/", Some("a"))]);
}

#[test]
fn what_cannot_be_had_is_told() {
    let mut table = table();
    let resource = json!({"resource": {"apiGroup": "a.b", "kind": "Bucket", "name": "x"}});
    let guard = "nginx.ingress.kubernetes.io/auth-url";
    table.put(ingress("r", 0, json!({"defaultBackend": resource})));
    table.put(ingress(
        "g",
        0,
        json!({"annotations": {guard: "x"}, "spec": rules(&[("a", "/", "Prefix", "a")])}),
    ));
    let told: Vec<_> = table.complaints().into_iter().map(|c| (c.name, c.message)).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].0 == "g" && told[0].1.contains(guard), "{told:?}");
    assert!(told[1].1.contains("Bucket \"x\""), "{told:?}");
    let state = state(&table);
    for host in ["a", "b"] {
        let found = state.find(host, "/", std::net::Ipv4Addr::LOCALHOST.into()).expect("a route");
        assert!(found.route.target.settings.refused.is_some(), "{host}");
    }
}

#[test]
fn ports_have_names_of_their_own() {
    let mut table = table();
    let named = json!({"service": {"name": "s", "port": {"name": "http"}}});
    table.put(ingress("n", 0, json!({"defaultBackend": named})));
    let grpc = json!({"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"});
    table.put(ingress(
        "g",
        0,
        json!({"annotations": grpc, "spec": rules(&[("a", "/", "Prefix", "s")])}),
    ));
    let names: Vec<_> = table.backends().into_iter().map(BackendRef::name).collect();
    assert_eq!(names, ["ns/s:80+h2c", "ns/s:http"]);
}

/// Thousands of Ingresses: a change costs the work of its own host, and tells of nothing else.
#[test]
fn a_change_is_told_alone() {
    let mut table = table();
    for number in 0..3000 {
        let host = format!("h{number}.example.com");
        table.put(ingress(&format!("i{number}"), 0, rules(&[(&host, "/", "Prefix", "s")])));
    }
    let old = Config { hosts: table.hosts().clone(), ..Config::default() };
    table.put(ingress("i7", 0, rules(&[("h7.example.com", "/", "Prefix", "other")])));
    table.remove("ns", "i8");
    // Written again as it was.
    table.put(ingress("i9", 0, rules(&[("h9.example.com", "/", "Prefix", "s")])));
    let new = Config { hosts: table.hosts().clone(), ..Config::default() };
    let update = new.since(&old);
    let hosts: Vec<_> =
        update.hosts.iter().map(|(name, host)| (name.as_str(), host.is_some())).collect();
    assert_eq!(hosts, [("h7.example.com", true), ("h8.example.com", false)]);
}
