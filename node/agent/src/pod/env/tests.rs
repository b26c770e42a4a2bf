use super::*;
use crate::pod::spec::container;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}},
        "spec": spec,
    }))
    .unwrap()
}

#[test]
fn environments_come_from_every_source_in_order() {
    let pod = pod(json!({"nodeName": "n1", "containers": [{
        "name": "c",
        "command": ["run", "$(MODE)", "$$(MODE)", "$(NONE)"],
        "args": ["$"],
        "resources": {"limits": {"memory": "64Mi", "cpu": "1500m"}},
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "mode"}}},
            {"name": "URL", "value": "http://$(P_mode)/$(MODE)"},
            {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pass"}}},
            {"name": "SKIPPED", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ],
    }]}));
    let map = serde_json::from_value(json!({"data": {"mode": "fast"}})).unwrap();
    let secret = serde_json::from_value(json!({"data": {"pass": "aHVudGVy"}})).unwrap();
    let sources = Sources {
        config_maps: [("m".to_owned(), map)].into(),
        secrets: [("s".to_owned(), secret)].into(),
    };
    let facts = NodeFacts { pod_ip: "10.1.0.9".into(), ..NodeFacts::default() };
    let container = container(&pod, "c").unwrap();
    let env = environment(&pod, container, &sources, &facts).unwrap();
    let expected = [
        ("HOSTNAME", "web-1"),
        ("P_mode", "fast"),
        ("MODE", "fast"),
        ("URL", "http://fast/fast"),
        ("PASS", "hunter"),
        ("POD", "web-1"),
        ("APP", "web"),
        ("IP", "10.1.0.9"),
        ("MEM", "64"),
        ("CPU", "2"),
    ];
    let expected: Vec<_> = expected.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    assert_eq!(env, expected);
    assert_eq!(arguments(container, &env, "x"), ["run", "fast", "$(MODE)", "$(NONE)", "$"]);
}

#[test]
fn what_an_environment_lacks_is_named() {
    for (from, message) in [
        (json!({"configMapKeyRef": {"name": "m", "key": "k"}}), "configmap \"m\" not found"),
        (
            json!({"secretKeyRef": {"name": "s", "key": "k"}}),
            "couldn't find key k in Secret shop/s",
        ),
        (
            json!({"fieldRef": {"fieldPath": "status.phase"}}),
            "environment variable A: unsupported fieldPath \"status.phase\"",
        ),
    ] {
        let pod =
            pod(json!({"containers": [{"name": "c", "env": [{"name": "A", "valueFrom": from}]}]}));
        let sources =
            Sources { secrets: [("s".to_owned(), Secret::default())].into(), ..Sources::default() };
        let container = container(&pod, "c").unwrap();
        let error = environment(&pod, container, &sources, &NodeFacts::default()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
