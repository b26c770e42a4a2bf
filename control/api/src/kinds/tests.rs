//! What holds for every kind, and tables for the small ones.

mod access;
mod cluster;
mod ingress;

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
