//! Ingresses and their classes.

use super::*;

#[test]
fn ingresses() {
    let backend = || json!({"service": {"name": "s", "port": {"number": 80}}});
    let path =
        |path: &str, kind: &str| json!({"path": path, "pathType": kind, "backend": backend()});
    let rule = |host: &str, paths: Value| json!({"host": host, "http": {"paths": paths}});
    let of = |rules: Value| json!({"spec": {"rules": rules}});
    check(&INGRESS, json!({"spec": {"defaultBackend": backend()}}), &[]);
    check(
        &INGRESS,
        of(json!([rule(
            "*.a.b",
            json!([path("/", "Prefix"), path("/x", "Exact"), path("", "ImplementationSpecific")])
        )])),
        &[],
    );
    check(
        &INGRESS,
        json!({"spec": {}}),
        &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
    );
    check(
        &INGRESS,
        of(json!([
            rule("1.2.3.4", json!([])),
            rule(
                "A",
                json!([
                    path("x//", "Prefix"),
                    path("/a/..", "Exact"),
                    path("x", "ImplementationSpecific")
                ])
            )
        ])),
        &[
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths: Required value",
            &format!(
                "spec.rules[1].host: Invalid value: \"A\": {}",
                crate::names::subdomain("A").expect("a problem")
            ),
            "spec.rules[1].http.paths[0].path: Invalid value: \"x//\": must be an absolute path",
            "spec.rules[1].http.paths[0].path: Invalid value: \"x//\": must not contain '//'",
            "spec.rules[1].http.paths[1].path: Invalid value: \"/a/..\": cannot end with '/..'",
            "spec.rules[1].http.paths[2].path: Invalid value: \"x\": must be an absolute path",
        ],
    );
    let with = |backend: Value| {
        of(json!([rule("a", json!([{"path": "/", "pathType": "Prefix", "backend": backend}]))]))
    };
    for (backend, problem) in [
        (json!({}), ": Invalid value: \"\": resource or service backend is required"),
        (json!({"service": {"port": {"number": 1}}}), ".service.name: Required value"),
        (json!({"service": {"name": "s"}}), ": Required value: port name or number is required"),
        (
            json!({"service": {"name": "s", "port": {"number": 1, "name": "x"}}}),
            ": Invalid value: \"\": cannot set both port name & port number",
        ),
        (
            json!({"service": {"name": "s", "port": {"number": 70000}}}),
            ".service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (json!({"resource": {"kind": "K"}}), ".resource.name: Required value"),
        (
            json!({"resource": {"kind": "K", "name": "n"}, "service": {}}),
            ": Invalid value: \"\": cannot set both resource and service backends",
        ),
    ] {
        check(&INGRESS, with(backend), &[&format!("spec.rules[0].http.paths[0].backend{problem}")]);
    }
    check(
        &INGRESS,
        of(json!([rule("a", json!([{"path": "/", "backend": backend()}, path("/", "Regex")]))])),
        &[
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            "spec.rules[0].http.paths[1].pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
        ],
    );
    let errors = (INGRESS.validate_create)(&json!({
        "metadata": {"annotations": {INGRESS_CLASS_ANNOTATION: "x"}},
        "spec": {"ingressClassName": "y"},
    }));
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let why = "must match `ingressClassName` when both are specified";
    assert_eq!(
        errors,
        [format!("annotations.kubernetes.io/ingress.class: Invalid value: \"x\": {why}")]
    );
    let rules =
        |hosts: &[&str]| Value::from(hosts.iter().map(|h| json!({"host": h})).collect::<Vec<_>>());
    for (hosts, tls, shown, ports) in [
        (rules(&["a.b"]), json!([]), "a.b", "80"),
        (rules(&["", ""]), json!([{}]), "*", "80, 443"),
        (rules(&["a", "b", "c", "d", "e"]), json!([]), "a,b,c + 2 more...", "80"),
    ] {
        check_cells(
            &INGRESS,
            json!({"metadata": {"name": "i", "creationTimestamp": "2024-05-06T11:59:00Z"},
                "spec": {"ingressClassName": "coracle", "rules": hosts, "tls": tls},
                "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}, {"hostname": "x"}, {"ip": "10.0.0.1"}]}}}),
            json!(["i", "coracle", shown, "10.0.0.1,10.0.0.2,x", ports, "60s"]),
        );
    }
}

#[test]
fn ingress_classes() {
    let of = |controller: &str, parameters: Value| json!({"spec": {"controller": controller, "parameters": parameters}});
    let good = of("a.b/c", json!({"apiGroup": "g", "kind": "K", "name": "n"}));
    check(&INGRESS_CLASS, good.clone(), &[]);
    check(&INGRESS_CLASS, json!({"spec": {}}), &["spec.controller: Required value"]);
    check(
        &INGRESS_CLASS,
        of("a", json!({"kind": "K", "name": "n", "scope": "Namespace"})),
        &[
            "spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
        ],
    );
    check(
        &INGRESS_CLASS,
        of("a/b", json!({"kind": "K", "name": "n", "namespace": "x"})),
        &["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
    );
    check_update(
        &INGRESS_CLASS,
        of("a/c", json!({})),
        of("a/b", json!({})),
        &["spec.controller: Invalid value: \"a/c\": field is immutable"],
    );
    let mut named = good;
    named["metadata"] = json!({"name": "c", "creationTimestamp": "2024-05-06T11:59:00Z"});
    check_cells(&INGRESS_CLASS, named, json!(["c", "a.b/c", "K.g/n", "60s"]));
}
