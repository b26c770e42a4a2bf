//! What holds for every kind, and tables for the small ones.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2024-05-06T12:00:00Z".parse().expect("a time")
}

#[test]
fn identities_are_consistent() {
    for kind in ALL {
        let expected = if kind.group.is_empty() {
            kind.plural.to_owned()
        } else {
            format!("{}.{}", kind.plural, kind.group)
        };
        assert_eq!(kind.resource, expected);
        assert_eq!(kind.singular, kind.kind.to_lowercase());
        assert!(std::ptr::eq(by_resource(kind.group, kind.plural).expect("in the table"), *kind));
        assert!(std::ptr::eq(
            by_kind(&kind.api_version(), kind.kind).expect("in the table"),
            *kind
        ));
        assert_eq!(kind.columns.iter().filter(|c| c.format == "name").count(), 1, "{kind:?}");
    }
}

/// What every cluster begins with passes the rules that hold for it, and may not be changed where it is mandatory.
#[test]
fn flow_control_begins_well() {
    let all =
        flow_control::levels().into_iter().map(|(n, s)| (&PRIORITY_LEVEL_CONFIGURATION, n, s));
    let schemas = flow_control::schemas().into_iter().map(|(n, s)| (&FLOW_SCHEMA, n, s));
    for (kind, name, spec) in all.chain(schemas) {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        check(kind, object.clone(), &[]);
        (kind.default)(&mut object);
        assert_eq!(object["spec"], spec, "{name}: nothing is left to defaults");
    }
    let level = json!({"metadata": {"name": "catch-all"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 6, "limitResponse": {"type": "Reject"}}}});
    let errors = (PRIORITY_LEVEL_CONFIGURATION.validate)(&level);
    assert!(errors[0].to_string().ends_with("spec of 'catch-all' must equal the fixed value"));
}

/// Rules never fail on odd input: a field may be absent, `null`, or of another type than the schema says.
#[test]
fn rules_are_total() {
    let odd = [
        json!(null),
        json!(7),
        json!("x"),
        json!([]),
        json!([null, 1, "x"]),
        json!({}),
        json!({"x": [{}]}),
    ];
    for kind in ALL {
        let mut inputs = vec![json!({})];
        for value in &odd {
            for field in [
                "metadata",
                "spec",
                "status",
                "data",
                "rules",
                "roleRef",
                "subjects",
                "endpoints",
                "subsets",
                "ports",
                "stringData",
                "template",
                "parameters",
                "allowedTopologies",
                "nodeTopology",
                "capacity",
            ] {
                inputs.push(json!({field: value.clone()}));
            }
            for field in [
                "selector",
                "template",
                "containers",
                "volumes",
                "ports",
                "strategy",
                "tolerations",
                "affinity",
                "clusterIPs",
                "finalizers",
                "type",
                "accessModes",
                "resources",
                "hostPath",
                "csi",
                "drivers",
                "source",
                "ingress",
                "policyTypes",
                "cidrs",
                "parentRef",
                "rules",
                "limited",
                "service",
                "devices",
                "pool",
            ] {
                inputs.push(json!({"spec": {field: value.clone()}}));
            }
            for field in [
                "image",
                "ports",
                "env",
                "resources",
                "readinessProbe",
                "lifecycle",
                "volumeMounts",
            ] {
                inputs.push(json!({"spec": {"containers": [{field: value.clone()}]}}));
            }
        }
        for input in inputs {
            let mut object = input.clone();
            (kind.default)(&mut object);
            let old = object.clone();
            for prepare in [0, 1, 2] {
                let mut new = object.clone();
                (kind.prepare)(match prepare {
                    0 => Prepare::Create(&mut new),
                    1 => Prepare::Update { new: &mut new, old: &old },
                    _ => Prepare::Status { new: &mut new, old: &old },
                });
                (kind.validate)(&new);
                (kind.validate_update)(&new, &old);
                crate::meta::validate_meta(kind, &new);
                crate::meta::validate_meta_update(&new, &old);
            }
            if let Ok(object) = Object::from_value(kind, &object) {
                assert_eq!(
                    (kind.cells)(&object, now()).len(),
                    kind.columns.len(),
                    "{kind:?} {input}"
                );
                for field in kind.fields {
                    (field.read)(&object);
                }
            }
        }
    }
}

#[track_caller]
fn check(kind: &'static Kind, mut object: Value, expected: &[&str]) {
    (kind.default)(&mut object);
    let errors: Vec<_> = (kind.validate)(&object).iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected, "{object}");
}

#[track_caller]
fn check_update(kind: &'static Kind, new: Value, old: Value, expected: &[&str]) {
    let errors: Vec<_> =
        (kind.validate_update)(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected, "{new} from {old}");
}

#[track_caller]
fn check_cells(kind: &'static Kind, object: Value, expected: Value) {
    let object = Object::from_value(kind, &object).expect("an object");
    assert_eq!(Value::from((kind.cells)(&object, now())), expected);
}

#[test]
fn config_maps() {
    check(&CONFIG_MAP, json!({"data": {"a.b": "c"}, "binaryData": {"d": "AA=="}}), &[]);
    let errors: Vec<_> =
        (CONFIG_MAP.validate)(&json!({"data": {"a/b": "c", "d": ""}, "binaryData": {"d": ""}}))
            .iter()
            .map(|e| e.path.clone())
            .collect();
    assert_eq!(errors, ["data[d]", "data[a/b]"]);
    check(
        &CONFIG_MAP,
        json!({"data": {"a": "x".repeat(1024 * 1024 + 1)}}),
        &["data: Too long: may not be more than 1048576 bytes"],
    );
    let old = json!({"immutable": true, "data": {"a": "1"}});
    check_update(&CONFIG_MAP, old.clone(), old.clone(), &[]);
    check_update(
        &CONFIG_MAP,
        json!({"data": {"a": "2"}}),
        old,
        &[
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ],
    );
    check_cells(
        &CONFIG_MAP,
        json!({"metadata": {"name": "m", "creationTimestamp": "2024-05-06T11:59:00Z"}, "data": {"a": "", "b": ""}}),
        json!(["m", 2, "60s"]),
    );
}

#[test]
fn secrets() {
    let mut secret = json!({"stringData": {"a": "hello"}, "data": {"a": "b2xk", "b": "Yg=="}});
    (SECRET.default)(&mut secret);
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "aGVsbG8=", "b": "Yg=="}}));
    check(
        &SECRET,
        json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": ""}}),
        &["data[tls.key]: Required value"],
    );
    check(
        &SECRET,
        json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{"}}),
        &[
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": EOF while parsing an object at line 1 column 1",
        ],
    );
    check(
        &SECRET,
        json!({"type": "kubernetes.io/service-account-token"}),
        &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
    );
    check_update(
        &SECRET,
        json!({"type": "b"}),
        json!({"type": "a"}),
        &["type: Invalid value: \"b\": field is immutable"],
    );
}

#[test]
fn roles_and_bindings() {
    check(
        &ROLE,
        json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        &[],
    );
    check(
        &CLUSTER_ROLE,
        json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]}),
        &[],
    );
    check(
        &ROLE,
        json!({"rules": [{"nonResourceURLs": ["/x"]}, {"verbs": ["get"]}]}),
        &[
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[1].resources: Required value: resource rules must supply at least one resource",
        ],
    );
    let binding = json!({
        "metadata": {"name": "b"},
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]
    });
    check(&ROLE_BINDING, binding.clone(), &[]);
    check(&CLUSTER_ROLE_BINDING, binding.clone(), &[]);
    check(
        &CLUSTER_ROLE_BINDING,
        json!({"roleRef": {"kind": "Role", "name": "a/b"}, "subjects": [{"kind": "ServiceAccount", "name": "s"}, {"kind": "Robot", "name": "r"}]}),
        &[
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
            "subjects[0].namespace: Required value",
            "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
        ],
    );
    check_update(
        &ROLE_BINDING,
        json!({"roleRef": {"kind": "Role", "name": "b"}}),
        json!({"roleRef": {"kind": "Role", "name": "a"}}),
        &["roleRef: Invalid value: {\"kind\":\"Role\",\"name\":\"b\"}: cannot change roleRef"],
    );
    check_cells(
        &ROLE_BINDING,
        binding,
        json!(["b", "ClusterRole/view", "<unknown>", "u", "", "n/s"]),
    );
    check_cells(
        &CLUSTER_ROLE,
        json!({"metadata": {"name": "r", "creationTimestamp": "2024-05-06T11:59:00Z"}}),
        json!(["r", "2024-05-06T11:59:00Z"]),
    );
}

#[test]
fn classes() {
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    check(&PRIORITY_CLASS, class.clone(), &[]);
    check(
        &PRIORITY_CLASS,
        json!({"metadata": {"name": "x"}, "value": 1_000_000_001, "preemptionPolicy": "Maybe"}),
        &[
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            "preemptionPolicy: Unsupported value: \"Maybe\": supported values: \"Never\", \"PreemptLowerPriority\"",
        ],
    );
    check(
        &PRIORITY_CLASS,
        json!({"metadata": {"name": "system-x"}}),
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only",
        ],
    );
    check(
        &PRIORITY_CLASS,
        json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}),
        &[],
    );
    check_update(
        &PRIORITY_CLASS,
        json!({"value": 2}),
        json!({"value": 1}),
        &["value: Forbidden: may not be changed in an update."],
    );
    check_cells(&PRIORITY_CLASS, class, json!(["high", 1000, false, "<unknown>", ""]));

    check(&RUNTIME_CLASS, json!({"handler": "wasm"}), &[]);
    assert_eq!((RUNTIME_CLASS.validate)(&json!({"handler": "Wasm"})).len(), 1);
    check_update(
        &RUNTIME_CLASS,
        json!({"handler": "oci"}),
        json!({"handler": "wasm"}),
        &["handler: Invalid value: \"oci\": field is immutable"],
    );
}

#[test]
fn leases_and_endpoints() {
    check(&LEASE, json!({"spec": {"holderIdentity": "n", "leaseDurationSeconds": 40}}), &[]);
    check(
        &LEASE,
        json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}),
        &[
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    check_cells(
        &LEASE,
        json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": "h"}}),
        json!(["n", "h", "<unknown>"]),
    );

    let addresses = |n: usize| {
        (1..=n).map(|i| json!({"addresses": [format!("10.0.0.{i}")]})).collect::<Vec<_>>()
    };
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": addresses(5), "ports": [{"port": 80}]});
    check(&ENDPOINT_SLICE, slice.clone(), &[]);
    check_cells(
        &ENDPOINT_SLICE,
        slice,
        json!(["s", "IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more...", "<unknown>"]),
    );
    check(
        &ENDPOINT_SLICE,
        json!({"endpoints": [{"addresses": []}], "ports": [{}, {}]}),
        &[
            "addressType: Required value",
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "ports[1].name: Duplicate value: \"\"",
        ],
    );

    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [
        {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]});
    check(&ENDPOINTS, endpoints.clone(), &[]);
    check_cells(
        &ENDPOINTS,
        endpoints,
        json!(["e", "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...", "<unknown>"]),
    );
    check_cells(
        &ENDPOINTS,
        json!({"metadata": {"name": "e"}}),
        json!(["e", "<none>", "<unknown>"]),
    );
}

#[test]
fn events() {
    let event = json!({
        "metadata": {"name": "p.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default", "fieldPath": "spec.containers{c}"},
        "reason": "Pulled", "type": "Normal", "message": "Image pulled\n",
        "source": {"component": "agent", "host": "n"},
        "firstTimestamp": "2024-05-06T11:50:00Z", "lastTimestamp": "2024-05-06T11:59:30Z", "count": 4
    });
    check(&EVENT, event.clone(), &[]);
    check_cells(
        &EVENT,
        event.clone(),
        json!([
            "30s",
            "Normal",
            "Pulled",
            "pod/p",
            "spec.containers{c}",
            "agent, n",
            "Image pulled",
            "10m",
            4,
            "p.1"
        ]),
    );
    let object = Object::from_value(&EVENT, &event).expect("an event");
    for (selector, expected) in [
        (
            "involvedObject.kind=Pod,involvedObject.name=p,type!=Warning,reason=Pulled,source=agent",
            true,
        ),
        ("involvedObject.uid=1", false),
    ] {
        let selector = crate::FieldSelector::parse(selector, &EVENT).expect(selector);
        assert_eq!(selector.matches(&object), expected);
    }
}

#[test]
fn namespaces_and_nodes() {
    check(
        &NODE,
        json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b"}]}}),
        &[
            "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}",
            "spec.taints[2].effect: Required value",
        ],
    );
    let mut namespace = json!({"metadata": {"name": "n"}});
    (NAMESPACE.default)(&mut namespace);
    (NAMESPACE.prepare)(Prepare::Create(&mut namespace));
    assert_eq!(
        namespace,
        json!({"metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    );
    check_cells(&NAMESPACE, namespace, json!(["n", "Active", "<unknown>"]));

    let mut node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"capacity": {"cpu": 2, "memory": "4096Mi"}, "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1"}}});
    (NODE.default)(&mut node);
    assert_eq!(node["status"]["allocatable"], json!({"cpu": "2", "memory": "4Gi"}));
    (NODE.prepare)(Prepare::Create(&mut node));
    check_cells(
        &NODE,
        node,
        json!([
            "n",
            "Ready,SchedulingDisabled",
            "control-plane,worker",
            "<unknown>",
            "v1",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
}

/// Manifests as users write them pass, and what defaults and preparation add to them is known to the schema.
#[test]
fn manifests() {
    let texts = [
        include_str!("../../testdata/nginx-deployment.json"),
        include_str!("../../testdata/my-app.json"),
        include_str!("../../testdata/web-and-cache-pod.json"),
    ];
    let objects = texts
        .iter()
        .flat_map(|text| serde_json::from_str::<Vec<Value>>(text).expect("a list of objects"));
    let small = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "LoadBalancer",
            "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"capacity": {"cpu": 2}}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
            "addressType": "IPv4", "endpoints": [], "ports": [{"port": 80}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
            "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "Group", "name": "g"}]}),
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "p"}, "value": 1}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"hostNetwork": true,
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "env": [{"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
                "livenessProbe": {"grpc": {"port": 1}}, "lifecycle": {"preStop": {"httpGet": {"port": 80}}}}],
            "volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/"}}, {"name": "c", "image": {"reference": "i"}},
                {"name": "d", "configMap": {"name": "c"}}, {"name": "e", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}}),
    ];
    for mut object in objects.chain(small) {
        let (version, name) = (object["apiVersion"].clone(), object["kind"].clone());
        let (version, name) = (version.as_str().expect("text"), name.as_str().expect("text"));
        let kind = by_kind(version, name).expect("a kind");
        if kind.namespaced {
            object["metadata"]["namespace"] = json!("default");
        }
        (kind.default)(&mut object);
        (kind.prepare)(Prepare::Create(&mut object));
        let mut errors = crate::meta::validate_meta(kind, &object);
        errors.extend((kind.validate)(&object));
        assert_eq!(errors, [], "{object}");

        let schema = crate::schema::builtin().by_gvk(kind.group, kind.version, kind.kind);
        let decoded = crate::schema::check(object.clone(), schema.expect("a schema"));
        let decoded = decoded.unwrap_or_else(|e| panic!("{e}: {object}"));
        assert_eq!(decoded.strict_error(), None, "{object}");
        assert_eq!(decoded.value, object);

        // A second pass, as on every update, finds nothing to do.
        let before = object.clone();
        (kind.default)(&mut object);
        (kind.prepare)(Prepare::Update { new: &mut object, old: &before });
        assert_eq!(object, before);
        assert_eq!((kind.validate_update)(&object, &before), []);
    }
}

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

#[test]
fn certificate_requests_are_decided_once() {
    let kind = &CERTIFICATE_SIGNING_REQUEST;
    let asks = |spec: Value| {
        let mut asks = json!({"spec": {"signerName": "example.com/x", "usages": ["client auth"]}});
        for (field, value) in spec.as_object().expect("fields") {
            asks["spec"][field] = value.clone();
        }
        asks
    };
    check(kind, asks(json!({})), &[]);
    check(kind, asks(json!({"signerName": ""})), &["spec.signerName: Required value"]);
    check(
        kind,
        asks(json!({"signerName": "x/y"})),
        &[
            "spec.signerName: Invalid value: \"x/y\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ],
    );
    check(kind, asks(json!({"usages": []})), &["spec.usages: Required value"]);
    check(
        kind,
        asks(json!({"usages": ["any", "any"]})),
        &["spec.usages[1]: Duplicate value: \"any\""],
    );
    check(
        kind,
        asks(json!({"expirationSeconds": 599})),
        &[
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ],
    );
    let with = |conditions: &[&str]| {
        let conditions: Vec<Value> =
            conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        let mut asks = asks(json!({}));
        asks["status"] = json!({"conditions": conditions});
        asks
    };
    check(
        kind,
        with(&["Approved", "Denied"]),
        &[
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
        ],
    );
    // By `/status`, nobody decides; what is decided stays.
    check_update(kind, with(&["Failed"]), with(&[]), &[]);
    for (new, old, expected) in [
        (
            with(&["Approved"]),
            with(&[]),
            "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"",
        ),
        (
            with(&[]),
            with(&["Denied"]),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Denied\"",
        ),
    ] {
        check_update(kind, new, old, &[expected]);
    }
    let approved = validate_approval_update(&with(&["Approved"]), &with(&[]));
    assert!(approved.is_empty(), "{approved:?}");
    let taken_back = validate_approval_update(&with(&[]), &with(&["Approved"]));
    assert_eq!(taken_back.len(), 1, "{taken_back:?}");
    let issued = |certificate: &str| {
        let mut asks = with(&["Approved"]);
        asks["status"]["certificate"] = certificate.into();
        asks
    };
    check_update(kind, issued("eA=="), with(&["Approved"]), &[]);
    check_update(
        kind,
        issued("eQ=="),
        issued("eA=="),
        &["status.certificate: Forbidden: updates may not modify existing certificate content"],
    );
    // Who writes a status need not know what was decided, and changes nothing that was asked for.
    let mut new = json!({"spec": {"usages": []}, "status": {"conditions": [{"type": "Failed"}]}});
    let old = with(&["Approved"]);
    (kind.prepare)(Prepare::Status { new: &mut new, old: &old });
    assert_eq!(new["spec"], old["spec"]);
    let kinds: Vec<&str> = new["status"]["conditions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|c| c["type"].as_str())
        .collect();
    assert_eq!(kinds, ["Approved", "Failed"]);
    check_cells(
        kind,
        json!({"metadata": {"name": "c", "creationTimestamp": "2024-05-06T11:59:00Z"},
               "spec": {"signerName": "example.com/x", "username": "jane", "expirationSeconds": 3600},
               "status": {"conditions": [{"type": "Approved"}], "certificate": "eA=="}}),
        json!(["c", "60s", "example.com/x", "jane", "60m", "Approved,Issued"]),
    );
}

#[test]
fn webhook_configurations() {
    let base = json!({"metadata": {"name": "w"}, "webhooks": [{
        "name": "a.example.com",
        "clientConfig": {"url": "https://localhost:8443/x"},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
    }]});
    let kind = &MUTATING_WEBHOOK_CONFIGURATION;
    check(kind, base.clone(), &[]);
    let with = |field: &str, value: Value| {
        let mut object = base.clone();
        object["webhooks"][0][field] = value;
        object
    };
    let rule = |field: &str, value: Value| {
        let mut object = base.clone();
        object["webhooks"][0]["rules"][0][field] = value;
        object
    };
    for (object, expected) in [
        (
            with("name", json!("short")),
            "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
        ),
        (
            with("sideEffects", json!("Some")),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            with("timeoutSeconds", json!(31)),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            with("admissionReviewVersions", json!(["v2"])),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ),
        (
            with("clientConfig", json!({})),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            with("clientConfig", json!({"url": "http://x/"})),
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (
            with("clientConfig", json!({"url": "https://x/?a"})),
            "webhooks[0].clientConfig.url: Invalid value: \"a\": query parameters are not permitted in the URL; desired format: https://host[/path]",
        ),
        (
            with("clientConfig", json!({"service": {"name": "s", "namespace": "n", "path": "x"}})),
            "webhooks[0].clientConfig.service.path: Invalid value: \"x\": must start with a '/'",
        ),
        (
            with("clientConfig", json!({"service": {"namespace": "n"}})),
            "webhooks[0].clientConfig.service.name: Required value: service name is required",
        ),
        (
            rule("operations", json!(["READ"])),
            "webhooks[0].rules[0].operations[0]: Unsupported value: \"READ\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        ),
        (
            rule("apiGroups", json!(["*", "apps"])),
            "webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"apps\"]: if '*' is present, must not specify other API groups",
        ),
        (
            rule("resources", json!(["pods/*", "pods/log"])),
            "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
        ),
        (
            rule("resources", json!(["*", "pods"])),
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
        ),
        (
            rule("scope", json!("Some")),
            "webhooks[0].rules[0].scope: Unsupported value: \"Some\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
        ),
    ] {
        check(kind, object, &[expected]);
    }
}

#[test]
fn quotas_and_limits() {
    let quota = |spec: Value| json!({"metadata": {"name": "q"}, "spec": spec});
    for (spec, expected) in [
        (
            json!({"hard": {"pods": "2", "requests.cpu": "1", "count/deployments.apps": "3", "requests.example.com/x": "1"}}),
            &[][..],
        ),
        (
            json!({"hard": {"apples": "2"}}),
            &[
                "spec.hard[apples]: Invalid value: \"apples\": must be a standard resource for quota",
            ],
        ),
        (
            json!({"hard": {"pods": "-1"}}),
            &["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
        (
            json!({"hard": {"pods": "1500m"}}),
            &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]}),
            &[
                "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
            ],
        ),
        (
            json!({"hard": {"requests.cpu": "1"}, "scopes": ["BestEffort"]}),
            &[
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
            ],
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["Sometimes"]}),
            &["spec.scopes: Invalid value: [\"Sometimes\"]: unsupported scope"],
        ),
    ] {
        check(&RESOURCE_QUOTA, quota(spec), expected);
    }
    let other = quota(json!({"scopes": ["Terminating"]}));
    check_update(
        &RESOURCE_QUOTA,
        other,
        quota(json!({})),
        &["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"],
    );

    let limits = |item: Value| json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}});
    for (item, expected) in [
        (
            json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
        ),
        (
            json!({"type": "Pod", "default": {"cpu": "2"}}),
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ),
        (
            json!({"type": "PersistentVolumeClaim"}),
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
        ),
        (
            json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
        ),
    ] {
        let errors: Vec<_> =
            (LIMIT_RANGE.validate)(&limits(item)).iter().map(ToString::to_string).collect();
        assert_eq!(errors, [expected]);
    }
    let mut item = limits(
        json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m", "memory": "1Mi"}}),
    );
    (LIMIT_RANGE.default)(&mut item);
    let item = &item["spec"]["limits"][0];
    assert_eq!(item["default"], json!({"cpu": "1"}));
    assert_eq!(item["defaultRequest"], json!({"cpu": "1", "memory": "1Mi"}));
}
